"""A training run whose files other programs hold open, which on Windows keeps them from being replaced."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from making import TINY_RECIPE, striped_tree

from vggfeat.cli.training_display import TrainingDisplay
from vggfeat.datasets.split import load_training_set
from vggfeat.errors import TrainingError
from vggfeat.stages.train import train
from vggfeat.system.files import PAUSE
from vggfeat.training import run as loop
from vggfeat.training.files import RunFiles
from vggfeat.training.observer import Observer
from vggfeat.training.recipe import load_recipe
from vggfeat.training.saving import LONG_PATIENCE

EPOCHS = 3


class Reader(Observer):
    """Opens and closes files at the end of epochs, as another program would."""

    def __init__(self, held=None, opens=None, closes=None, ends=None, stops=None):
        self.held, self.opens, self.closes = held, opens or {}, closes or {}
        self.ends, self.stops, self.notes = ends, stops, []

    def note(self, text):
        self.notes.append(text)

    def epoch(self, report):
        if self.held is not None:
            self.held |= self.opens.get(report.epoch, set())
            self.held -= self.closes.get(report.epoch, set())
        if report.epoch == self.ends:
            raise SystemExit
        if report.epoch == self.stops:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Trains by the tiny recipe; every epoch counts as the best so far, and is saved."""
    monkeypatch.setattr(loop, "SAVING_SHARE", 0)
    update = loop.Run._end_epoch

    def best(self, val):
        self.state.best = []
        update(self, val)

    monkeypatch.setattr(loop.Run, "_end_epoch", best)
    recipe = load_recipe(None, TINY_RECIPE | {"schedule.epochs": EPOCHS})
    data = load_training_set("folder", striped_tree(tmp_path / "tree"), fraction=0.2, seed=recipe.seed)

    def run(output, observer=None, resume=False):
        return train(recipe, data, output=output, device="cpu", workers=0, resume=resume, observer=observer)

    return run


def content(path):
    """(epoch, weights) of a checkpoint."""
    read = torch.load(path, weights_only=True)
    return read["training"]["epoch"], {name: tensor.tolist() for name, tensor in read["state_dict"].items()}


def state(path):
    return torch.load(path, weights_only=True)["training_state"]


def goes_on(path):
    return f"{path}: cannot replace it; is it open in another program? Training goes on, and the next save tries again"


