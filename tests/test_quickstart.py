"""Quickstart on a net of the tests' in place of one that it trains, and the data that it makes."""

import json
import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from vggfeat.cli import quickstart, run, vggfeat
from vggfeat.cli.quickstart import NEXT
from vggfeat.stages.sample_data import NEW, NEW_PER_CLASS, SEEN, write_digits


def test_the_digits_are_scikit_learns_half_of_each_class_inverted(tmp_path):
    seen, new = write_digits(tmp_path)
    digits = load_digits()
    for folder, labels in ((seen, SEEN), (new, NEW)):
        assert sorted(path.name for path in folder.iterdir()) == [str(label) for label in labels]
        for label in labels:
            files = sorted((folder / str(label)).iterdir())
            assert len(files) == (NEW_PER_CLASS if folder == new else (digits.target == label).sum())
            inverted = 0
            for path in files:
                pixels = np.asarray(Image.open(path)) / 255
                inverted += pixels[0, 0] == 1
                values = 1 - pixels if pixels[0, 0] == 1 else pixels
                assert digits.target[int(path.stem)] == label
                assert np.allclose(values[1:-1, 1:-1], digits.images[int(path.stem)] / 16, atol=0.003)
            assert inverted == len(files) // 2


def test_quickstart_ends_with_scores_beside_chance_a_report_and_what_to_type_next(tmp_path, capsys):
    from vggfeat.nets.networks import VGG, glorot_

    glorot_(VGG("A", width=1 / 64, num_classes=5)).save(tmp_path / "n.pt")
    work = tmp_path / "work"
    assert run(["quickstart", "--weights", str(tmp_path / "n.pt"), "--keep", str(work), "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    names = ["this net", "untrained narrow net", "raw pixels, no net", "chance"]
    assert [row["features"] for row in result["scores"]] == names
    assert result["scores"][-1]["mean"] == 1 / len(NEW)
    assert all(0 < row["mean"] < 1 for row in result["scores"])
    assert Path(result["report"]) == work / "report" / "index.html"
    assert "<h1>new: mean class recall " in Path(result["report"]).read_text("utf-8")
    assert [line.removeprefix("$ ") for line in err.splitlines() if line.startswith("$ ")] == result["commands"]
    assert [shlex.split(line)[1] for line in result["commands"]] == ["extract", "extract", "svm", "svm", "svm"]
    *_, report, following, first, second, third = err.splitlines()
    assert report == f"report: {result['report']}"
    assert following.startswith("next, with your own pictures in photos/<class>/")
    assert [line.strip() for line in (first, second, third)] == list(NEXT)


def test_the_table_says_what_the_scores_are_of(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        quickstart._Commands, "run", lambda *_: {"measure": "recall", "mean": 0.5, "std": 0.1, "chance": 0.2}
    )
    assert run(["quickstart", "--weights", "n.pt", "--keep", str(tmp_path / "work"), "--quiet"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"5 new digits, 5 labelled images of each, 5 random splits; \d+ s in all", last)
    assert quickstart.FITTING[:4] == ["--train-per-class", "5", "--num-splits", "5"]


@pytest.mark.parametrize("line", NEXT)
def test_what_to_type_next_parses(line):
    words = shlex.split(line)[1:]
    with click.Context(vggfeat, info_name="vggfeat") as parent:
        vggfeat.get_command(None, words[0]).make_context(words[0], words[1:], parent=parent)


def test_an_interrupted_quickstart_ends_as_every_interrupted_command(tmp_path, capsys, monkeypatch):
    """It has no --resume; the command that was running has, in its folder."""

    def stopped(self, batches, stop):
        stop.asked = True
        return False

    monkeypatch.setattr("vggfeat.training.run.Run._updated", stopped)
    assert run(["quickstart", "--keep", str(tmp_path / "try")]) == 130
    said = capsys.readouterr().err
    assert "a bug" not in said and "ended with code" not in said
    command = said.splitlines()[-1].partition("; go on with: ")[2]
    assert command.startswith("vggfeat train --dataset folder --data seen ") and command.endswith(" --resume")


def test_a_folder_with_files_is_refused(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("")
    assert run(["quickstart", "--keep", str(tmp_path)]) == 1
    assert re.fullmatch(r"vggfeat: .* is not empty: --keep names a new folder\n", capsys.readouterr().err)
