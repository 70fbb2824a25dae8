"""Writing a run's files while other programs read them: Windows replaces no file that is open elsewhere."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from vggfeat.errors import InUseError, TrainingError
from vggfeat.nets.networks import VGG, write_checkpoint
from vggfeat.system.files import PATIENCE, discard
from vggfeat.system.numbers import number_of
from vggfeat.training.files import RunFiles
from vggfeat.training.observer import Observer
from vggfeat.training.state import RunState, last_content

LONG_PATIENCE = 90.0
"""Seconds to wait for a program that reads a checkpoint: a virus scanner or a backup reads half a gigabyte in less."""


class Saver:
    """Writes the best and the last checkpoint of a run, in its first process.

    A run outlives a program that holds a checkpoint open: the next save tries again. Until the best net is in its file
    it is part of the last checkpoint, so that `resume` has the best net of every epoch that counts as done. At a run's
    end a checkpoint that cannot be written is an error.

    Args:
        waiting: the best net's checkpoint that its file lacks, of the run to resume.
    """

    def __init__(self, files: RunFiles, observer: Observer, waiting: dict[str, Any] | None = None) -> None:
        self.files, self.observer, self.waiting = files, observer, waiting
        self._refused: set[Path] = set()

    @property
    def behind(self) -> bool:
        """Whether a file is not as new as it should be."""
        return self.waiting is not None or bool(self._refused)

    def best(self, net: VGG) -> None:
        """Writes the net as the best one.

        To be called before the epoch's `last`: a run that is killed between the two repeats the epoch, while one that
        took it as done would keep the former best net.
        """
        self.waiting = net.checkpoint()
        self._write_best()
        self.waiting = copy.deepcopy(self.waiting)  # training goes on in its tensors

    def last(self, net: VGG, state: RunState, *, stopped: bool = False, finished: bool = False, **rest: Any) -> bool:
        """Writes the newest state, after a best net that waits; False where that was refused.

        Args:
            stopped: no later save follows, but a resumed run may.
            finished: all epochs are done.

        Raises TrainingError for a checkpoint that another program keeps open at the end: the last one of a run that was
        stopped, either of a finished one.
        """
        failed_best = self._write_best(finished)
        if self.waiting is not None:
            rest["waiting"] = self.waiting
        failed_last = self._write(self.files.last, last_content(net, state, **rest), stopped or finished)
        if failed_last is not None and (stopped or finished):
            raise TrainingError(
                f"{failed_last}; once {self.files.last.name} is closed, give it that name and go on with `resume`"
            ) from failed_last
        if failed_best is not None and finished:
            raise TrainingError(
                f"{failed_best}, and `resume` puts it in place once {self.files.best.name} is closed"
            ) from failed_best
        return failed_last is None

    def _write_best(self, final: bool = False) -> InUseError | None:
        failed = None if self.waiting is None else self._write(self.files.best, self.waiting, final)
        if failed is None:
            self.waiting = None
        return failed

    def _write(self, path: Path, content: dict[str, Any], final: bool) -> InUseError | None:
        """Writes a checkpoint; the error if another program keeps it open, which the user is told once.

        It waits for long at the first refusal and at the end of the run.
        """
        known = path in self._refused
        try:
            write_checkpoint(path, content, PATIENCE if known and not final else LONG_PATIENCE)
        except InUseError as error:
            self._refused.add(path)
            if final:
                return error
            discard(error.kept)
            if not known:
                self.observer.note(
                    f"{path}: cannot replace it; is it open in another program? Training goes on, and the next save "
                    "tries again"
                )
            return error
        self._refused.discard(path)
        return None


class MetricsFile:
    """metrics.jsonl, line by line; lines wait while another program keeps it to itself."""

    def __init__(self, path: Path, observer: Observer) -> None:
        self._path, self._observer = path, observer
        self._lines: list[str] = []

    def append(self, **values: Any) -> None:
        """One more line, after those that wait."""
        self._lines.append(json.dumps(values) + "\n")
        if not self._written() and len(self._lines) == 1:
            self._observer.note(
                f"{self._path}: cannot write to it; is it open in another program? Training goes on, and the next line "
                "brings those that it lacks"
            )

    def finish(self) -> None:
        """Writes the lines that wait, or says how many are lost."""
        if self._lines and not self._written():
            self._observer.note(f"{self._path}: its last {number_of(len(self._lines), 'line')} could not be written")

    def _written(self) -> bool:
        try:
            with self._path.open("a", encoding="utf-8", newline="\n") as stream:
                stream.writelines(self._lines)
        except PermissionError:
            return False
        self._lines = []
        return True
