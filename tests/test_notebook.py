"""What a notebook shows of objects, and what functions take as their images and files."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from making import clusters, write_descriptors
from PIL import Image

import vggfeat
from vggfeat.classifiers.model_file import read_model
from vggfeat.datasets import load_dataset
from vggfeat.datasets.folder import as_dataset
from vggfeat.errors import UsageError
from vggfeat.results import Result

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
    ((prediction, names),) = vggfeat.predict(tmp_path / "m.h5", path)
    assert (prediction.id, names) == (path, ("a", "b"))
    assert Path(made).exists()
