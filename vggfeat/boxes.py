"""Bounding boxes (Appendix A): regression targets, overlap, OverFeat's greedy merging. Pure functions.

A box is (xmin, ymin, xmax, ymax), half-open: its width is xmax - xmin. All boxes in a call share one unit, such
as pixels. A target is a localisation net's prediction: (centre x, centre y, width, height) of a box in the coordinates
of a net's 224x224 window, whose side is the unit and whose top left corner is the origin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Boxes = NDArray[np.float64]
"""(.., 4)."""

CORRECT_IOU = 0.5
"""A predicted box is right if its overlap with the ground truth is above this (Appendix A)."""


def to_targets(boxes: ArrayLike, windows: ArrayLike, mirrored: bool = False) -> Boxes:
    """Boxes in the coordinates of windows -> targets. (.., 4) and (.., 4), broadcast -> (.., 4).

    `mirrored`: the net sees the window's mirror image.
    """
    box, window = _floats(boxes), _floats(windows)
    origin, side = window[..., :2], window[..., 2:] - window[..., :2]
    centre = ((box[..., :2] + box[..., 2:]) / 2 - origin) / side
    if mirrored:
        centre[..., 0] = 1 - centre[..., 0]
    return np.concatenate([centre, (box[..., 2:] - box[..., :2]) / side], axis=-1)


def from_targets(targets: ArrayLike, windows: ArrayLike, mirrored: bool = False) -> Boxes:
    """The inverse of `to_targets`, of the same shapes. A negative predicted width or height becomes zero."""
    target, window = _floats(targets), _floats(windows)
    origin, side = window[..., :2], window[..., 2:] - window[..., :2]
    centre = target[..., :2].copy()
    if mirrored:
        centre[..., 0] = 1 - centre[..., 0]
    centre, half = origin + centre * side, np.maximum(target[..., 2:], 0.0) * side / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def clip(boxes: ArrayLike, size: tuple[float, float]) -> Boxes:
    """The parts of boxes (.., 4) inside a picture of that (width, height)."""
    return np.clip(_floats(boxes), 0.0, np.array([*size, *size], dtype=np.float64))


def iou(a: ArrayLike, b: ArrayLike) -> Boxes:
    """Intersection over union of each pair: (N, 4) and (M, 4) -> (N, M). Two boxes without area overlap by 0.

    One box (4,) is a list of one. Raises ValueError for other shapes and values that are NaN or infinite.
    """
    return _iou(_list_of(a)[:, None], _list_of(b)[None])


def visible(boxes: ArrayLike, windows: ArrayLike) -> tuple[Boxes, Boxes]:
    """The part of boxes inside windows, as (share of the box's area, area). (.., 4) and (.., 4) -> (..)."""
    box, window = _floats(boxes), _floats(windows)
    inside, area = _intersection(box, window), _area(box)
    return np.divide(inside, area, out=np.zeros_like(inside), where=area > 0), inside


def merge(boxes: ArrayLike, scores: ArrayLike, threshold: float) -> tuple[Boxes, NDArray[np.float64]]:
    """Greedy merging of OverFeat (Sermanet et al. 2014, Sect. 4.4), whose match score this project defines.

    The pair of boxes with the smallest match score, the first of equal ones, is replaced by one box, until that score
    is above the threshold.
    The match score is the distance of the centres in units of sqrt(mean area), plus 1 - IoU. A merged box has the
    mean coordinates of all its members, equally weighted, and the sum of their scores.

    Args:
        boxes: (N, 4), of one class, over all windows, scales and nets.
        scores: (N,), such as the class's posterior at each box's window.
        threshold: 0 merges equal boxes only, infinity all of them.

    Returns:
        (M, 4) boxes and (M,) scores, best first; equal scores in the order of their first member.

    Raises ValueError for shapes that do not fit and values that are NaN or infinite.
    """
    return next(merge_each(boxes, scores, [threshold]))


def merge_each(
    boxes: ArrayLike, scores: ArrayLike, thresholds: Sequence[float]
) -> Iterator[tuple[Boxes, NDArray[np.float64]]]:
    """The result of `merge` at each of several rising thresholds, in the time of the last one.

    The best pair is merged first at every threshold, so a higher threshold continues where a lower one stops.
    Shapes and errors are those of `merge`.
    """
    values, ratings = np.array(boxes, dtype=np.float64), np.array(scores, dtype=np.float64)
    if values.ndim != 2 or values.shape[1:] != (4,) or ratings.shape != values.shape[:1]:
        raise ValueError(f"boxes {values.shape} and scores {ratings.shape} must be (N, 4) and (N,)")
    merging = _Merging(values[None], ratings[None])
    for threshold in thresholds:
        merging.up_to(threshold)
        alive = np.flatnonzero(merging.alive[0])
        order = alive[np.argsort(-merging.ratings[0, alive], kind="stable")]
        yield merging.columns[:4, 0, order].T, merging.ratings[0, order]


def best_merged(boxes: ArrayLike, scores: ArrayLike, thresholds: Sequence[float]) -> Boxes:
    """The best box after `merge`, for K classes side by side and T rising thresholds.

    (K, N, 4) and (K, N), N at least 1 -> (T, K, 4). Raises ValueError for values that are NaN or infinite.
    """
    merging = _Merging(np.array(boxes, dtype=np.float64), np.array(scores, dtype=np.float64))
    best = []
    for threshold in thresholds:
        merging.up_to(threshold)
        first = np.where(merging.alive, merging.ratings, -np.inf).argmax(axis=1)
        best.append(merging.columns[:4, np.arange(len(first)), first].T)
    return np.array(best)


class _Merging:
    """The boxes of K classes during merging: one step merges the best pair of every class.

    A step takes time in proportion to N: each box stores its best match among the boxes behind it, and a merge changes
    few of these. The classes take their steps together, because a step is many calls on short arrays.
    """

    def __init__(self, boxes: Boxes, ratings: Boxes) -> None:
        if not (np.isfinite(boxes).all() and np.isfinite(ratings).all()):
            raise ValueError("boxes and scores must be finite numbers")
        k, n = ratings.shape
        self.columns = _columns(boxes)
        """(7, K, N)."""
        self.ratings, self.weights, self.alive = ratings, np.ones((k, n)), np.ones((k, n), dtype=bool)
        self._nearest = np.zeros((k, n), dtype=np.intp)
        """(K, N) the best match among the boxes behind each one; the first of equals."""
        self._lowest = np.full((k, n), np.inf)
        """(K, N) its match score."""
        for i in range(n - 1):
            scores = _match(self.columns[..., i + 1 :], self.columns[..., i, None])
            self._nearest[:, i], self._lowest[:, i] = i + 1 + scores.argmin(axis=1), scores.min(axis=1)

    def up_to(self, threshold: float) -> None:
        """Merges the best pair of each class until its match score is above the threshold."""
        if not self._lowest.size:
            return
        while True:
            lowest = self._lowest.min(axis=1)
            classes = np.flatnonzero((lowest <= threshold) & (lowest < np.inf))
            if not len(classes):
                return
            self._step(classes, self._lowest[classes].argmin(axis=1))
            if 2 * self.alive.sum(axis=1).max() < self.alive.shape[1]:
                self._forget_merged()

    def _step(self, k: NDArray[np.intp], i: NDArray[np.intp]) -> None:
        """Merges box i of each class k with its best match, in i's place."""
        j, here = self._nearest[k, i], i[:, None]
        total = self.weights[k, i] + self.weights[k, j]
        one, other = self.columns[:4, k, i], self.columns[:4, k, j]
        merged = _columns((one + (other - one) * (self.weights[k, j] / total)).T)  # equal boxes stay what they are
        self.columns[:, k, i], self.weights[k, i] = merged, total
        self.ratings[k, i] += self.ratings[k, j]
        self.alive[k, j], self.columns[_ACROSS, k, j], self._lowest[k, j] = False, np.inf, np.inf
        nearest, lowest = self._nearest[k], self._lowest[k]
        # Boxes before i may match it best now. Those whose best was i or j search again, unless i is as good.
        anew = _match(self.columns[:, k], merged[..., None])  # (k, N)
        places = np.arange(anew.shape[1])
        closer = (places < here) & ((anew < lowest) | ((anew == lowest) & (nearest >= here))) & (anew < np.inf)
        again = ((nearest == here) | (nearest == j[:, None])) & ~closer & self.alive[k]
        self._nearest[k], self._lowest[k] = np.where(closer, here, nearest), np.where(closer, anew, lowest)
        again[np.arange(len(k)), i] = False
        self._look(k, i, anew)
        of, row = np.nonzero(again)
        of = k[of]
        self._look(of, row, _match(self.columns[:, of], self.columns[:, of, row][..., None]))

    def _look(self, k: NDArray[np.intp], i: NDArray[np.intp], scores: Boxes) -> None:
        """Finds the best match behind boxes i of classes k, from their match scores (len(i), N)."""
        behind = np.where(np.arange(scores.shape[1]) > i[:, None], scores, np.inf)
        best = behind.argmin(axis=1)
        self._nearest[k, i], self._lowest[k, i] = best, behind[np.arange(len(best)), best]

    def _forget_merged(self) -> None:
        """Shortens the arrays to the boxes that are left; if classes differ in number, some merged boxes stay."""
        left = np.argsort(~self.alive, axis=1, kind="stable")[:, : self.alive.sum(axis=1).max()]
        new_place = np.zeros(self.alive.shape, dtype=np.intp)
        np.put_along_axis(new_place, left, np.arange(left.shape[1])[None], axis=1)
        nearest = np.take_along_axis(self._nearest, left, axis=1)
        self._nearest = np.take_along_axis(new_place, nearest, axis=1)
        self.columns = np.take_along_axis(self.columns, left[None], axis=2)
        for name in ("ratings", "weights", "alive", "_lowest"):
            setattr(self, name, np.take_along_axis(getattr(self, name), left, axis=1))


_ACROSS = 5
"""The column with a box's horizontal position, infinite after the box was merged into another."""


def _columns(boxes: Boxes) -> Boxes:
    """Boxes (.., 4) as `_match` takes them: (7, ..) corners, area, and twice the centre."""
    x1, y1, x2, y2 = np.moveaxis(boxes, -1, 0)
    return np.stack([x1, y1, x2, y2, np.maximum(x2 - x1, 0.0) * np.maximum(y2 - y1, 0.0), x1 + x2, y1 + y2])


def _match(a: Boxes, b: Boxes) -> Boxes:
    """Match scores of boxes from `_columns`, broadcast: 0 for equal ones; points never match other points.

    Written out on columns for speed: it runs at every merge, hundreds of times an image.
    """
    across = np.maximum(np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]), 0.0)
    down = np.maximum(np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]), 0.0)
    inside, both = across * down, a[4] + b[4]
    right, low = a[5] - b[5], a[6] - b[6]
    with np.errstate(divide="ignore", invalid="ignore"):  # for points, which are set below
        score: Boxes = np.sqrt((right * right + low * low) / (2 * both)) + (1.0 - inside / (both - inside))
    if (points := both <= 0).any():
        score[points] = np.where((a == b).all(axis=0), 0.0, np.inf)[points]
    return score


def _iou(a: Boxes, b: Boxes) -> Boxes:
    inside = _intersection(a, b)
    union = _area(a) + _area(b) - inside
    return np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)


def _intersection(a: Boxes, b: Boxes) -> Boxes:
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    product: Boxes = np.maximum(sides, 0.0).prod(axis=-1)
    return product


def _area(boxes: Boxes) -> Boxes:
    product: Boxes = np.maximum(boxes[..., 2:] - boxes[..., :2], 0.0).prod(axis=-1)
    return product


def _list_of(boxes: ArrayLike) -> Boxes:
    """Finite boxes (N, 4), of one box (4,) or of none as well."""
    values = _floats(boxes)
    if not values.size:
        return np.empty((0, 4))
    if values.ndim > 2 or values.shape[-1:] != (4,):
        raise ValueError(f"boxes {values.shape} must be (N, 4)")
    if not np.isfinite(values).all():
        raise ValueError("boxes must be finite numbers")
    return values.reshape(-1, 4)


def _floats(values: Any) -> Boxes:
    return np.asarray(values, dtype=np.float64)
