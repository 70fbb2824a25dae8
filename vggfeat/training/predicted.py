"""The classes that a net predicts for the validation images, a few numbers an image, kept for the best epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vggfeat.training.ranks import Ranks


@dataclass(frozen=True)
class Predicted:
    """What the net of one epoch predicts for the centre views of the validation images, in their order."""

    epoch: int
    """Whose net it is, from 1."""
    guesses: Tensor
    """(N,) int64: the class of the highest probability; -1 for an image that could not be read."""
    confidence: Tensor
    """(N,) float32: its probability, from 0 to 1."""
    own: Tensor
    """(N,) float32: the probability of the image's own class."""

    def record(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {"epoch": self.epoch, "guesses": self.guesses, "confidence": self.confidence, "own": self.own}

    @classmethod
    def of(cls, record: dict[str, Any] | None) -> Predicted | None:
        """From `record`; None where a checkpoint of an earlier version has none."""
        return None if record is None else cls(**record)


def predictions(outputs: Tensor, guesses: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """(n, 3) float32: the best class, its probability and the own class's; -1 for images that were not read.

    Takes (n, K) class scores, (n,) best classes, (n,) classes, and (n,) weights, 0 for images that were not read.
    """
    probabilities = outputs.float().softmax(1)
    of = torch.stack([guesses, labels], dim=1)
    rows = torch.cat([guesses[:, None].float(), probabilities.gather(1, of)], dim=1)  # exact up to 2^24 classes
    rows[weights == 0] = -1
    return rows


class Collector:
    """Collects the predictions of one process's validation batches, in their order."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def add(self, rows: Sequence[Tensor]) -> None:
        """Takes `predictions`, (n, 3) each."""
        self._parts += rows

    def gathered(self, ranks: Ranks, epoch: int) -> Predicted:
        """The predictions of all processes, each of which validated every `world`-th image. All of them call it."""
        mine = torch.cat(self._parts).cpu() if self._parts else torch.empty(0, 3, dtype=torch.float32)
        return _interleaved(ranks.gathered([mine]), epoch)


def _interleaved(parts: Sequence[Tensor], epoch: int) -> Predicted:
    rows = torch.empty(sum(map(len, parts)), 3, dtype=torch.float32)
    for rank, part in enumerate(parts):
        rows[rank :: len(parts)] = part
    return Predicted(epoch, rows[:, 0].long(), rows[:, 1].clone(), rows[:, 2].clone())
