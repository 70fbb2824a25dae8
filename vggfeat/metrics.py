"""The paper's measures as pure functions: average precision (both definitions), class recall, top-k error,
localisation error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vggfeat.boxes import CORRECT_IOU, iou
from vggfeat.errors import unknown_name

Definition = Literal["voc2007", "voc2010"]

TOP = 5
"""Classes a guess may name (ILSVRC's main measure), and a line of a submission does."""

RECALL_STEPS = 10
"""VOC 2007 reads the precision at recalls 0/10, 1/10 .. 10/10."""


def average_precision(labels: ArrayLike, scores: ArrayLike, definition: Definition = "voc2007") -> float:
    """Average precision of one class, as PASCAL VOC defines it.

    Args:
        labels: (N,) of 1, 0 (difficult: neither hit nor miss, dropped before ranking) and -1, in image-set order.
        scores: (N,), higher is surer; equal scores keep the image-set order. Minus infinity marks an image without a
            score.
        definition: "voc2007": mean over recalls 0, 0.1 .. 1 of the largest precision at that recall or above;
            "voc2010" (2010 and later): the area under the precision envelope.

    Returns:
        A value from 0 to 1, or nan if no label is 1.

    Raises ValueError for scores that are NaN, other labels and different lengths.

    References:
        Everingham, Winn: The PASCAL Visual Object Classes Challenge development kits 2007 (3.4.1) and 2012 (3.4.1).
    """
    if definition not in get_args(Definition):
        raise unknown_name("definition of average precision", definition, get_args(Definition))
    truth, values = _ranked_input(labels, scores)
    positives = np.count_nonzero(truth == 1)
    if positives == 0:
        return float("nan")
    order = np.argsort(-values[truth != 0], kind="stable")
    hits = np.cumsum(truth[truth != 0][order] == 1)  # true positives among the first 1, 2, .. images
    precision = hits / np.arange(1, len(hits) + 1)
    # The largest precision from each rank on. Recall never falls, so it is the largest at that recall or above.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if definition == "voc2007":
        # In integers, because 0.3, 0.6 and 0.7 are not exact. The last rank reaches every recall up to 1.
        steps = np.arange(RECALL_STEPS + 1)
        first = np.searchsorted(RECALL_STEPS * hits, steps * positives, side="left")
        return float(envelope[first].mean())
    # Recall rises by 1/positives at each hit only.
    rises = np.diff(hits, prepend=0) == 1
    return float(envelope[rises].sum() / positives)


def _ranked_input(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    truth, values = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise ValueError(f"labels {truth.shape} and scores {values.shape} must be two vectors of one length")
    if truth.dtype == bool:
        raise ValueError("labels are 1, 0 (difficult) or -1, not booleans: give np.where(labels, 1, -1)")
    if not np.isin(truth, (-1, 0, 1)).all():
        raise ValueError("labels must be 1, 0 (difficult) or -1")
    if np.isnan(values).any():
        raise ValueError(f"the score of image {int(np.isnan(values).argmax())} is NaN")
    return truth.astype(np.int64), values


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, num_classes: int | None = None) -> NDArray[np.int64]:
    """(K, K) counts: row = true class, column = predicted class. K defaults to the largest class + 1.

    Raises ValueError for arrays that are not class indices of one length, or a class of K or above.
    """
    truth, guess = _classes(labels, "labels"), _classes(predicted, "predicted")
    if truth.shape != guess.shape:
        raise ValueError(f"labels {truth.shape} and predicted {guess.shape} must be two vectors of one length")
    largest = int(max(truth.max(initial=-1), guess.max(initial=-1)))
    k = largest + 1 if num_classes is None else num_classes
    if largest >= k:
        raise ValueError(f"class {largest}, but the number of classes is {k}")
    return np.bincount(truth * k + guess, minlength=k * k).reshape(k, k)


def _classes(values: ArrayLike, name: str) -> NDArray[np.int64]:
    classes = np.asarray(values)
    if classes.ndim != 1 or (classes.size and (classes.dtype.kind not in "iu" or classes.min() < 0)):
        raise ValueError(f"{name} must be a vector of class indices from 0")
    return classes.astype(np.int64)


def class_recalls(labels: ArrayLike, predicted: ArrayLike, num_classes: int | None = None) -> NDArray[np.float64]:
    """(K,) share of each class's images predicted as that class; nan for a class without images."""
    counts = confusion_matrix(labels, predicted, num_classes)
    images = counts.sum(axis=1)
    return np.divide(counts.diagonal(), images, out=np.full(len(counts), np.nan), where=images > 0)


def mean_class_recall(labels: ArrayLike, predicted: ArrayLike, num_classes: int | None = None) -> float:
    """Mean recall of the classes with images (Appendix B's measure for Caltech); nan without images."""
    recalls = class_recalls(labels, predicted, num_classes)
    present = recalls[~np.isnan(recalls)]
    return float(present.mean()) if present.size else float("nan")


def topk_error(labels: ArrayLike, scores: ArrayLike, k: int) -> float:
    """Share of the images whose class is not among the k best-scored ones (Sect. 4: k = 1 and 5).

    Ties count against the image: its class is among the k best if fewer than k others score as much or more. So a net
    that gives all classes the same score is always wrong, whatever the order of the classes.

    Args:
        labels: (N,) class indices.
        scores: (N, K).
        k: from 1 to K.

    Raises ValueError for NaN scores, classes out of range and shapes that do not fit.
    """
    truth, values = _classes(labels, "labels"), np.asarray(scores)
    if values.ndim != 2 or len(values) != len(truth):
        raise ValueError(f"scores {values.shape} must have one row for each label, {len(truth)} in all")
    if not 1 <= k <= values.shape[1]:
        raise ValueError(f"k = {k} is not between 1 and the number of classes, {values.shape[1]}")
    if truth.size == 0:
        return float("nan")
    if truth.max() >= values.shape[1]:
        raise ValueError(f"class {int(truth.max())}, but the number of classes is {values.shape[1]}")
    if np.isnan(values).any():
        raise ValueError(f"a score of image {int(np.isnan(values).any(axis=1).argmax())} is NaN")
    own = values[np.arange(len(truth)), truth]
    others = np.count_nonzero(values >= own[:, None], axis=1) - 1
    return float(np.mean(others >= k))


def percent(share: float) -> float:
    """A share in %, rounded so that 0.343 is 34.3 and not 34.300000000000004."""
    return round(100 * share, 10)


def localisation_error(
    labels: ArrayLike, truth: Sequence[ArrayLike], classes: ArrayLike, boxes: ArrayLike, k: int = 5
) -> float:
    """Share of the images without a right one among the first k guesses (Appendix A).

    A guess is right if its class is the image's and its box overlaps one of the image's boxes of that class with an IoU
    above 0.5.

    Args:
        labels: (N,) class indices.
        truth: for each image (M_i, 4) boxes (xmin, ymin, xmax, ymax); an image without boxes counts as an error.
        classes: (N, K) guessed classes, surest first.
        boxes: (N, K, 4) their boxes, in the unit of `truth`.
        k: how many guesses count, from 1 to K.

    Raises ValueError for shapes that do not fit and coordinates that are NaN or infinite.
    """
    own, guessed, placed = _classes(labels, "labels"), np.asarray(classes), np.asarray(boxes, dtype=np.float64)
    if guessed.ndim != 2 or placed.shape != (*guessed.shape, 4) or not len(own) == len(truth) == len(guessed):
        raise ValueError(
            f"labels of length {len(own)} and true boxes of length {len(truth)} need classes (N, K) and boxes "
            f"(N, K, 4), not {guessed.shape} and {placed.shape}"
        )
    if not 1 <= k <= guessed.shape[1]:
        raise ValueError(f"k = {k} is not between 1 and the number of guesses, {guessed.shape[1]}")
    if np.isnan(placed).any():
        raise ValueError(f"a box of image {int(np.isnan(placed).any(axis=(1, 2)).argmax())} is NaN")
    if np.isinf(placed).any():
        raise ValueError(f"a box of image {int(np.isinf(placed).any(axis=(1, 2)).argmax())} is infinite")
    if own.size == 0:
        return float("nan")
    hits = guessed[:, :k] == own[:, None]  # (N, k)
    for image, there in enumerate(truth):
        hits[image] &= (_overlaps(placed[image, :k], there, image) > CORRECT_IOU).any(axis=1)
    return float(np.mean(~hits.any(axis=1)))


def _overlaps(placed: NDArray[np.float64], there: ArrayLike, image: int) -> NDArray[np.float64]:
    """IoU of an image's guessed boxes and its true ones. Raises ValueError, naming the image."""
    try:
        return iou(placed, there)
    except ValueError as error:
        raise ValueError(f"true boxes of image {image}: {error}") from None


def positive_share(labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """(n, K) labels 1, 0 (difficult), -1 -> (K,) share of 1 among those that are not 0; nan without any.

    It is about the average precision of a random ranking.
    """
    positive, negative = (labels == 1).sum(axis=0), (labels == -1).sum(axis=0)
    with np.errstate(invalid="ignore"):
        share: NDArray[np.float64] = positive / (positive + negative)
    return share


def chance_topk_error(num_classes: int, k: int) -> float:
    """Expected top-k error in % of guessing k different classes."""
    return 100 * max(0.0, 1 - k / num_classes)
