"""What a notebook shows of objects, and what functions take as their images and files."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from making import clusters, write_descriptors
from PIL import Image

import vggfeat
from vggfeat.classifiers.model_file import read_model
from vggfeat.datasets import Sample, load_dataset
from vggfeat.datasets.folder import as_dataset
from vggfeat.datasets.split import TrainingSet
from vggfeat.errors import ModelError, UsageError
from vggfeat.inference.prediction import Prediction
from vggfeat.inference.settings import scales_of_nets
from vggfeat.results import Result
from vggfeat.stages.similar import Query

NET = {"net": "A", "weights": None, "width": 1 / 32, "device": "cpu"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset, values = clusters([40] * 30)
    write_descriptors(tmp_path / "d.h5", dataset, values)
    return tmp_path


def test_objects_are_shown_in_a_line(folder):
    assert repr(vggfeat.read_descriptors("d.h5")) == "<Descriptors d.h5: 1200 x 12, folder, net D (oxford)>"
    net = vggfeat.load_net("A", None, width=1 / 32, num_classes=7, device="cpu")
    assert repr(net) == "<VGG A, width 1/32, random weights, 7 classes>"
    assert repr(vggfeat.VGGFeatures(net)) == f"VGGFeatures(net={net!r})"
    result = vggfeat.svm("d.h5", C=1, output="m.h5")
    shown = repr(result)
    assert len(shown) < 400
    assert shown.startswith("SVMResult(dataset='folder', measure='mean_class_recall', mean=")
    assert "per_class=<30>" in shown
    assert re.fullmatch(r"SplitResult\(seed=0, .*\)", repr(result.splits[0]))
    assert repr(read_model("m.h5")) == "<Model: 30 classes, 12 features>"


def test_a_data_set_is_shown_in_a_line(photos):
    (photos / "cats").mkdir()
    (photos / "0.jpg").rename(photos / "cats" / "0.jpg")
    assert repr(load_dataset("folder", photos)).startswith("<Dataset folder: ")


def test_every_result_is_shown_in_short():
    def below(cls):
        return {cls, *(found for sub in cls.__subclasses__() for found in below(sub))}

    import vggfeat.stages.evaluate
    import vggfeat.stages.localise
    import vggfeat.stages.train

    assert len(below(Result)) > 4
    assert {cls.__repr__ for cls in below(Result) - {Result}} == {vggfeat.results.short_repr}


def test_one_scale_and_one_path_are_enough(photos, tmp_path):
    first = sorted(photos.glob("*.jpg"))[0]
    one = vggfeat.extract(first, scales=224, output=tmp_path / "a.h5", **NET)
    several = vggfeat.extract([str(first)], scales=(224,), output=tmp_path / "b.h5", **NET)
    assert np.array_equal(vggfeat.read_descriptors(one).read(), vggfeat.read_descriptors(several).read())
    features = vggfeat.VGGFeatures(**NET, scales=224).fit_transform([first])
    assert np.allclose(features, vggfeat.read_descriptors(one).read(), atol=1e-6)
    assert [s.id for s in as_dataset(np.array([str(first)])).samples] == [str(first)]


@pytest.mark.parametrize(
    ("images", "name"),
    [
        (Image.new("RGB", (40, 50)), "Image"),
        ([Image.new("RGB", (40, 50))], "Image"),
        (np.zeros((2, 40, 50, 3), np.uint8), "ndarray"),
        (torch.zeros(2, 3, 40, 50), "Tensor"),
        (7, "int"),
    ],
)
def test_pictures_in_memory_have_no_id_and_the_error_says_what_takes_them(images, name, tmp_path):
    text = (
        f"{name} is not a path: images are paths of files, folders or tar files; "
        "vggfeat.VGGFeatures describes pictures in memory"
    )
    with pytest.raises(UsageError) as caught:
        vggfeat.extract(images, output=tmp_path / "x.h5", **NET)
    assert str(caught.value) == text
    assert not (tmp_path / "x.h5").exists()


def test_a_table_is_told_to_pass_its_column():
    class Frame:
        columns = ("path",)

    for function in (as_dataset, vggfeat.VGGFeatures(**NET).transform):
        with pytest.raises(UsageError, match=re.escape("pass its column of paths, such as table['path']")):
            function(Frame())


def test_predict_takes_paths(photos, tmp_path):
    labelled = tmp_path / "own"
    for k, path in enumerate(sorted(photos.glob("*.jpg")) * 2):
        target = labelled / "ab"[k % 2] / f"{k}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    made = vggfeat.extract(load_dataset("folder", labelled), scales=224, output=tmp_path / "d.h5", **NET)
    vggfeat.svm(made, C=1, output=tmp_path / "m.h5")
    path = str(labelled / "a" / "0.jpg")
    predictions = vggfeat.predict(tmp_path / "m.h5", path)
    assert repr(predictions) == "<Predictions by m.h5, images: 1; loop over them, or take list(..)>"
    ((prediction, names),) = predictions
    assert (prediction.id, names) == (path, ("a", "b"))
    assert list(predictions) == [], "an iterator gives each once"
    assert Path(made).exists()


def test_predict_fails_where_it_is_called_not_where_it_is_looped_over(photos, tmp_path):
    with pytest.raises(ModelError, match=r"none\.h5: no such file"):
        vggfeat.predict(tmp_path / "none.h5", photos)
    with pytest.raises(UsageError, match="no images to predict"):
        vggfeat.predict(tmp_path / "none.h5", [])


def test_similar_takes_one_picture_by_its_path(photos, tmp_path):
    made = vggfeat.extract(photos, scales=224, output=tmp_path / "d.h5", **NET)
    found = vggfeat.similar(made, photos / "3.jpg", count=1)
    (query,) = found.queries
    assert (query.id, query.matches[0][0]) == (str(photos / "3.jpg"),) * 2


class Terminal(io.StringIO):
    """Stderr with somebody before it."""

    def isatty(self) -> bool:
        return True


class OutStream(io.StringIO):
    """Stderr of a notebook's kernel, which is no terminal."""


