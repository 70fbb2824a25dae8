"""New images through a fitted model: the same descriptors, the same scores."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from making import clusters, settings, write_descriptors
from PIL import Image

from vggfeat.classifiers.model_file import Model, read_model, write_model
from vggfeat.classifiers.protocols.fusion import open_features
from vggfeat.cli import run
from vggfeat.cli.console import print_json, print_rows
from vggfeat.datasets import Dataset, load_dataset
from vggfeat.errors import ModelError, UsageError
from vggfeat.inference.prediction import Prediction
from vggfeat.inference.recorded import recorded_extractors
from vggfeat.inference.settings import Overrides
from vggfeat.nets.networks import VGG
from vggfeat.nets.weights import load_net
from vggfeat.stages.extract import extract
from vggfeat.stages.predict import Predictor, predict
from vggfeat.stages.svm import svm

NARROW = 1 / 32


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two classes of small pictures, two nets' descriptors of them (one of a checkpoint), and a model on both."""
    root = tmp_path_factory.mktemp("predict")
    rng = np.random.default_rng(0)
    for name, size in (("coarse", 3), ("fine", 24)):
        (root / "tree" / name).mkdir(parents=True)
        for i in range(4):
            small = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(small).resize((60, 45)).save(root / "tree" / name / f"{i}.png")
    dataset = load_dataset("folder", root / "tree")
    checkpoint = net("B", seed=3).save(root / "b.pt")
    common: dict[str, Any] = {"scales": (224, 256), "precision": "fp32", "device": "cpu", "workers": 1}
    a = extract(dataset, net="A", weights=None, width=NARROW, aggregate="average", output=root / "a.h5", **common)
    b = extract(dataset, weights=str(checkpoint), flip=False, output=root / "b.h5", **common)
    svm([a, b], C=1.0, output=root / "model.h5")
    return SimpleNamespace(root=root, dataset=dataset, files=[a, b], model=root / "model.h5", checkpoint=checkpoint)


def net(name: str, seed: int = 0) -> VGG:
    return load_net(name, None, width=NARROW, seed=seed, device="cpu", precision="fp32")


def predictor(made: SimpleNamespace, model: Path | None = None, **options: Any) -> Predictor:
    probabilities = options.pop("probabilities", False)
    options.setdefault("weights", ["none", str(made.checkpoint)])
    overrides = Overrides(device="cpu", workers=1, **options)
    return Predictor(model or made.model, probabilities=probabilities, overrides=overrides)


def test_images_get_the_scores_of_their_own_descriptors(made: SimpleNamespace) -> None:
    predictions = list(predictor(made).predict(made.dataset.samples))
    features = open_features(made.files)
    expected = read_model(made.model).scores(features.read(np.arange(8)))
    assert [p.id for p in predictions] == features.ids
    assert np.stack([p.scores for p in predictions]) == pytest.approx(expected, abs=1e-5)  # type: ignore[arg-type]
    name, score = predictions[0].best(("coarse", "fine"))[0]
    assert (name, score) == (("coarse", "fine")[expected[0].argmax()], pytest.approx(expected[0].max(), abs=1e-5))


def test_the_command_prints_a_line_an_image_and_skips_what_is_none(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(made.root / "tree" / "fine" / "0.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    listed = b"first\t" + os.fsencode(made.root / "tree" / "coarse" / "0.png") + b"\ncaf\xe9.png\nbroken.jpg\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(listed), closed=False, fileno=lambda: -1))
    command = ["predict", str(made.model), "-", "--weights", "none", "--weights", str(made.checkpoint)]
    assert run(command) == 3
    out, err = capfdbinary.readouterr()
    lines = [line.split(b"\t") for line in out.splitlines()]
    assert [line[0] for line in lines] == [b"first", b"caf\xe9.png"]
    assert all(line[1] in (b"coarse", b"fine") and float(line[2]) for line in lines)
    assert b"skipped broken.jpg: " in err
    assert b"1 of 3 images skipped" in err


