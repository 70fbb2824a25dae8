"""recipes/tin100.sh: its commands are commands, each reads what an earlier one wrote, and a run goes on where it stopped."""

import json
from pathlib import Path

import pytest
from recipe_scripts import Script, stand_in_machine
from shipped import parsed

from vggfeat.datasets.folder import load_folder
from vggfeat.training.recipe import load_recipe


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script("tin100.sh", stand_in_machine(tmp_path, DATA="data"))


def test_every_command_is_one_and_reads_what_was_written(script, tmp_path):
    out = tmp_path / "out"
    flags = "--batch-size 32 --set sgd.dropout=0"
    commands = script.made(out, WIDTH="0.25", VAL="1", TRAIN=flags, TRAIN_DEEP="--learning-rate 0.005")
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


def test_what_is_there_is_not_made_again(script, tmp_path):
    out = tmp_path / "out"
    script.made(out)
    (out / "svm" / "A-max.json").unlink()
    again = [command for command in script.made(out) if command[0] != "extract"]  # which go on by --resume
    assert again == [["svm", "--aggregate", "max", str(out / "descriptors" / "A.h5"), "--json"]]


@pytest.mark.parametrize("verb", ["train", "extract", "evaluate"])
def test_images_that_cannot_be_read_do_not_end_the_run(script, tmp_path, verb):
    script.made(tmp_path / "out", SKIPPING=verb)
    assert (tmp_path / "out" / "table.md").exists()


def test_a_cut_archive_ends_the_run_before_anything_is_trained(script, tmp_path):
    archive = tmp_path / "tin100-train-0.tar.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:60])
    assert script.begun(tmp_path / "out").returncode != 0
    assert script.calls() == []
    archive.write_bytes(whole)
    assert script.made(tmp_path / "out")


def test_one_net_at_one_scale_needs_no_fusion(script, tmp_path):
    script.made(tmp_path / "out", NETS="", SCALES="256", CROPS="single")
    scores = {path.stem for path in (tmp_path / "out" / "svm").iterdir()}
    assert scores == {"A-256", "A-256-no-flip", "A-256-untrained"}
    errors = {path.stem for path in (tmp_path / "out" / "evaluate").glob("*.json")}
    assert errors == {"A-dense-single", "A-crops-single", "A-both-single", "A-dense-multi"}
