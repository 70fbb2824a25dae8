"""The events of a training run. Below the command line nothing prints: it calls an Observer."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from vggfeat.system.bars import Bar, in_megabytes


@dataclass(frozen=True)
class Errors:
    """Means over images: loss in nats, errors in %."""

    loss: float
    top1: float
    top5: float
    images: int

    def measure(self, name: str) -> float:
        """The value called "loss", "top1" or "top5"."""
        return float(getattr(self, name))


@dataclass(frozen=True)
class StepReport:
    """The progress of an epoch."""

    epoch: int
    """From 1."""
    epochs: int
    step: int
    """Updates done in this epoch."""
    steps: int
    """Updates an epoch."""
    train: Errors
    """Over the epoch so far, on the augmented crops with dropout."""
    rate: float
    images_per_second: float


@dataclass(frozen=True)
class EpochReport:
    """The result of an epoch."""

    epoch: int
    epochs: int
    train: Errors
    val: Errors
    """On the centre view of the validation images."""
    rate: float
    next_rate: float
    images_per_second: float
    seconds: float
    best: bool


class Observer:
    """Receives training events; the base class ignores them."""

    def note(self, text: str) -> None:
        """A sentence for the user."""

    def fetched(self, done: int, total: int | None) -> None:
        """Some more bytes of published weights have come; `total` is None if unknown."""

    def frozen(self, done: int, total: int) -> None:
        """The frozen layers' outputs of some more crops are computed."""

    def step(self, report: StepReport) -> None:
        """Some updates are done."""

    def epoch(self, report: EpochReport) -> None:
        """An epoch and its validation are done."""


class BarObserver(Observer):
    """For a terminal or a notebook in Python: a bar for the updates, a line for each epoch."""

    def __init__(self) -> None:
        self._bar = Bar("", shown=False)
        self._of: object = None

    def _begun(self, of: object, what: str, unit: str) -> Bar:
        """The bar of one piece of work, in place of the last one."""
        if of != self._of:
            self._bar.clear()
            self._bar, self._of = Bar(what, unit), of
        return self._bar

    def fetched(self, done: int, total: int | None) -> None:
        """See Observer."""
        in_megabytes(self._begun("fetch", "fetch", "MB").tick)(done, total)

    def frozen(self, done: int, total: int) -> None:
        """See Observer."""
        self._begun("frozen", "frozen layers", "crop").tick(done, total)

    def step(self, report: StepReport) -> None:
        """See Observer."""
        what = f"epoch {report.epoch}/{report.epochs}, loss {report.train.loss:.3f}"
        bar = self._begun(report.epoch, what, "update")
        bar.what = what
        bar.tick(report.step, report.steps)

    def epoch(self, report: EpochReport) -> None:
        """See Observer."""
        self.note(
            f"epoch {report.epoch}/{report.epochs}: training loss {report.train.loss:.3f}, validation loss "
            f"{report.val.loss:.3f}, top-1 error {report.val.top1:.1f} %{' (best)' if report.best else ''}"
        )

    def note(self, text: str) -> None:
        """See Observer."""
        self._bar.clear()
        print(text, file=sys.stderr)
