"""recipes/tin100.sh: its commands are commands, each reads what an earlier one wrote, and a run goes on where it stopped."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from shipped import parsed

from vggfeat.datasets.folder import load_folder
from vggfeat.training.recipe import load_recipe

SCRIPT = Path(__file__).parents[1] / "recipes" / "tin100.sh"

STAND_IN = f"""#!{sys.executable}
import json, os, pathlib, sys
args, code = sys.argv[1:], 0
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(args) + "\\n")
out = pathlib.Path(args[args.index("-o") + 1]) if "-o" in args else None
if args[0] == "train":
    out.mkdir()
    out = out / "best.pt"
if out:
    out.touch()
if args[0] == os.environ.get("SKIPPING"):
    code = 3
if "--json" in args:
    print(json.dumps({{"mean": 0.5, "std": 0.01, "rows": [{{"top1_error": 60.0, "top5_error": 30.0}}]}}))
sys.exit(code)
"""
"""Writes what the verb would have, and its arguments into a list."""


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a run: two classes of two images as the archives have them, and a stand-in for vggfeat."""
    stand_in = tmp_path / "bin" / "vggfeat"
    stand_in.parent.mkdir()
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    for name in ("train-0", "val"):
        with tarfile.open(tmp_path / f"tin100-{name}.tar.gz", "w:gz") as archive:
            for image in ("n1/val_1.JPEG", "n1/val_2.JPEG", "n2/val_3.JPEG", "n2/val_4.JPEG"):
                archive.addfile(tarfile.TarInfo(f"{name[:5].rstrip('-')}/{image}"), io.BytesIO())
    path = os.pathsep.join([str(stand_in.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {"PATH": path, "TIN100": str(tmp_path), "DATA": "data", "CALLS": str(tmp_path / "calls")}


def begun(out: Path, machine: dict[str, str], **settings: str) -> subprocess.CompletedProcess[str]:
    """A run into a folder given as a user would, from the folder that it is to be in."""
    Path(machine["CALLS"]).write_text("")
    words = ["bash", str(SCRIPT), out.name]
    return subprocess.run(words, env=machine | settings, cwd=out.parent, capture_output=True, text=True)


def made(out: Path, machine: dict[str, str], **settings: str) -> list[list[str]]:
    """The commands of one run."""
    done = begun(out, machine, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    calls = Path(machine["CALLS"])
    return [json.loads(line) for line in calls.read_text().splitlines()]


def test_every_command_is_one_and_reads_what_was_written(machine, tmp_path):
    out = tmp_path / "out"
    flags = "--batch-size 32 --set sgd.dropout=0"
    commands = made(out, machine, WIDTH="0.25", VAL="1", TRAIN=flags, TRAIN_DEEP="--learning-rate 0.005")
    trained = [parsed("vggfeat " + " ".join(command)).params for command in commands if command[0] == "train"]
    assert [params["learning_rate"] for params in trained] == [None, 0.005, 0.005]
    assert {params["batch_size"] for params in trained} == {32}
    written = {str(out / "data"), str(out / "val.csv"), "data"}
    for command in commands:
        params = parsed("vggfeat " + " ".join(command)).params
        read = [params.get("data"), params.get("init_from"), *params.get("weights", ()), *params.get("files", ())]
        read += params.get("posteriors", ())
        assert {name for name in read if name and "/" in name} <= written, command
        for setting in params.get("settings", ()):
            key, value = setting.split("=")
            load_recipe(None, {key: json.loads(value)})
        if params.get("output"):
            written |= {params["output"], f"{params['output']}/best.pt"}
    assert (out / "val.csv").read_text().splitlines() == [
        "path,label",
        f"{out}/data/ilsvrc2012/val/n1/val_1.JPEG,n1",
        f"{out}/data/ilsvrc2012/val/n2/val_3.JPEG,n2",
    ]
    assert all(Path(sample.path).is_file() for sample in load_folder(out / "val.csv").samples)
    table = (out / "table.md").read_text()
    for row in (
        "| A-256 | 50.0 +- 1.0 |",
        "| E-stack |",
        "| fused |",
        "| D-256-untrained |",
        "| A-both-multi | 60.0/30.0 |",
    ):
        assert row in table


def test_what_is_there_is_not_made_again(machine, tmp_path):
    out = tmp_path / "out"
    made(out, machine)
    (out / "svm" / "A-max.json").unlink()
    again = [command for command in made(out, machine) if command[0] != "extract"]  # which go on by --resume
    assert again == [["svm", "--aggregate", "max", str(out / "descriptors" / "A.h5"), "--json"]]


@pytest.mark.parametrize("verb", ["train", "extract", "evaluate"])
def test_images_that_cannot_be_read_do_not_end_the_run(machine, tmp_path, verb):
    made(tmp_path / "out", machine, SKIPPING=verb)
    assert (tmp_path / "out" / "table.md").exists()


def test_a_cut_archive_ends_the_run_before_anything_is_trained(machine, tmp_path):
    archive = tmp_path / "tin100-train-0.tar.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:60])
    assert begun(tmp_path / "out", machine).returncode != 0
    assert Path(machine["CALLS"]).read_text() == ""
    archive.write_bytes(whole)
    assert made(tmp_path / "out", machine)


def test_one_net_at_one_scale_needs_no_fusion(machine, tmp_path):
    made(tmp_path / "out", machine, NETS="", SCALES="256", CROPS="single")
    scores = {path.stem for path in (tmp_path / "out" / "svm").iterdir()}
    assert scores == {"A-256", "A-256-no-flip", "A-256-untrained"}
    errors = {path.stem for path in (tmp_path / "out" / "evaluate").glob("*.json")}
    assert errors == {"A-dense-single", "A-crops-single", "A-both-single", "A-dense-multi"}
