"""The evidence for a score: confusions, rankings, and telling images. Pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vggfeat.metrics import confusion_matrix


class Guessed(Protocol):
    """Images of one class each, and the class that each was given: all that confusions need."""

    @property
    def ids(self) -> Sequence[str]:
        """(n,)"""

    @property
    def labels(self) -> NDArray[np.integer]:
        """(n,) class indices."""

    @property
    def guesses(self) -> NDArray[np.integer]:
        """(n,) the class that each image was given."""

    @property
    def margins(self) -> NDArray[np.float32]:
        """(n,) by how much the given class's score exceeds that of the image's own class."""


@dataclass(frozen=True)
class Predictions:
    """Images with the class that a net gave each, without the other classes' scores."""

    ids: Sequence[str]
    labels: NDArray[np.integer]
    """(n,) class indices."""
    guesses: NDArray[np.integer]
    """(n,) class indices."""
    confidence: NDArray[np.float32]
    """(n,) probability of the class given, from 0 to 1."""
    own: NDArray[np.float32]
    """(n,) probability of the image's own class."""

    @property
    def margins(self) -> NDArray[np.float32]:
        """(n,) excess of the class given."""
        return self.confidence - self.own

    def surest_mistakes(self, count: int) -> list[int]:
        """Rows of wrong answers, highest probability first."""
        wrong = np.flatnonzero(self.guesses != self.labels)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:count].tolist()


@dataclass(frozen=True)
class Scored:
    """The test images of one split with their scores."""

    ids: Sequence[str]
    labels: NDArray[np.integer]
    """(n,) class indices, or (n, K) of 1, 0 (difficult), -1."""
    scores: NDArray[np.float32]
    """(n, K); minus infinity for an image without a descriptor."""

    @property
    def guesses(self) -> NDArray[np.intp]:
        """(n,) the class of the highest score."""
        return self.scores.argmax(axis=1)

    @property
    def margins(self) -> NDArray[np.float32]:
        """(n,) excess of the highest score over that of the image's own class; for labels that are class indices."""
        rows = np.arange(len(self.labels))
        with np.errstate(invalid="ignore"):  # an image without a descriptor: infinity less infinity
            margins: NDArray[np.float32] = self.scores[rows, self.guesses] - self.scores[rows, self.labels]
        return margins


def confusion(splits: Sequence[Guessed], num_classes: int) -> NDArray[np.int64]:
    """(K, K) test images by true class (row) and predicted class (column), summed over the splits."""
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    for split in splits:
        counts += confusion_matrix(split.labels, split.guesses, num_classes)
    return counts


@dataclass(frozen=True)
class ConfusedPair:
    """Images of one class that were taken for another."""

    true: int
    guess: int
    count: int
    """Over all splits, of which several may test the same image."""
    of: int
    """Test images of the true class."""
    ids: tuple[str, ...]
    """Some of them, surest mistakes first."""


def most_confused(splits: Sequence[Guessed], num_classes: int, pairs: int, images: int) -> list[ConfusedPair]:
    """The pairs of classes with the largest shares of the true class's images; among equals the larger count first."""
    counts = confusion(splits, num_classes)
    totals = counts.sum(axis=1)
    wrong = counts - np.diag(np.diag(counts))
    shares = wrong / np.maximum(totals, 1)[:, None]
    order = np.lexsort((-wrong.ravel(), -shares.ravel()))[:pairs]
    found = []
    for true, guess in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[true, guess]:
            ids = _surest(splits, int(true), int(guess), images)
            found.append(ConfusedPair(int(true), int(guess), int(wrong[true, guess]), int(totals[true]), ids))
    return found


def _surest(splits: Sequence[Guessed], true: int, guess: int, count: int) -> tuple[str, ...]:
    """Ids of images of class `true` taken for `guess`, largest excess of the wrong score first."""
    excess: dict[str, float] = {}
    for split in splits:
        margins = split.margins
        for row in np.flatnonzero((split.labels == true) & (split.guesses == guess)).tolist():
            margin = float(margins[row])
            excess[split.ids[row]] = max(margin, excess.get(split.ids[row], margin))
    return tuple(sorted(excess, key=lambda id: -excess[id])[:count])


@dataclass(frozen=True)
class Shown:
    """An image with its score for a class."""

    id: str
    score: float
    right: bool
    """Whether the image is of that class."""
    others: tuple[int, ...]
    """The classes of the image."""


def best(split: Scored, k: int, count: int) -> list[Shown]:
    """The images that score highest for class k, of any class; difficult ones are skipped."""
    rows = np.flatnonzero(_signs(split, k) != 0)
    return _shown(split, k, rows[np.argsort(-split.scores[rows, k], kind="stable")][:count])


def worst(split: Scored, k: int, count: int) -> list[Shown]:
    """The images of class k that score lowest for it; those without a descriptor are skipped."""
    rows = np.flatnonzero((_signs(split, k) == 1) & np.isfinite(split.scores[:, k]))
    return _shown(split, k, rows[np.argsort(split.scores[rows, k], kind="stable")][:count])


def _signs(split: Scored, k: int) -> NDArray[np.int64]:
    """(n,) 1, 0 (difficult), -1 for class k."""
    labels = split.labels
    return (np.where(labels == k, 1, -1) if labels.ndim == 1 else labels[:, k]).astype(np.int64)


def _shown(split: Scored, k: int, rows: NDArray[np.intp]) -> list[Shown]:
    signs = _signs(split, k)
    found = []
    for row in rows.tolist():
        label = split.labels[row]
        others = (int(label),) if split.labels.ndim == 1 else tuple(np.flatnonzero(label == 1).tolist())
        found.append(Shown(split.ids[row], float(split.scores[row, k]), bool(signs[row] == 1), others))
    return found


@dataclass(frozen=True)
class Ranking:
    """One class's precision over recall."""

    name: str
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    ap: float


def rankings(split: Scored, names: Sequence[str], aps: Sequence[float], most: int) -> list[Ranking]:
    """Precision over recall of the classes with an AP, in their order; of more than `most` those of lowest AP."""
    known = [k for k in range(len(names)) if aps[k] == aps[k]]
    if len(known) > most:
        known = sorted(sorted(known, key=lambda k: aps[k])[:most])
    found = []
    for k in known:
        signs = _signs(split, k)
        kept = signs != 0
        ranked = signs[kept][np.argsort(-split.scores[kept, k], kind="stable")] == 1
        hits = np.cumsum(ranked)
        precision = hits / np.arange(1, len(hits) + 1)
        found.append(Ranking(names[k], hits / hits[-1], precision, aps[k]))
    return found
