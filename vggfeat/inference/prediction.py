"""The scores of an image by a fitted model or a trained net, and which of the two a file is. Imports no torch."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggfeat.errors import UsageError
from vggfeat.results import short_repr
from vggfeat.system.numbers import number_of
from vggfeat.system.values import whole


@dataclass(frozen=True, repr=False, eq=False)  # arrays have no single answer to ==
class Prediction:
    """The scores of one image, or the reason why it has none."""

    id: str
    scores: NDArray[np.float32] | None
    """(K,) one a class: its probability, or for a fitted model that was asked for scores w x + b, which is 0 on
    the class's hyperplane and 1 on its margin."""
    error: str = ""

    __repr__ = short_repr

    def best(self, class_names: Sequence[str], count: int | None = 1) -> list[tuple[str, float]]:
        """The `count` best classes (all if None) with their scores, best first; equal scores in the classes' order.

        Empty for an image without scores. Raises UsageError for a count below 0 and for another number of names.
        """
        if count is not None and whole("count", count) < 0:
            raise UsageError(f"`count` {count} is not 0 or more")
        if self.scores is None:
            return []
        if len(class_names) != len(self.scores):
            names = number_of(len(class_names), "class name")
            raise UsageError(f"{self.id}: {number_of(len(self.scores), 'score')} and {names}: give one for each")
        order = np.argsort(-self.scores, kind="stable")[:count]
        return [(class_names[k], float(self.scores[k])) for k in order]


def is_net(path: str | Path) -> bool:
    """Whether a file is a net's checkpoint by its content or name, not a fitted model."""
    return Path(path).suffix in (".pt", ".pth") or zipfile.is_zipfile(path)
