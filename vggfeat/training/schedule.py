"""The plateau schedule: the rate falls when validation stops improving, a fixed number of times (Sect. 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Plateau:
    """Chooses the learning rate from a measure after each epoch (an error: less is better).

    The rate is divided by `divisor` after `patience` epochs in a row without a gain of at least `least_gain` on the
    best value, at most `decreases` times.
    """

    rate: float
    divisor: float = 10.0
    decreases: int = 3
    patience: int = 5
    least_gain: float = 0.0
    best: float = float("inf")
    """The value to improve on by `least_gain`."""
    waited: int = 0
    """Epochs since then."""
    done: int = 0
    """Decreases so far."""

    def update(self, value: float) -> bool:
        """Takes an epoch's measure and returns whether the rate fell."""
        if value <= self.best - self.least_gain and value < self.best:
            self.best, self.waited = value, 0
            return False
        self.waited += 1
        if self.waited < self.patience or self.done >= self.decreases:
            return False
        self.rate /= self.divisor
        self.waited, self.done = 0, self.done + 1
        return True

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {"rate": self.rate, "best": self.best, "waited": self.waited, "done": self.done}

    def restore(self, state: dict[str, Any]) -> None:
        """Sets the state that `state` returned."""
        self.rate, self.best, self.waited, self.done = (state[k] for k in ("rate", "best", "waited", "done"))
