"""`svm --by-layer`: the score of each layer by itself."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from making import commands_on
from PIL import Image

import vggfeat
from vggfeat.classifiers.model_file import read_model
from vggfeat.classifiers.protocols.rules import Rounds
from vggfeat.cli import run
from vggfeat.datasets.folder import load_folder
from vggfeat.errors import UsageError
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.stages.info import info
from vggfeat.stages.svm import svm
from vggfeat.store import reader, schema

LAYERS = ("conv1_1", "pool2", "pool5:max")
ROUNDS = Rounds(number=2, seed=0, test_fraction=0.25)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Noise in three textures; two nets' files of three layers."""
    folder = tmp_path_factory.mktemp("by_layer")
    rng = np.random.default_rng(5)
    for label, size in (("coarse", (6, 8)), ("fine", (24, 32)), ("finest", (60, 80))):
        (folder / "photos" / label).mkdir(parents=True)
        for i in range(8):
            values = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
            values.resize((80, 60)).save(folder / "photos" / label / f"{i}.png")
    files = []
    for seed, name in enumerate("AB"):
        net = glorot_(VGG(name, width=1 / 16), seed=seed).eval()
        files.append(
            vggfeat.extract(
                load_folder(folder / "photos"), net=net, layer=LAYERS, scales=224, output=folder / f"{name}.h5"
            )
        )
    return folder, files


@pytest.mark.parametrize("count", [1, 2])
def test_each_layers_score_is_that_of_its_own_run(made, count):
    _, files = made
    result = svm(files[:count], rounds=ROUNDS, by_layer=True)
    assert [one.layer for one in result.by_layer] == list(LAYERS)
    for one in result.by_layer:
        alone = svm(files[:count], rounds=ROUNDS, layer=one.layer)
        assert list(one.values) == [split.value for split in alone.splits]
        assert (one.mean, one.std) == (alone.mean, alone.std)
        assert one.dim == sum(vggfeat.read_descriptors(file).choose(one.layer).dim for file in files[:count])
    plain = svm(files[:count], rounds=ROUNDS)
    assert plain.mean == result.mean and plain.by_layer is None and "by_layer" not in plain.as_json()


def test_layers_chosen_in_opened_files_count_and_stand_in_the_command(made, tmp_path):
    _, files = made
    opened = [vggfeat.read_descriptors(file) for file in files]
    chosen = [one.choose(("pool2", "conv1_1")) for one in opened]
    named = svm(files, rounds=ROUNDS, layer=("pool2", "conv1_1"))
    assert svm(chosen, rounds=ROUNDS).as_json() | {"seconds": 0, "splits": 0} == named.as_json() | {
        "seconds": 0,
        "splits": 0,
    }
    assert [split.value for split in svm(chosen, rounds=ROUNDS).splits] == [split.value for split in named.splits]
    svm(chosen[0], rounds=ROUNDS, output=tmp_path / "m.h5")
    assert " --layer pool2 --layer conv1_1 " in read_model(tmp_path / "m.h5").record["command"]
    with pytest.raises(UsageError) as error:
        svm([chosen[0], opened[1]], rounds=ROUNDS)
    assert str(error.value) == "layers were chosen in some of the opened files alone: name them by `layer`"


def test_chosen_layers_alone_are_scored(made):
    _, files = made
    heard = []
    options = {"layer": ("pool5:max", "conv1_1"), "by_layer": True, "progress": lambda *step: heard.append(step)}
    result = svm(files[0], rounds=ROUNDS, **options)
    assert heard[-1][0] == heard[-1][1], "progress ends at its total"
    assert [one.layer for one in result.by_layer] == ["pool5:max", "conv1_1"]


@pytest.mark.parametrize("layer", ["pool2", ("pool2",)])
def test_one_layer_is_nothing_to_compare(made, layer):
    _, files = made
    with pytest.raises(UsageError) as caught:
        svm(files[0], rounds=ROUNDS, layer=layer, by_layer=True)
    assert str(caught.value) == (
        f"{files[0]} has the layer pool2 alone: `by_layer` compares several, which one extraction gives (`layer`)"
    )


def test_the_command_prints_a_table_json_and_a_page(made, tmp_path, capsys):
    _, files = made
    flags = ["--num-splits", "2", "--by-layer", "--report", str(tmp_path / "page"), "--json"]
    assert run(["svm", str(files[0]), *flags]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)["by_layer"]
    assert [one["layer"] for one in told] == list(LAYERS)
    assert [one["dim"] for one in told] == [4, 8, 32]
    row = next(line.split() for line in err.splitlines() if line.strip().startswith("pool2"))
    assert row == ["pool2", "8", f"{100 * told[1]['mean']:.1f}", f"{100 * told[1]['std']:.1f}"]
    page = (tmp_path / "page" / "index.html").read_text()
    assert "Each layer by itself, C chosen anew" in page and "--by-layer" in page
    assert (tmp_path / "page" / "layers.svg").exists()
    assert run(["svm", str(files[0]), "--layer", "pool2", "--by-layer"]) == 2
    assert "pool2 alone: --by-layer compares several, which one extraction gives (--layer)" in capsys.readouterr().err


def test_the_pages_command_keeps_a_file_that_holds_more_layers_than_were_chosen(made, tmp_path, monkeypatch):
    """It names all of them: with the chosen one alone `--resume` would refuse the file."""
    folder, _ = made
    monkeypatch.chdir(tmp_path)
    flags = ["--net", "A", "--weights", "none", "--width", "0.0625", "--scales", "224", "--precision", "fp32"]
    layers = [word for layer in LAYERS for word in ("--layer", layer)]
    data = str(folder / "photos")
    assert run(["extract", "--dataset", "folder", "--data", data, *flags, *layers, "-o", "x.h5", "--quiet"]) == 0
    before = Path("x.h5").read_bytes()
    chosen = ["--layer", "pool2", "--layer", "conv1_1", "--num-splits", "2", "-o", "m.h5"]
    assert run(["svm", "x.h5", *chosen, "--C", "1", "--report", "page", "--data", data, "--quiet"]) == 0
    page = Path("page/index.html").read_text(encoding="utf-8")
    assert "Images of each part, the C given, and the score on the test part" in page
    lines = commands_on(page)
    assert [shlex.split(line)[1] for line in lines] == ["extract", "svm"]
    assert " ".join(layers) in lines[0] and lines[0].endswith("--resume")
    assert "--layer pool2 --layer conv1_1" in lines[1]
    for line in lines:
        assert run([*shlex.split(line)[1:], "--quiet"]) == 0
    assert Path("x.h5").read_bytes() == before
    record = read_model("m.h5")
    assert [one["layer"] for one in record.inputs] == ["pool2+conv1_1"], "what a prediction computes"
    assert " ".join(layers) in info("m.h5").command
    assert "made_by" not in record.describe()


def test_layers_that_were_chosen_are_known_without_reading_the_file_again(made, monkeypatch):
    _, files = made
    whole = vggfeat.read_descriptors(files[0])
    some = whole.choose(("pool2", "conv1_1"))
    assert (whole.chosen, some.chosen, some.choose("pool2").chosen) == ((), ("pool2", "conv1_1"), ("pool2",))
    assert whole.choose(LAYERS).chosen == (), "all of them in the file's order"
    assert some.made_by == whole.choose(LAYERS).made_by == whole.made_by == whole.attributes["settings"]
    opened = []
    monkeypatch.setattr(reader, "read_text", lambda data: opened.append(data.file.filename) or schema.read_text(data))
    svm(some, rounds=ROUNDS, C=1)
    assert len(opened) == 3, "ids, subsets and class names, each once"