OutStream.__module__ = "ipykernel.iostream"


def shown(monkeypatch, stream, function, *args, **options) -> str:
    """What a function writes to stderr, a bar appearing at once."""
    monkeypatch.setattr("vggfeat.system.bars.FIRST", 0.0)
    monkeypatch.setattr("vggfeat.system.bars.EVERY", 0.0)
    monkeypatch.setattr("sys.stderr", stream)
    function(*args, **options)
    return stream.getvalue()


@pytest.mark.parametrize("stream", [Terminal, OutStream])
def test_a_bar_is_shown_and_cleared_where_somebody_watches(stream, folder, monkeypatch):
    text = shown(monkeypatch, stream(), vggfeat.svm, "d.h5", C=1)
    assert "\rsvm: 0/96 steps, 0.0/s" in text
    assert re.search(r"\rsvm: 95/96 steps, [\d.]+/s, 0:0\d left", text)
    assert text.endswith(" \r"), "an empty line is left"
    assert not text.replace("\r", "").split("left")[-1].strip(), "nothing is left of the last bar"


@pytest.mark.parametrize(("stream", "progress"), [(io.StringIO, True), (Terminal, False), (Terminal, None)])
def test_no_bar_in_a_file_or_if_it_is_not_wanted(stream, progress, folder, monkeypatch):
    assert shown(monkeypatch, stream(), vggfeat.svm, "d.h5", C=1, progress=progress) == ""


def test_a_function_in_place_of_the_bar_is_called(folder, monkeypatch):
    heard = []
    told = lambda *step: heard.append(step)  # noqa: E731
    assert shown(monkeypatch, Terminal(), vggfeat.svm, "d.h5", C=1, progress=told) == ""
    assert heard[-1] == (96, 96, 0)


def test_every_function_that_takes_long_has_a_bar(photos, folder, monkeypatch):
    """Each by its own name; a generator's bar is cleared before every value, which the caller may print."""
    labelled = folder / "own"
    for k, path in enumerate(sorted(photos.glob("*.jpg")) * 5):
        target = labelled / "ab"[k % 2] / f"{k}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    see = lambda function, *args, **options: shown(monkeypatch, Terminal(), function, *args, **options)  # noqa: E731
    assert "\rextract: 16/30 images" in see(vggfeat.extract, labelled, scales=224, output="own.h5", **NET)
    vggfeat.svm("own.h5", C=1, output="m.h5", progress=False)
    screen = Terminal()

    def loop() -> None:
        for prediction, _ in vggfeat.predict("m.h5", labelled):
            screen.write(f"{prediction.id}\n")

    lines = see_lines(shown(monkeypatch, screen, loop))
    assert [line for line in lines if line] == [str(labelled / s.id) for s in load_dataset("folder", labelled).samples]
    assert "\rpredict: 1/30 images" in screen.getvalue()
    assert "\rVGGFeatures: 16/30 images" in see(
        vggfeat.VGGFeatures(**NET, scales=224).fit_transform, [str(labelled / "a" / "0.jpg")] * 30
    )
    small = {"net": "A", "width": 1 / 32, "data.dataset": "folder", "schedule.epochs": 1, "sgd.batch_size": 4}
    text = see(vggfeat.train, small, labelled, output="n.pt", device="cpu")
    assert re.search(r"\repoch 1/1, loss [\d.]+: \d/7 updates", text)
    assert re.search(r"^epoch 1/1: training loss .*, top-1 error [\d.]+ % \(best\)$", text.replace("\r", "\n"), re.M)


