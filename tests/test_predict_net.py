"""New images through a trained net: probabilities, in the form of a fitted model's scores."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vggfeat.cli import run
from vggfeat.datasets.images import decode, rescale
from vggfeat.datasets.listing import from_paths
from vggfeat.errors import ModelError, UsageError, WeightsError
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.nets.scaling import InputScaling
from vggfeat.nets.weights import load_net
from vggfeat.stages.predict import predict

NAMES = ("cat", "dog", "owl")


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i, size in enumerate(((300, 240), (200, 400), (64, 64))):
        small = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(small).resize(size).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


def saved(path, *, classes=3, names=NAMES, recipe=None):
    net = glorot_(VGG("A", width=1 / 16, num_classes=classes, class_names=names), seed=3)
    net.training_record = {"recipe": recipe} if recipe else {}
    return str(net.save(path))


def expected(path, photo, Q):
    """Soft-max of the mean class scores over the whole image, averaged with the mirror image's (Sect. 3.2)."""
    net = load_net(None, path, device="cpu", precision="fp32")
    pixels = torch.from_numpy(rescale(decode(photo), Q).copy())
    inputs = InputScaling(net.preprocessing)(pixels).permute(2, 0, 1)[None]
    with torch.no_grad():
        return np.mean([net.dense(x, "scores").mean((1, 2)).softmax(1)[0] for x in (inputs, inputs.flip(3))], axis=0)


@pytest.mark.parametrize(("S", "Q"), [([256, 256], 256), ([224, 288], 256), (None, 256), ([300, 300], 300)])
def test_probabilities_are_those_of_the_dense_net_at_its_training_scale(photos, tmp_path, S, Q):
    path = saved(tmp_path / "net.pt", recipe={"augment": {"S": S}} if S else None)
    for one, names in predict(path, pictures(photos), device="cpu", precision="fp32", workers=1):
        assert names == NAMES
        assert one.scores == pytest.approx(expected(path, one.id, Q), abs=1e-5)
        assert one.scores.sum() == pytest.approx(1.0)


def pictures(folder):
    return from_paths([str(path) for path in sorted(folder.iterdir())])


def test_the_command_prints_the_same_form_as_with_a_model(photos, tmp_path, capsys):
    path = saved(tmp_path / "net.pt")
    (photos / "3.png").write_bytes(b"")
    assert run(["predict", path, str(photos), "--device", "cpu"]) == 3
    captured = capsys.readouterr()
    lines = [line.split("\t") for line in captured.out.splitlines()]
    assert [Path(line[0]).name for line in lines] == ["0.png", "1.png", "2.png"]
    assert all(line[1] in NAMES and 1 / 3 <= float(line[2]) <= 1 for line in lines)
    assert "1 of 4 images skipped" in captured.err
    assert run(["predict", path, str(photos), "--device", "cpu", "--json", "--all"]) == 3
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"model", "score_kind", "images"}
    first, last = result["images"][0], result["images"][-1]
    assert [set(entry) for entry in first["classes"]] == [{"class", "score"}] * 3
    assert sum(entry["score"] for entry in first["classes"]) == pytest.approx(1.0, abs=1e-4)
    assert last["error"] == "empty file"


def test_a_net_takes_the_options_of_a_model_and_prints_the_same_columns(photos, tmp_path, capsys):
    path = saved(tmp_path / "net.pt")
    command = ["predict", path, str(photos), "--device", "cpu", "--header", "-k", "2"]
    assert run(command) == 0
    out = capsys.readouterr().out
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == ["id", "class", "probability"]
    assert [Path(line[0]).name for line in lines[1:]] == ["0.png", "0.png", "1.png", "1.png", "2.png", "2.png"]
    assert run([*command, "--probabilities"]) == 0
    assert capsys.readouterr().out == out


def test_a_net_that_does_not_name_its_classes_gives_their_numbers(photos, tmp_path):
    (first, names), *_ = predict(saved(tmp_path / "net.pt", classes=12, names=()), pictures(photos), device="cpu")
    assert names == tuple(map(str, range(12)))
    assert first.best(names)[0][0] == str(int(first.scores.argmax()))


def test_nets_that_cannot_classify_are_refused(photos, tmp_path):
    boxes = saved(tmp_path / "boxes.pt", recipe={"task": "localise", "augment": {"S": [256, 256]}})
    with pytest.raises(
        ModelError, match=r"boxes\.pt: this net predicts boxes, not classes: give a net trained with `ta"
    ):
        next(predict(boxes, pictures(photos), device="cpu"))
    trunk = str(VGG("A", width=1 / 16, top=False).save(tmp_path / "trunk.pt"))
    with pytest.raises(UsageError, match=r"^trunk\.pt has no fully-connected layers, so it scores no classes"):
        next(predict(trunk, pictures(photos), device="cpu"))
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(WeightsError, match=r"broken\.pt: no readable torch file"):
        next(predict(tmp_path / "broken.pt", pictures(photos), device="cpu"))


@pytest.mark.parametrize(("flag", "value"), [("--weights", "oxford"), ("--seed", "1")])
def test_options_of_models_are_refused_for_a_net(photos, tmp_path, capsys, flag, value):
    path = saved(tmp_path / "net.pt")
    assert run(["predict", path, str(photos), flag, value]) == 2
    assert capsys.readouterr().err == (
        f"vggfeat: {flag} goes with a fitted model; {path} is a net, which has its weights\n"
    )


def test_a_net_file_that_does_not_tell_its_preprocessing_takes_it(photos, tmp_path, capsys):
    from weights_forms import mcn, random_state

    path = str(mcn(tmp_path, "A", random_state("A", width=1 / 16, classes=3)))
    assert run(["predict", path, str(photos), "--device", "cpu"]) == 1
    assert "which input it expects; say it with --preprocessing: oxford (BGR" in capsys.readouterr().err
    assert run(["predict", path, str(photos), "--device", "cpu", "--preprocessing", "oxford", "--json", "--all"]) == 0
    net = load_net(None, path, device="cpu", preprocessing="oxford")
    same = str(net.save(tmp_path / "same.pt"))
    said = json.loads(capsys.readouterr().out)["images"]
    assert run(["predict", same, str(photos), "--device", "cpu", "--json", "--all"]) == 0
    assert said == json.loads(capsys.readouterr().out)["images"]
    assert run(["predict", path, str(photos), "--device", "cpu", "--preprocessing", "oxfrod"]) == 2
    assert "no preprocessing 'oxfrod'" in capsys.readouterr().err


def test_a_missing_file_is_named(photos, tmp_path, capsys):
    assert run(["predict", str(tmp_path / "gone.pt"), str(photos)]) == 1
    assert capsys.readouterr().err == f"vggfeat: {tmp_path}/gone.pt: no such file\n"


def test_help_tells_the_defaults_of_a_net_which_has_no_descriptors_to_follow(capsys):
    assert run(["predict", "--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "[default: as the descriptors were made; for a net, auto]" in words
    assert "[default: as the descriptors were made; for a net, on for your own pictures]" in words
    assert run(["similar", "--help"]) == 0
    assert "for a net" not in " ".join(capsys.readouterr().out.split())
