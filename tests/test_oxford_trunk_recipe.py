"""recipes/oxford-trunk.sh: its commands are commands, each reads what an earlier one wrote, and a run goes on."""

from pathlib import Path

import pytest
from recipe_scripts import Script, stand_in_machine
from shipped import parsed


@pytest.fixture
def script(tmp_path: Path) -> Script:
    for name in ("a", "b"):
        (tmp_path / "data" / "caltech101" / "101_ObjectCategories" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "data" / "caltech101" / "101_ObjectCategories" / name / f"{i}.jpg").touch()
    trunk = tmp_path / "trunk.npz"
    trunk.touch()
    return Script("oxford-trunk.sh", stand_in_machine(tmp_path, DATA=str(tmp_path / "data"), TRUNK=str(trunk)))


def test_every_command_is_one_and_reads_what_was_written(script, tmp_path):
    out = tmp_path / "out"
    commands = script.made(out, EACH="4", VAL="1")
    assert [command[0] for command in commands].count("train") == 2
    written = {str(tmp_path / name) for name in ("trunk.npz", "data", "out/val.csv", "out/images", "out/few")} | {
        "none",
        "published",
    }
    for command in commands:
        params = parsed("vggfeat " + " ".join(command)).params
        read = [params.get("data"), params.get("init_from"), params.get("classifier")]
        read += [*params.get("weights", ()), *params.get("files", ())]
        assert {name for name in read if name and name != "data"} <= written, command
        if params.get("output"):
            written |= {params["output"], f"{params['output']}/best.pt"}
    assert sorted(path.name for path in (out / "few" / "a").iterdir()) == ["0.jpg", "1.jpg", "2.jpg"]
    assert len(list((out / "images" / "ilsvrc2012" / "train").iterdir())) == 2
    assert len((out / "val.csv").read_text().splitlines()) == 3
    table = (out / "table.md").read_text()
    for row in (
        "| q256-average+max | 50.0 +- 1.0 |",
        "| untrained-noflip-max |",
        "| q128,256-noflip-max |",
        "| both-multi | 60.0/30.0 |",
    ):
        assert row in table


def test_the_slow_views_may_take_fewer_pictures_and_everything_another_precision(script, tmp_path):
    out = tmp_path / "out"
    commands = script.made(out, VAL="2", CROPPED="1", PRECISION="int8")
    scored = [parsed("vggfeat " + " ".join(command)).params for command in commands if command[0] == "evaluate"]
    lists = [(Path(one["data"]).name, one["view"], one["scales"]) for one in scored if one["data"] != "data"]
    assert lists == [
        ("val.csv", "dense", "single"),
        *(("cropped.csv", view, rule) for rule in ("single", "multi") for view in ("dense", "crops")),
    ]
    assert len((out / "val.csv").read_text().splitlines()) == 5
    assert len((out / "cropped.csv").read_text().splitlines()) == 3
    assert "| cropped-both-single |" in (out / "table.md").read_text()
    precisions = {command[0]: set() for command in commands}
    for command in commands:
        precisions[command[0]].add(command[command.index("--precision") + 1] if "--precision" in command else None)
    assert precisions["extract"] == {"int8"}, "training takes no other than its own"
    assert precisions["train"] == {None}


def test_what_is_there_is_not_made_again(script, tmp_path):
    out = tmp_path / "out"
    script.made(out)
    (out / "svm" / "q256-max.json").unlink()
    again = [
        command for command in script.made(out) if command[0] not in ("extract", "train")
    ]  # which go on by --resume
    assert again == [["svm", str(out / "descriptors" / "q256.h5"), "--layer", "pool5:max", "--json"]]


def test_without_tin100_only_transfer_is_measured(script, tmp_path):
    commands = script.made(tmp_path / "out", TIN100="")
    assert {command[0] for command in commands} == {"extract", "svm"}


@pytest.mark.parametrize("missing", ["TRUNK", "DATA"])
def test_a_missing_setting_is_named(script, tmp_path, missing):
    done = script.begun(tmp_path / "out", **{missing: ""})
    assert done.returncode != 0 and missing in done.stderr and script.calls() == []