def see_lines(text: str) -> list[str]:
    """The lines as they stand on a terminal: what follows a carriage return is written over what was there."""
    lines = []
    for line in text.split("\n"):
        cells = ""
        for part in line.split("\r"):
            cells = part + cells[len(part) :]
        lines.append(cells.rstrip())
    return lines


@pytest.mark.parametrize(
    ("recipe", "dataset", "text"),
    [
        ("A", "own", "'A' is a net, not a recipe: give {'net': 'A'}"),
        (7, "own", "int is not a recipe: give a recipe file, or keys such as {'net': 'A'}"),
        ({}, 7, "int is not a training set: give the folder of the images, whose classes are its folders"),
    ],
)
def test_what_train_cannot_take_is_told_what_to_pass(recipe, dataset, text):
    with pytest.raises(UsageError) as caught:
        vggfeat.train(recipe, dataset)
    assert str(caught.value) == text


def test_one_scale_is_enough_for_svm_and_localise_too(tmp_path):
    dataset, values = clusters([8, 8])
    both = np.repeat(values, 2, axis=1)
    path = write_descriptors(tmp_path / "d.h5", dataset, both, keep_scales=True)
    assert vggfeat.svm(path, C=1, scales=256)["splits"] and scales_of_nets(256, 2) == [(256,), (256,)]
    assert scales_of_nets([256, (256, 384)], 2) == [(256,), (256, 384)]
    for call in (lambda: vggfeat.svm(path, C=1, scales="256"), lambda: scales_of_nets("256", 1)):
        with pytest.raises(UsageError, match=r"^scales '256': give whole numbers of pixels, such as 256 or \("):
            call()


def test_svm_takes_what_read_descriptors_gave_and_tells_arrays_where_to_go(folder):
    opened = vggfeat.read_descriptors("d.h5")
    assert vggfeat.svm(opened, C=1).mean == vggfeat.svm("d.h5", C=1).mean
    for arrays in (opened.read(), [opened.read()]):
        with pytest.raises(UsageError) as caught:
            vggfeat.svm(arrays)
        assert str(caught.value) == (
            "svm takes descriptor files; vggfeat.LinearSVM fits arrays: LinearSVM(C=1.0).fit(X, y)"
        )


@pytest.mark.parametrize("scales", ["256", (256, "384"), 256.0, [256.5]])
def test_scales_that_are_no_whole_numbers_are_told_what_to_pass(scales, photos, tmp_path):
    with pytest.raises(UsageError) as caught:
        vggfeat.extract(photos, scales=scales, output=tmp_path / "d.h5", **NET)
    assert str(caught.value) == f"scales {scales!r}: give whole numbers of pixels, such as 256 or (256, 384, 512)"


def test_a_training_set_is_counted_not_listed(photos):
    samples = tuple(Sample(f"{i}.jpg", str(photos / f"{i}.jpg"), i % 2) for i in range(4))
    made = TrainingSet("folder", samples[:3], samples[3:], ("a", "b"), exif=True, held_out=True)
    assert repr(made) == "<TrainingSet folder: 3 images to train on, 1 to validate with, 2 classes>"


def test_long_parts_of_predictions_and_neighbours_are_counted():
    assert repr(Prediction("a.jpg", np.zeros(1000, np.float32))) == "Prediction(id='a.jpg', scores=<1000>, error='')"
    assert repr(Query("a.jpg", (("b.jpg", 0.5),) * 10)) == "Query(id='a.jpg', matches=<10>, error='')"