def test_json_and_all_classes(made: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    image = str(made.root / "tree" / "coarse" / "1.png")
    command = ["predict", str(made.model), image, "--weights", "none", "--weights", str(made.checkpoint), "--all"]
    assert run(command) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert {line[1] for line in lines} == {"coarse", "fine"}
    assert float(lines[0][2]) >= float(lines[1][2])
    assert run([*command, "--json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    [entry] = json.loads(out)["images"]
    assert (entry["id"], err) == (image, "")
    assert [(c["class"], pytest.approx(c["score"], rel=1e-5)) for c in entry["classes"]] == [
        (line[1], float(line[2])) for line in lines
    ]


def test_other_weights_than_the_recorded_ones_are_refused(made: SimpleNamespace, tmp_path: Path) -> None:
    other = net("B", seed=4).save(tmp_path / "other.pt")
    digest = read_model(made.model).inputs[1]["nets"][0]["weights_sha256"]
    with pytest.raises(ModelError) as caught:
        predictor(made, weights=["none", str(other)])
    assert str(caught.value).startswith(f"{made.model} was made with weights b.pt of sha256 {digest}, these are ")
    assert str(caught.value).endswith(f": give the file with `weights` in place of {other}")
    with pytest.raises(ModelError) as caught:
        predictor(made, weights=["none", "none"])
    assert str(caught.value).endswith(": give the file with `weights` in place of none")
    with pytest.raises(ModelError, match=r"give the `seed` of the extraction$"):
        predictor(made, seed=1)
    with pytest.raises(UsageError, match=f"`seed` goes with random weights; those that {made.model} records are not"):
        predictor(made, weights=[str(made.checkpoint), str(made.checkpoint)], seed=1)
    with pytest.raises(UsageError) as wrong:
        predictor(made, weights=["none"])
    assert str(wrong.value) == f"{made.model} needs the weights of 2 nets, 1 is given; its nets: A (none), B (b.pt)"


@pytest.mark.parametrize("kind", [str, Path])
def test_one_file_of_weights_need_not_stand_in_a_list(made: SimpleNamespace, tmp_path: Path, kind: type) -> None:
    model = tmp_path / "b-model.h5"
    svm([made.files[1]], C=1.0, output=model)
    alone, listed = (
        [one.scores.tolist() for one, _ in predict(model, made.dataset, weights=weights, device="cpu")]
        for weights in (kind(made.checkpoint), [str(made.checkpoint)])
    )
    assert alone == listed


def test_weights_for_a_net_with_random_ones_are_told_to_be_left_out(made: SimpleNamespace, caplog) -> None:
    with pytest.raises(ModelError) as caught:
        predictor(made, weights=[str(made.checkpoint), str(made.checkpoint)])
    random = f"{made.model} was made with random weights of net A, not with {made.checkpoint}: "
    assert str(caught.value) == f"{random}give `weights=none` for this net"
    one = read_model(made.model).inputs[:1]
    with pytest.raises(ModelError) as caught:
        recorded_extractors(made.model, one, dataset="folder", overrides=Overrides(weights=[str(made.checkpoint)]))
    assert str(caught.value) == f"{random}leave `weights` out"
    assert caplog.text == ""


def test_weights_are_read_where_they_were_and_asked_for_where_they_are_gone(made: SimpleNamespace) -> None:
    samples = made.dataset.samples[:2]
    expected = [one.scores.tolist() for one in predictor(made).predict(samples)]
    assert [
        one.scores.tolist() for one in Predictor(made.model, overrides=Overrides(device="cpu")).predict(samples)
    ] == expected
    gone = made.checkpoint.rename(made.root / "elsewhere.pt")
    try:
        with pytest.raises(ModelError) as caught:
            Predictor(made.model, overrides=Overrides(device="cpu"))
    finally:
        gone.rename(made.checkpoint)
    assert str(caught.value) == f"{made.model} needs the weights b.pt of net B: give the file with `weights`"
    made.checkpoint.rename(gone)
    net("B", seed=4).save(made.checkpoint)
    try:
        with pytest.raises(
            ModelError, match=r"was made with weights b\.pt of sha256 .*: give the file with `weights`$"
        ):
            Predictor(made.model, overrides=Overrides(device="cpu"))
    finally:
        gone.rename(made.checkpoint)


def test_a_model_of_persons_boxes_needs_images_with_boxes(made: SimpleNamespace, tmp_path: Path) -> None:
    boxed = Dataset(
        "folder",
        tuple(replace(s, box=(0.0, 0.0, 30.0, 30.0)) for s in made.dataset.samples),
        made.dataset.class_names,
        exif=True,
    )
    file = extract(
        boxed,
        net="A",
        weights=None,
        width=NARROW,
        scales=(224,),
        region="both",
        output=tmp_path / "p.h5",
        precision="fp32",
        device="cpu",
        workers=1,
    )
    svm([file], C=1.0, output=tmp_path / "p-model.h5")
    scorer = predictor(made, tmp_path / "p-model.h5", weights=[])
    assert len(list(scorer.predict(boxed.samples[:2]))) == 2
    with pytest.raises(ModelError) as caught:
        list(scorer.predict(made.dataset.samples))
    assert str(caught.value) == (
        f"{tmp_path}/p-model.h5 was fitted on persons' boxes (`region=both`), which these images do not have: "
        "give `dataset=voc2012-action`, or fit on descriptors of `region=image`"
    )


def test_a_model_file_gives_back_what_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = Model(
        rng.random((2, 5), dtype=np.float32),
        rng.random(2, dtype=np.float32),
        np.array([1.0, 2.0]),
        ("a", "\udcff"),
        True,
        (settings(scales=[256]),),
        {"dataset": "folder", "mean": 0.5},
    )
    read = read_model(write_model(tmp_path / "m.h5", model))
    for name in ("coef", "intercept", "C"):
        assert np.array_equal(getattr(read, name), getattr(model, name))
    assert (read.class_names, read.multi_label, read.inputs, read.record) == (
        model.class_names,
        model.multi_label,
        model.inputs,
        model.record,
    )
    assert read.describe()["dim"] == 5
    X = rng.random((3, 5), dtype=np.float32)
    assert read.scores(X) == pytest.approx(X @ model.coef.T + model.intercept)
    with pytest.raises(ModelError, match="descriptors have 4 values, the model takes 5"):
        read.scores(X[:, :4])


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    dataset, values = clusters([10, 10])
    descriptors = write_descriptors(tmp_path / "d.h5", dataset, values)
    svm([descriptors], C=1, output=tmp_path / "m.h5")

    def refused(name: str, change: Any = None) -> str:
        path = tmp_path / name
        if change is not None:
            shutil.copy(tmp_path / "m.h5", path)
            with h5py.File(path, "r+") as file:
                change(file)
        with pytest.raises(ModelError) as caught:
            read_model(path)
        return str(caught.value).removeprefix(str(path))

    assert refused("d.h5") == " is not a model of vggfeat's"
    assert refused("none.h5") == ": no such file"
    (tmp_path / "text.h5").write_text("text")
    assert refused("text.h5") == " is not a model of vggfeat's (not HDF5)"
    newer = refused("newer.h5", lambda file: file.attrs.__setitem__("format_version", 9))
    assert newer == " has format version 9, this vggfeat reads up to 1: update it"
    assert refused("gone.h5", lambda file: file.__delitem__("coef")) == ": damaged model file (no 'coef')"

    def link(file: h5py.File) -> None:
        del file["coef"]
        file["coef"] = h5py.ExternalLink(str(descriptors), "descriptors")

    assert refused("link.h5", link) == ": damaged model file (no 'coef')"

    def shorten(file: h5py.File) -> None:
        del file["C"]
        file["C"] = np.ones(1)

    assert refused("short.h5", shorten) == ": damaged model file (2 classes, coefficients (2, 12))"
    half = (tmp_path / "m.h5").read_bytes()
    (tmp_path / "half.h5").write_bytes(half[: len(half) // 2])
    assert "damaged model file" in refused("half.h5")


def test_info_describes_a_model(made: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(made.model), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert (described["kind"], described["classes"], described["fitted_on"]) == ("model", 2, 8)
    assert [one["nets"][0]["net"] for one in described["inputs"]] == ["A", "B"]


def test_a_models_nets_have_their_preprocessing(made: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", str(made.model), str(made.root / "tree"), "--preprocessing", "oxford"]) == 2
    assert capsys.readouterr().err == (
        f"vggfeat: --preprocessing goes with a net; {made.model} is a fitted model, which records its nets'\n"
    )


@pytest.fixture(scope="module")
def calibrated(made: SimpleNamespace) -> Path:
    svm(made.files, C=1.0, output=made.root / "calibrated.h5", probabilities=True)
    return made.root / "calibrated.h5"


def weights(made: SimpleNamespace) -> list[str]:
    return ["--weights", "none", "--weights", str(made.checkpoint)]


def test_a_model_with_probabilities_gives_those_of_its_sigmoids(made: SimpleNamespace, calibrated: Path) -> None:
    model = read_model(calibrated)
    X = open_features(made.files).read(np.arange(8))
    assert model.sigmoids is not None
    each = 1 / (1 + np.exp(model.scores(X) * model.sigmoids[:, 0] + model.sigmoids[:, 1]))
    expected = each / each.sum(axis=1, keepdims=True)
    assert model.probabilities(X) == pytest.approx(expected, abs=1e-6)
    found = np.stack([p.scores for p in predictor(made, calibrated, probabilities=True).predict(made.dataset.samples)])
    assert found == pytest.approx(expected, abs=1e-5)
    assert found.sum(axis=1) == pytest.approx(np.ones(8))
    (first, names), *_ = predict(
        calibrated, made.dataset, probabilities=True, weights=["none", str(made.checkpoint)], device="cpu"
    )
    assert (first.scores, names) == (pytest.approx(expected[0], abs=1e-5), ("coarse", "fine"))
    plain = read_model(made.model)
    assert plain.sigmoids is None
    assert np.array_equal(plain.scores(X), model.scores(X))


def test_images_of_several_classes_have_a_probability_for_each_that_sum_to_anything(tmp_path: Path) -> None:
    record = {"dataset": "voc2007"}
    coef, sigmoids = np.eye(2, dtype=np.float32), np.array([[-1.0, 0.0], [-2.0, 0.5]])
    model = Model(coef, np.zeros(2, np.float32), np.ones(2), ("a", "b"), True, (settings(),), record, sigmoids)
    read = read_model(write_model(tmp_path / "m.h5", model))
    X = np.array([[3.0, 2.0]], dtype=np.float32)
    assert read.probabilities(X) == pytest.approx(1 / (1 + np.exp([[-3.0, -3.5]])))
    assert replace(read, multi_label=False).probabilities(X).sum() == pytest.approx(1)


def test_the_command_prints_probabilities_the_best_classes_and_a_header(
    made: SimpleNamespace, calibrated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [str(path) for path in sorted((made.root / "tree" / "fine").iterdir())]
    command = ["predict", str(calibrated), *images, *weights(made), "--probabilities", "--top", "2", "--header"]
    assert run(command) == 0
    header, *lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert header == ["id", "class", "probability"]
    assert [line[0] for line in lines] == [id for id in images for _ in range(2)]
    assert sum(float(line[2]) for line in lines[:2]) == pytest.approx(1, abs=1e-5)
    assert run(["predict", str(calibrated), images[0], *weights(made), "--header"]) == 0
    header, line = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert (header, len(line)) == (["id", "class", "score"], 3)
    assert run(["predict", str(calibrated), images[0], *weights(made), "--probabilities", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["score_kind"] == "probability"
    [[best]] = [entry["classes"] for entry in result["images"]]
    assert (best["class"], best["score"]) == (lines[0][1], pytest.approx(float(lines[0][2]), rel=1e-5))


def test_names_with_tabs_and_line_breaks_keep_a_line_of_three_cells(
    made: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / 'a\t"b"\n.png'
    shutil.copy(made.root / "tree" / "fine" / "0.png", odd)
    model = replace(read_model(made.model), class_names=("tab\there", '"quoted"'))
    write_model(tmp_path / "odd.h5", model)
    assert run(["predict", str(tmp_path / "odd.h5"), str(odd), *weights(made), "--all"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [len(line) for line in lines] == [3, 3]
    assert json.loads(lines[0][0]) == str(odd)
    assert {json.loads(line[1]) for line in lines} == {"tab\there", '"quoted"'}


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("a\x1b[31m.jpg", r'"a\u001b[31m.jpg"'),
        ("\x7f\x9b\u2028.jpg", r'"\u007f\u009b\u2028.jpg"'),
        ("caf\udce9\x00.jpg", '"caf\udce9\\u0000.jpg"'),
        ('quo"te.jpg', 'quo"te.jpg'),
        ('"quoted".jpg', r'"\"quoted\".jpg"'),
        ("caf\u00e9\u00a0\u200d.jpg", "caf\u00e9\u00a0\u200d.jpg"),
    ],
)
def test_control_characters_and_a_quote_at_the_beginning_make_a_json_string(
    name: str, cell: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    print_rows([(name, 1.5)])
    assert capfdbinary.readouterr().out == os.fsencode(f"{cell}\t1.5\n")
    print_json({"id": name})
    assert not set(capfdbinary.readouterr().out.decode()) & {"\x1b", "\x7f", "\x9b"}


def test_a_model_without_probabilities_says_how_to_make_them(
    made: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(made.model), str(made.root / "tree"), *weights(made), "--probabilities"]
    a, b = made.files
    assert run(command) == 1
    assert capsys.readouterr().err == (
        f"vggfeat: {made.model} gives no class probabilities, because it was fitted without --probabilities: make it "
        f"again with vggfeat svm {a} {b} --C 1.0 --probabilities -o {made.model}\n"
    )
    with pytest.raises(ModelError) as caught:
        predictor(made, probabilities=True)
    assert str(caught.value) == (
        f"{made.model} gives no class probabilities, because it was fitted without `probabilities`"
    )
    old = write_model(tmp_path / "old.h5", replace(read_model(made.model), record={}))
    with pytest.raises(ModelError, match="fitted without `probabilities`$") as caught:
        Predictor(old, probabilities=True)
    assert caught.value.advice == ""
    with pytest.raises(ModelError, match="^the model was fitted without `probabilities`$"):
        read_model(old).probabilities(np.zeros((1, 1), np.float32))


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--top", "2", "--all"], "--top and --all: choose one"),
        (["--header", "--json"], "--header describes columns, which --json does not have: leave one out"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(
    made: SimpleNamespace, flags: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", str(made.model), "x.png", *flags]) == 2
    assert capsys.readouterr().err == f"vggfeat: {text}\n"


@pytest.mark.parametrize("values", [np.zeros((3, 2)), np.full((2, 2), np.nan), "text"])
def test_damaged_sigmoids_are_refused(calibrated: Path, tmp_path: Path, values: Any) -> None:
    shutil.copy(calibrated, tmp_path / "damaged.h5")
    with h5py.File(tmp_path / "damaged.h5", "r+") as file:
        del file["sigmoids"]
        file["sigmoids"] = values
    with pytest.raises(ModelError, match=r"damaged\.h5: damaged model file \("):
        read_model(tmp_path / "damaged.h5")


def test_info_says_whether_a_model_gives_probabilities_and_repeats_its_command(
    made: SimpleNamespace, calibrated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["info", str(calibrated), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["probabilities"] is True
    assert described["C"] == 1.0
    assert described["command"].endswith(f" --C 1.0 --probabilities -o {calibrated}")
    assert run(["info", str(made.model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["probabilities"] is False


def test_many_failed_images_are_counted_and_the_rest_is_in_the_json(
    made: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(12):
        (tmp_path / f"{number:02}.png").write_bytes(b"no picture")
    assert run(["predict", str(made.model), str(tmp_path), *weights(made)]) == 3
    assert capsys.readouterr().err.endswith("12 of 12 images skipped (2 more with --json)\n")


def test_predictions_are_compared_and_hashed_by_identity() -> None:
    one, other = (Prediction("a", np.zeros(3, np.float32)) for _ in range(2))
    assert one == one != other
    assert len({one, other}) == 2


def test_a_number_of_best_classes_is_whole() -> None:
    with pytest.raises(UsageError) as caught:
        Prediction("a", np.zeros(3, np.float32)).best(("a", "b", "c"), 2.5)  # type: ignore[arg-type]
    assert str(caught.value) == "`count` 2.5 is not a whole number"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "`workers` 0 is not 1 or more"),
        ({"workers": -3}, "`workers` -3 is not 1 or more"),
        ({"progress": "x"}, "progress 'x' is not True, False or a function"),
        ({"progress": 3}, "progress 3 is not True, False or a function"),
    ],
)
def test_options_that_cannot_be_are_refused(made: SimpleNamespace, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        predict(made.model, made.root / "tree", **options)
    assert str(caught.value) == message
