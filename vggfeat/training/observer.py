"""The events of a training run. Below the command line nothing prints: it calls an Observer."""

from __future__ import annotations

from dataclasses import dataclass


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

    def frozen(self, done: int, total: int) -> None:
        """The frozen layers' outputs of some more crops are computed."""

    def step(self, report: StepReport) -> None:
        """Some updates are done."""

    def epoch(self, report: EpochReport) -> None:
        """An epoch and its validation are done."""
