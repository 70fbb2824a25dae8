"""Bounding boxes (Appendix A): regression targets, overlap, OverFeat's greedy merging. Pure functions.

A box is (xmin, ymin, xmax, ymax), half-open: its width is xmax - xmin. Any unit serves, so long as boxes that meet
share it. A target is what a localisation net predicts: (centre x, centre y, width, height) of a box in the coordinates
of a net's 224x224 window, whose side is the unit and whose corner at top left is the origin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Boxes = NDArray[np.float64]
"""(.., 4)."""

CORRECT_IOU = 0.5
"""A predicted box is right where its overlap with the ground truth is above this (Appendix A)."""


def encode(boxes: ArrayLike, windows: ArrayLike, mirrored: bool = False) -> Boxes:
    """Boxes as seen from windows -> targets. (.., 4) and (.., 4), broadcast -> (.., 4).

    `mirrored`: the net sees the window's mirror image.
    """
    box, window = _floats(boxes), _floats(windows)
    origin, side = window[..., :2], window[..., 2:] - window[..., :2]
    centre = ((box[..., :2] + box[..., 2:]) / 2 - origin) / side
    if mirrored:
        centre[..., 0] = 1 - centre[..., 0]
    return np.concatenate([centre, (box[..., 2:] - box[..., :2]) / side], axis=-1)


def decode(targets: ArrayLike, windows: ArrayLike, mirrored: bool = False) -> Boxes:
    """The inverse of `encode`. A negative width or height, which a net may well predict, becomes zero."""
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
    """Intersection over union of each pair: (N, 4) and (M, 4) -> (N, M). Two boxes without area overlap by 0."""
    one, other = _floats(a).reshape(-1, 1, 4), _floats(b).reshape(1, -1, 4)
    return _iou(one, other)


def visible(boxes: ArrayLike, windows: ArrayLike) -> tuple[Boxes, Boxes]:
    """How much of boxes lies inside of windows, as (share of the box's area, area). (.., 4) and (.., 4) -> (..)."""
    box, window = _floats(boxes), _floats(windows)
    inside, area = _intersection(box, window), _area(box)
    return np.divide(inside, area, out=np.zeros_like(inside), where=area > 0), inside


def merge(boxes: ArrayLike, scores: ArrayLike, threshold: float) -> tuple[Boxes, NDArray[np.float64]]:
    """Greedy merging of OverFeat (Sermanet et al. 2014, Sect. 4.4) with the match score that the project fixes.

    The pair of boxes with the smallest match score is replaced by one box, until that score is above the threshold.
    The match score is the distance of the centres in units of sqrt(mean area), plus 1 - IoU. A merged box has the
    average of the coordinates of all boxes that went into it, each weighing the same, and the sum of their scores.

    Args:
        boxes: (N, 4), of one class, over all windows, scales and nets.
        scores: (N,), such as the class's posterior at each box's window.
        threshold: 0 merges equal boxes only, infinity all of them.

    Returns:
        (M, 4) boxes and (M,) scores, best first; boxes of one score in the order of their first member.

    Raises ValueError for shapes that do not fit and values that are NaN or infinite.
    """
    return next(merge_each(boxes, scores, [threshold]))


def merge_each(
    boxes: ArrayLike, scores: ArrayLike, thresholds: Sequence[float]
) -> Iterator[tuple[Boxes, NDArray[np.float64]]]:
    """What `merge` gives at each of several rising thresholds, in the time of the last alone.

    The best pair goes first whatever the threshold, so that a higher one goes on where a lower one stops.
    """
    kept, rating = np.array(boxes, dtype=np.float64), np.array(scores, dtype=np.float64)
    if kept.ndim != 2 or kept.shape[1:] != (4,) or rating.shape != kept.shape[:1]:
        raise ValueError(f"boxes {kept.shape} and scores {rating.shape} must be (N, 4) and (N,)")
    if not (np.isfinite(kept).all() and np.isfinite(rating).all()):
        raise ValueError("boxes and scores must be finite numbers")
    n = len(kept)
    weight, alive = np.ones(n), np.ones(n, dtype=bool)
    match = np.empty((n, n))
    for i in range(n):
        match[i] = _match(kept, i)
        match[i, : i + 1] = np.inf  # each pair stands once, in the row of the first of the two
    for threshold in thresholds:
        while n:
            i, j = divmod(int(match.argmin()), n)
            if match[i, j] > threshold or match[i, j] == np.inf:
                break
            kept[i] = (weight[i] * kept[i] + weight[j] * kept[j]) / (weight[i] + weight[j])
            weight[i], rating[i] = weight[i] + weight[j], rating[i] + rating[j]
            alive[j] = False
            match[j], match[:, j] = np.inf, np.inf
            anew = np.where(alive, _match(kept, i), np.inf)
            match[i, i + 1 :], match[:i, i] = anew[i + 1 :], anew[:i]
        order = np.argsort(-rating[alive], kind="stable")
        yield kept[alive][order], rating[alive][order]


def _match(boxes: Boxes, i: int) -> Boxes:
    """Match score (N,) of box i with each: 0 for equal boxes; points in different places never match.

    Written out on columns, since it runs once a merge, hundreds of times an image.
    """
    x1, y1, x2, y2 = boxes.T
    widths, heights = x2 - x1, y2 - y1
    areas = np.maximum(widths, 0.0) * np.maximum(heights, 0.0)
    across = np.maximum(np.minimum(x2, x2[i]) - np.maximum(x1, x1[i]), 0.0)
    down = np.maximum(np.minimum(y2, y2[i]) - np.maximum(y1, y1[i]), 0.0)
    inside, both = across * down, areas + areas[i]
    shift = np.hypot(x1 + x2 - x1[i] - x2[i], y1 + y2 - y1[i] - y2[i]) / 2
    with np.errstate(divide="ignore", invalid="ignore"):  # of points; equal ones are set below
        score = shift / np.sqrt(both / 2) + 1.0 - inside / (both - inside)
    score[(x1 == x1[i]) & (y1 == y1[i]) & (x2 == x2[i]) & (y2 == y2[i])] = 0.0
    return np.where(np.isnan(score), np.inf, score)


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


def _floats(values: Any) -> Boxes:
    return np.asarray(values, dtype=np.float64)
