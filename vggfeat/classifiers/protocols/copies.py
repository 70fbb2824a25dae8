"""Test images that are also among the training images, told by their descriptors, at a fraction of a fit's cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggfeat.classifiers.objective import SILENT, row_dot
from vggfeat.system.numbers import number_of

Float = NDArray[np.float32]

AT_LEAST = 0.99
"""Smallest cosine of a copy, about the mean of the training descriptors. Of 40 pictures of Caltech-101, by pool5 of
Oxford's net D and by fc7 of an untrained net, the same picture compressed again had 0.999 and more, reduced to 80 % of
its size 0.955 to 0.999; two pictures of one class had at most 0.970."""

SKETCH = 64
"""Numbers that stand for a descriptor while pairs are compared."""

MARGIN = 2
"""Pairs are measured exactly up to this multiple of a copy's squared distance: by the sketch alone one copy in a
million lies beyond it."""

TILE = 8192
"""Training rows compared at once, 16 MB with 512 test rows."""

NAMED = 3
"""Pairs that the warning names."""


@dataclass(frozen=True)
class Copy:
    """A test image whose descriptor is nearly that of a training image."""

    test: str
    """Its id."""
    train: str
    cosine: float


class CopyFinder:
    """Finds the training row that a test row is a copy of.

    Descriptors are compared about the training mean, because those of different images have much in common: with an
    untrained net their plain cosines reach 0.998. Random projections (Johnson and Lindenstrauss) to a few numbers keep
    distances, so the products cost SKETCH / D of those of the descriptors; what they find is then measured exactly.
    """

    def __init__(self, X: Float) -> None:
        """X (n, D): the training descriptors, which are kept by reference."""
        self._X = X
        self._mean = X.mean(axis=0, dtype=np.float64)
        draw = np.random.default_rng(0).standard_normal((X.shape[1], SKETCH), dtype=np.float32)
        self._projection = draw / np.float32(np.sqrt(SKETCH))
        self._offset = self._mean.astype(np.float32) @ self._projection
        self._sketches, known = self._sketch(X)
        self._half_squares = np.where(known, row_dot(self._sketches, self._sketches) / 2, np.inf).astype(np.float32)

    def look(self, X: Float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """For test rows (m, D) the training row that is nearest to each, (m,), and their cosine; 0 if not a copy."""
        mine, known = self._sketch(X)
        nearest = np.zeros(len(X), dtype=np.intp)
        best = np.full(len(X), -np.inf, dtype=np.float32)
        for start in range(0, len(self._X), TILE):
            # |a - b|^2 is least where a b - |b|^2 / 2 is largest.
            closeness = mine @ self._sketches[start : start + TILE].T
            closeness -= self._half_squares[start : start + TILE]
            place = closeness.argmax(axis=1)
            value = closeness[np.arange(len(X)), place]
            better = value > best
            nearest[better], best[better] = start + place[better], value[better]
        distance = row_dot(mine, mine) - 2 * best
        cosines = np.zeros(len(X))
        for row in np.flatnonzero(known & (distance <= MARGIN * 2 * (1 - AT_LEAST))):
            cosine = self._cosine(X[row], self._X[nearest[row]])
            cosines[row] = cosine if cosine >= AT_LEAST else 0
        return nearest, cosines

    def _sketch(self, X: Float) -> tuple[Float, NDArray[np.bool_]]:
        """(m, SKETCH) projections of the unit vectors about the mean; and which rows differ from the mean at all."""
        with np.errstate(**SILENT):  # raw values may overflow; such rows are not compared
            return self._projected(X)

    def _projected(self, X: Float) -> tuple[Float, NDArray[np.bool_]]:
        mean = self._mean.astype(np.float32)
        squares = row_dot(X, X)
        lengths = squares - 2 * (X @ mean) + np.float32(self._mean @ self._mean)
        known = (lengths > 1e-5 * squares) & np.isfinite(lengths)  # else rounding decides
        scale = np.zeros(len(X), dtype=np.float32)
        scale[known] = 1 / np.sqrt(lengths[known])
        made: Float = (X @ self._projection - self._offset) * scale[:, None]
        made[~known] = 0
        return made, known

    def _cosine(self, one: Float, other: Float) -> float:
        a, b = one - self._mean, other - self._mean
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def copies_warning(copies: Sequence[Copy]) -> str:
    """What to say of copies: their number and the first few."""
    named = ", ".join(f"{copy.test} and {copy.train} ({copy.cosine:.4f})" for copy in copies[:NAMED])
    more = ", .." if len(copies) > NAMED else ""
    return (
        f"the same picture seems to be in the training and the test part of a split, which raises the score: "
        f"{number_of(len(copies), 'pair has', 'pairs have')} nearly equal descriptors: {named}{more}"
    )