def made(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def whole(trained, tmp_path):
    """What an undisturbed run leaves."""
    trained(tmp_path / "whole")
    return tmp_path / "whole"


@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_a_checkpoint_that_is_open_during_a_save_is_written_by_a_later_one(trained, whole, tmp_path, held_open, name):
    file = tmp_path / "run" / name
    reader = Reader(held_open, opens={1: {file}}, closes={2: {file}})
    assert trained(tmp_path / "run", reader).finished
    assert reader.notes.count(goes_on(file)) == 1
    assert content(tmp_path / "run" / "best.pt") == content(whole / "best.pt")
    assert content(tmp_path / "run" / "last.pt") == content(whole / "last.pt")
    assert made(tmp_path / "run") == made(whole)
    assert "waiting" not in state(tmp_path / "run" / "last.pt")


def test_a_run_waits_a_minute_and_more_for_a_checkpoint_and_then_goes_on(trained, tmp_path, held_open, monkeypatch):
    slept, best = [], tmp_path / "run" / "best.pt"
    monkeypatch.setattr("time.sleep", lambda seconds: slept.append(seconds))

    class Once(Reader):
        def epoch(self, report):
            super().epoch(report)
            slept.append(f"epoch {report.epoch}")

    trained(tmp_path / "run", Once(held_open, opens={1: {best}}, closes={2: {best}}))
    begin, end = slept.index("epoch 1"), slept.index("epoch 2")
    assert sum(slept[begin + 1 : end]) >= LONG_PATIENCE > 60
    assert set(slept[end + 1 :]) <= {PAUSE, "epoch 3"}


def test_a_best_net_that_cannot_be_written_is_in_the_last_checkpoint_and_an_error_at_the_end(
    trained, whole, tmp_path, held_open
):
    best, last = tmp_path / "run" / "best.pt", tmp_path / "run" / "last.pt"
    with pytest.raises(TrainingError) as raised:
        trained(tmp_path / "run", Reader(held_open, opens={1: {best}}))
    (kept,) = made(tmp_path / "run") - made(whole)
    assert str(raised.value) == (
        f"{best}: cannot replace it; is it open in another program? The result is in {best.with_name(kept)}, and "
        "`resume` puts it in place once best.pt is closed"
    )
    assert content(best.with_name(kept)) == content(whole / "best.pt")
    assert content(best)[0] == 1, "as it was"
    assert content(last) == content(whole / "last.pt")
    assert state(last)["waiting"]["training"]["epoch"] == EPOCHS
    held_open.clear()
    assert trained(tmp_path / "run", resume=True).best == best
    assert content(best) == content(whole / "best.pt")
    assert "waiting" not in state(last)


def test_a_last_checkpoint_that_cannot_be_written_is_an_error_at_the_end(trained, whole, tmp_path, held_open):
    last = tmp_path / "run" / "last.pt"
    with pytest.raises(TrainingError) as raised:
        trained(tmp_path / "run", Reader(held_open, opens={1: {last}}))
    (kept,) = made(tmp_path / "run") - made(whole)
    assert str(raised.value) == (
        f"{last}: cannot replace it; is it open in another program? The result is in {last.with_name(kept)}; once "
        "last.pt is closed, give it that name and go on with `resume`"
    )
    held_open.clear()
    last.with_name(kept).replace(last)
    assert trained(tmp_path / "run", resume=True).finished
    assert content(last) == content(whole / "last.pt")


def test_a_run_killed_while_its_best_net_waits_resumes_with_it(trained, whole, tmp_path, held_open):
    best, last = tmp_path / "run" / "best.pt", tmp_path / "run" / "last.pt"
    with pytest.raises(SystemExit):
        trained(tmp_path / "run", Reader(held_open, opens={1: {best}}, ends=2))
    assert (content(best)[0], state(last)["progress"]["epoch"]) == (1, 2)
    assert state(last)["waiting"]["training"]["epoch"] == 2
    held_open.clear()
    with pytest.raises(SystemExit):
        trained(tmp_path / "run", Reader(ends=3), resume=True)
    trained(tmp_path / "run", resume=True)
    assert content(best) == content(whole / "best.pt")
    assert content(last) == content(whole / "last.pt")


def test_a_run_stopped_while_its_best_net_waits_ends_as_usual_and_resumes_with_it(trained, whole, tmp_path, held_open):
    best, last = tmp_path / "run" / "best.pt", tmp_path / "run" / "last.pt"
    stopped = trained(tmp_path / "run", Reader(held_open, opens={1: {best}}, stops=2))
    assert (stopped.finished, content(best)[0], state(last)["waiting"]["training"]["epoch"]) == (False, 1, 2)
    held_open.clear()
    assert trained(tmp_path / "run", resume=True).finished
    assert content(best) == content(whole / "best.pt")


def test_the_best_checkpoint_is_written_before_the_last_says_so(trained, tmp_path, monkeypatch):
    """A run killed between the two repeats the epoch; the other way round it would lose its best net.

    The first epoch's is repeated from a state of its own, written before any best net.
    """
    written, saver = [], loop.Saver._write
    monkeypatch.setattr(
        loop.Saver, "_write", lambda self, path, *rest: written.append(path.name) or saver(self, path, *rest)
    )
    trained(tmp_path / "run")
    assert written == ["last.pt", *["best.pt", "last.pt"] * EPOCHS]


def refuse_metrics(monkeypatch, held):
    opened = Path.open

    def refusing(self, mode="r", *args, **kwargs):
        if self in held and mode == "a":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refusing)


def test_metrics_that_another_program_keeps_to_itself_are_written_later(trained, tmp_path, monkeypatch):
    file, held = tmp_path / "run" / "metrics.jsonl", set()
    refuse_metrics(monkeypatch, held)
    reader = Reader(held, opens={1: {file}}, closes={2: {file}})
    trained(tmp_path / "run", reader)
    epochs = [json.loads(line)["epoch"] for line in file.read_text().splitlines()]
    assert epochs == [1, 2, 3]
    assert reader.notes[-1] == (
        f"{file}: cannot write to it; is it open in another program? Training goes on, and the next line brings those "
        "that it lacks"
    )
    trained(tmp_path / "other", reader := Reader(held, opens={1: {tmp_path / "other" / "metrics.jsonl"}}))
    assert reader.notes[-1] == f"{tmp_path / 'other' / 'metrics.jsonl'}: its last 2 lines could not be written"


def test_curves_that_a_viewer_shows_end_no_run(tmp_path, held_open, capsys):
    pytest.importorskip("matplotlib")
    files = RunFiles.of(tmp_path / "run")
    files.folder.mkdir()
    row = {"kind": "epoch", "step": 3, "epoch": 1, "rate": 0.1, "loss": 1.0, "top1": 50.0, "top5": 0.0}
    row |= {"val_loss": 1.0, "val_top1": 50.0, "val_top5": 0.0, "images_per_second": 1.0, "seconds": 1.0}
    files.metrics.write_text(json.dumps(row) + "\n")
    files.curves.write_bytes(b"old")
    held_open.add(files.curves)
    with TrainingDisplay(files, quiet=False) as display:
        display._draw()
        display._draw()
        assert made(files.folder) == {"metrics.jsonl", "curves.png"}
        assert capsys.readouterr().err.replace("\n", "") == (
            f"{files.curves}: cannot replace it; is it open in another program? Training goes on"
        )
        display._rows.append(None)
        display.finish()
    (kept,) = made(files.folder) - {"metrics.jsonl", "curves.png"}
    assert capsys.readouterr().err.replace("\n", "") == (
        f"{files.curves}: cannot replace it; is it open in another program? The result is in {files.folder / kept}"
    )
