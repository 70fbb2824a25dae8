"""A checkpoint and a file of posteriors record how their data set was named, so that the commands of `info` repeat them."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from making import TINY_RECIPE, striped_tree

import vggfeat
from vggfeat.cli import run
from vggfeat.datasets.origin import Origin
from vggfeat.datasets.split import load_training_set
from vggfeat.stages.evaluate import evaluate
from vggfeat.stages.train import train
from vggfeat.store import read_descriptors
from vggfeat.store.naming import Naming

TRAIN = ["train", "--dataset", "folder", "--net", "A", "--width", "0.015625", "--S", "224", "--batch-size", "4"]
TRAIN += ["--precision", "fp32", "--device", "cpu", "--epochs", "1", "--quiet"]
NOTE = "does not record where its images were (an earlier version, or a program that read them itself): name their"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """`my photos`, three classes of five pictures, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return striped_tree(Path("my photos"))


def told(path, capsys):
    """What `info` tells of a file."""
    capsys.readouterr()
    assert run(["info", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def recorded(path):
    """The origin of its images that a checkpoint records."""
    return Naming.of(torch.load(path, weights_only=True)["training"]).origin


def test_a_checkpoints_command_trains_it_again_with_its_data(tree, capsys):
    assert run([*TRAIN, "--data", str(tree), "-o", "net.pt"]) == 0
    for name in ("net.pt", "net.last.pt"):
        info = told(name, capsys)
        assert info["command"].endswith("-o net.pt --data 'my photos' --resume"), name
        assert "notes" not in info
        assert "origin" not in info["training"], "the command shows it better"
    before = torch.load("net.pt", weights_only=True)
    for name in ("net.pt", "net.last.pt"):
        Path(name).unlink()
    assert run([*shlex.split(info["command"])[1:], "--quiet", "--device", "cpu"]) == 0
    again = torch.load("net.pt", weights_only=True)
    assert again["training"] == before["training"]
    assert all(torch.equal(again["state_dict"][name], value) for name, value in before["state_dict"].items())


def test_data_in_the_default_place_need_no_words(tree, capsys):
    tree.rename("data")
    assert run([*TRAIN, "-o", "run"]) == 0
    assert "--data" not in shlex.split(told("run/best.pt", capsys)["command"])
    assert recorded("run/best.pt") == Origin(data="data")


def test_a_run_goes_on_where_its_data_have_moved_and_records_the_new_place(tree, tmp_path):
    """The place of the images is no part of what a resumed run must share."""
    keys = {**TINY_RECIPE, "schedule.epochs": 1}
    train(keys, "my photos", output="run", device="cpu", progress=False)
    moved = shutil.move("my photos", "elsewhere")
    kept = torch.load("run/last.pt", weights_only=True)["state_dict"]
    again = train({**keys, "schedule.epochs": 2}, moved, output="run", resume=True, device="cpu", progress=False)
    assert (again.epoch, recorded("run/last.pt")) == (2, Origin(data="elsewhere"))
    whole = train({**keys, "schedule.epochs": 2}, moved, output="whole", device="cpu", progress=False)
    found, wanted = (torch.load(one.last, weights_only=True)["state_dict"] for one in (again, whole))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert any(not torch.equal(found[name], kept[name]) for name in wanted)


def test_a_checkpoint_without_an_origin_is_read_and_says_what_its_command_lacks(tree, capsys):
    """Checkpoints of earlier versions, and of programs that made the samples themselves."""
    data = load_training_set("folder", tree, seed=0)
    own = type(data)(data.name, data.train, data.val, data.class_names, data.exif, data.held_out)
    assert own == data, "the origin is no part of the data"
    train({**TINY_RECIPE, "schedule.epochs": 1}, own, output="net.pt", device="cpu", progress=False)
    info = told("net.pt", capsys)
    assert "--data" not in shlex.split(info["command"])
    assert info["notes"] == [f"net.pt {NOTE} folder with `data`."]
    assert run(["info", "net.pt"]) == 0
    assert capsys.readouterr().out.endswith(f"\nnet.pt {NOTE} folder with --data.\n")
    assert evaluate("folder", data=tree, weights="net.pt", scales=224, progress=False).classes == 3


@pytest.mark.parametrize(("part", "flags"), [("val", []), ("all", ["--subset", "all"])])
def test_the_command_of_posteriors_names_their_data_weights_and_part(tree, part, flags, capsys):
    assert run([*TRAIN, "--data", str(tree), "-o", "nets/net.pt"]) == 0
    made = ["evaluate", "--dataset", "folder", "--data", str(tree), "--weights", "nets/net.pt", "--scales", "224"]
    assert run([*made, *flags, "-o", "first.h5", "--quiet"]) == 0
    command = told("first.h5", capsys)["command"]
    assert "--weights nets/net.pt" in command and "--data 'my photos'" in command
    before = Path("first.h5").rename("before.h5")
    assert run([*shlex.split(command)[1:], "--quiet"]) == 0
    assert Path("first.h5").read_bytes() == before.read_bytes()
    assert len(read_descriptors("first.h5")) == {"val": 3, "all": 15}[part]


def test_train_in_python_records_the_folder_too(tree, capsys):
    vggfeat.train({**TINY_RECIPE, "schedule.epochs": 1}, tree, output="run", device="cpu", progress=False)
    assert told("run/best.pt", capsys)["command"].endswith(" -o run --data 'my photos' --resume")
