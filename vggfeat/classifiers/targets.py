"""Labels, class weights and sample weights -> the one-vs-rest problems' positives and costs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import column_or_1d, compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target


def encode_labels(y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_], bool]:
    """(classes, positive (N, K), multilabel) of labels (N,) or an indicator (N, K)."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    check_classification_targets(y)
    if y.ndim == 2:
        if type_of_target(y) != "multilabel-indicator" or not np.isin(y, (0, 1)).all():
            raise ValueError("y of shape (N, K) must be an indicator of zeros and ones")
        return np.arange(y.shape[1]), y > 0, True
    classes, index = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            "This solver needs samples of at least 2 classes in the data, "
            f"but the data contains only one class: {classes[0]!r}"
        )
    positive = index[:, None] == np.arange(len(classes))
    return classes, positive[:, 1:] if len(classes) == 2 else positive, False


def unit_costs(
    positive: NDArray[np.bool_],
    classes: NDArray[Any],
    y: NDArray[Any],
    multilabel: bool,
    class_weight: dict[Any, float] | str | None,
    sample_weight: ArrayLike | None,
) -> NDArray[np.float64]:
    """(N, K) factors of C; a broadcast view where all are 1."""
    weight: NDArray[np.float64] = np.ones(())
    if sample_weight is not None:
        weight = _sample_weight(sample_weight, positive.shape)
    if class_weight is None:
        return np.broadcast_to(weight, positive.shape)
    if multilabel:
        of_positive, of_negative = _indicator_weights(positive, class_weight)
    else:
        labels = np.ravel(y)
        plain = weight[:, 0] if weight.ndim == 2 and weight.shape[1] == 1 else None
        of_class = compute_class_weight(class_weight, classes=classes, y=labels, sample_weight=plain)
        # LIBLINEAR's rule: with two classes both weights count, with more only the positive class's own.
        of_positive, of_negative = (of_class[1:], of_class[:1]) if len(classes) == 2 else (of_class, np.ones(1))
    return weight * np.where(positive, of_positive, of_negative)


def _sample_weight(sample_weight: ArrayLike, shape: tuple[int, int]) -> NDArray[np.float64]:
    """sample_weight as (N, 1) or (N, K) float64; ValueError for another shape, NaN or a negative weight."""
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.ndim == 0:
        weight = np.full(shape[0], float(weight))
    if weight.shape not in ((shape[0],), shape):
        raise ValueError(
            f"sample_weight has shape {weight.shape}; with this X and y it must be ({shape[0]},) or {shape}"
        )
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError("sample_weight must be finite and at least 0")
    if not weight.any():
        raise ValueError("sample_weight is zero for every sample: nothing is left to fit")
    return weight[:, None] if weight.ndim == 1 else weight


def _indicator_weights(
    positive: NDArray[np.bool_], class_weight: dict[Any, float] | str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(K,) factors of the positive and of the negative samples of each column."""
    n, k = positive.shape
    if class_weight == "balanced":
        count = positive.sum(axis=0)
        return n / (2 * np.maximum(count, 1)), n / (2 * np.maximum(n - count, 1))
    if not isinstance(class_weight, dict):
        raise ValueError(f"class_weight must be None, 'balanced' or a dict, got {class_weight!r}")
    unknown = sorted(set(class_weight) - set(range(k)), key=str)
    if unknown:
        raise ValueError(f"class_weight has the key {unknown[0]!r}, but y has columns 0 to {k - 1}")
    return np.array([class_weight.get(at, 1.0) for at in range(k)], dtype=np.float64), np.ones(k)
