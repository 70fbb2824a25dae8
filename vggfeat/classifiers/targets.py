"""Labels, class weights and sample weights -> the one-vs-rest problems' positives and costs."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target

SPARSE = (
    "Sparse data was passed for {}, but dense data is required. Use '.toarray()' to convert to a dense numpy array."
)
"""scikit-learn's words for a sparse X."""


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


def rarest_class(positive: NDArray[np.bool_]) -> NDArray[np.intp]:
    """(N,) of each sample's classes the one with the fewest samples, from (N, K); K for a sample without a class."""
    n, k = positive.shape
    rarest = np.where(positive, positive.sum(axis=0), n + 1).argmin(axis=1)
    return np.where(positive.any(axis=1), rarest, k)


def unit_costs(
    positive: NDArray[np.bool_],
    classes: NDArray[Any],
    multilabel: bool,
    class_weight: Mapping[Any, float] | str | None,
    sample_weight: ArrayLike | None,
) -> NDArray[np.float64]:
    """(N, K) factors of C; a broadcast view if all are 1. A factor of 0 removes the sample from that class's problem.

    class_weight follows LIBLINEAR: with two single-label classes or an indicator's "balanced", both sides have a
    weight; with more classes, or an indicator's dict, only the positive samples of each class.

    Raises ValueError for weights that are not finite numbers of at least 0, of a wrong shape, or 0 for every sample.
    """
    weight: NDArray[np.float64] = np.broadcast_to(1.0, (len(positive), 1))
    if sample_weight is not None:
        weight = sample_weights(sample_weight, positive.shape)
    if class_weight is None:
        return np.broadcast_to(weight, positive.shape)
    two_sided = multilabel or len(classes) == 2
    if isinstance(class_weight, str) and class_weight == "balanced":
        of_positive, of_negative = _balanced(positive, weight, 2 if two_sided else None)
    elif isinstance(class_weight, Mapping):
        given = _class_weights(class_weight, classes, multilabel)
        of_positive, of_negative = (given[1:], given[:1]) if two_sided and not multilabel else (given, np.ones(1))
    else:
        raise ValueError(f"class_weight must be None, 'balanced' or a dict, got {class_weight!r}")
    unit = weight * np.where(positive, of_positive, of_negative)
    if not unit.any():
        raise ValueError("class_weight and sample_weight are zero for every sample: nothing is left to fit")
    return unit


def sample_weights(sample_weight: ArrayLike, shape: tuple[int, int]) -> NDArray[np.float64]:
    """sample_weight as (N, 1) or (N, K) float64; ValueError for another shape, NaN or a negative weight."""
    if scipy.sparse.issparse(sample_weight):
        raise TypeError(SPARSE.format("sample_weight"))
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


def _balanced(
    positive: NDArray[np.bool_], weight: NDArray[np.float64], num_classes: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(K,) factors of the positive and of the negative samples of each column.

    As scikit-learn: a class's factor is the total weight over its own weight and the number of classes. Weights are
    counted in place of samples, so that a weight of 0 is the same as removal. num_classes None: the classes with any
    weight, whose negative samples keep the factor 1.
    """
    total = np.broadcast_to(weight.sum(axis=0), positive.shape[1])
    of_class = np.einsum("nk,nk->k", np.broadcast_to(weight, positive.shape), positive)
    if num_classes is None:
        present = (positive.T.astype(np.float64) @ weight) > 0  # (K, 1 or K): by column of weights
        return _ratio(total, present.sum(axis=0) * of_class), np.ones(1)
    return _ratio(total, num_classes * of_class), _ratio(total, num_classes * (total - of_class))


def _ratio(total: NDArray[np.float64], part: NDArray[np.float64]) -> NDArray[np.float64]:
    """total / part; 1 where part is 0, for a side without samples."""
    return np.divide(total, part, out=np.ones_like(total), where=part > 0)


def _class_weights(class_weight: Mapping[Any, float], classes: NDArray[Any], multilabel: bool) -> NDArray[np.float64]:
    """(len(classes),) weights, 1 for a class that is not named.

    A key that is not a class is an error that names it. Like scikit-learn, labels allow such keys if every class is
    named, so that one dict serves folds that lack a class.
    """
    names = classes.tolist()
    for name, value in class_weight.items():
        if not (isinstance(value, Real) and 0 <= value < float("inf")):
            raise ValueError(f"class_weight of {name!r} is {value!r}; it must be finite and at least 0")
    unknown = [key for key in class_weight if key not in names]
    if unknown and (multilabel or any(name not in class_weight for name in names)):
        there = f"columns 0 to {len(names) - 1}" if multilabel else f"the classes {', '.join(map(repr, names))}"
        raise ValueError(f"class_weight has the key {unknown[0]!r}, but y has {there}")
    return np.array([class_weight.get(name, 1.0) for name in names], dtype=np.float64)
