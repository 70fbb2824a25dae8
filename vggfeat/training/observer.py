"""What training tells those who watch it. Stages know no terminal: they call an Observer."""

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
    """Where an epoch stands."""

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
    """What an epoch came to."""

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
    """Hears of a run; this one is silent."""

    def note(self, text: str) -> None:
        """One sentence worth reading."""

    def step(self, report: StepReport) -> None:
        """Some updates have been done."""

    def epoch(self, report: EpochReport) -> None:
        """An epoch and its validation are done."""
