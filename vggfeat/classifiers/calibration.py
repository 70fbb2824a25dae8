"""Class probabilities from scores: Platt's sigmoids, fitted on the scores of held-out folds.

The scores that a fit gives its own training samples are too good to calibrate on. So each fold is scored by a fit on
the other folds, and each class's sigmoid is fitted on the scores of all folds together: scikit-learn's
CalibratedClassifierCV(method="sigmoid", ensemble=False).

References: Platt, Probabilistic outputs for support vector machines, 1999. Lin, Lin and Weng, A note on Platt's
probabilistic outputs for support vector machines, Machine Learning 2007.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.model_selection import StratifiedKFold

from vggfeat.classifiers.engine import Engine, Rows, Solution
from vggfeat.classifiers.objective import Double
from vggfeat.classifiers.targets import rarest_class

FOLDS = 5
"""As many as CalibratedClassifierCV has by default; fewer where every class has fewer samples."""

MAX_STEPS = 100
"""Newton steps; about ten suffice."""

DECREMENT = 1e-14
"""A sigmoid is found when the next step would lower the loss of a sample by less, on average."""

AT_ONCE = 4_000_000
"""Scores whose sigmoids are fitted together, 32 MB an array."""


def held_out_folds(positive: NDArray[np.bool_], names: Sequence[Any]) -> list[Rows]:
    """The rows of each fold: every class is spread over the folds, and consecutive samples stay together.

    Args:
        positive: (N, K) which samples are of each class and count there. A sample of several classes is spread with the
            rarest.
        names: K names, for the error.

    Raises ValueError for a class that all folds but one lack.
    """
    own = rarest_class(positive)
    count = min(FOLDS, int(np.bincount(own).max()))
    folds: list[Rows] = []
    if count > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of classes with fewer samples than folds
            folds = [test for _, test in StratifiedKFold(count).split(own, own)]
    total = positive.sum(axis=0)
    most = np.max([positive[fold].sum(axis=0) for fold in folds], axis=0) if folds else total
    if (most == total).any():
        lacking = int((most == total).argmax())
        raise ValueError(
            f"no probabilities for class {names[lacking]!r}: they need at least 2 training samples of it, in different "
            f"folds; it has {total[lacking]}"
        )
    return folds


def held_out_scores(
    engine: Engine, rows: Rows, folds: Sequence[Rows], cost: Double, start: list[Solution]
) -> NDArray[np.floating]:
    """(n, K) scores of the engine's `rows`, each by a fit on the other folds at the costs (K,).

    `folds` are places among `rows`. Each fit starts at the solution on all rows, `start`.
    """
    scores = np.empty((len(rows), len(cost)))
    for fold in folds:
        solution = engine.solve(np.delete(rows, fold), [cost], start)[0]
        scores[fold] = engine.scores(solution, rows[fold]).T
    return scores


def fit_sigmoids(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], weight: NDArray[np.floating] | None = None
) -> Double:
    """(K, 2) slope a and offset b of each class's sigmoid 1 / (1 + exp(a f + b)) of its score f.

    Minimises the cross-entropy to Platt's smoothed targets, which keep the sigmoid finite where scores separate the
    class, by Newton's method. scores and positive are (N, K), weight (N, K) or (N, 1).
    """
    n, k = scores.shape
    weight = np.broadcast_to(np.ones((1, 1)) if weight is None else weight, (n, k))
    groups = np.array_split(np.arange(k), -(-n * k // AT_ONCE))
    return np.concatenate([_fit(scores[:, own].T, positive[:, own].T, weight[:, own].T) for own in groups if len(own)])


def _fit(scores: NDArray[np.floating], positive: NDArray[np.bool_], weight: NDArray[np.floating]) -> Double:
    """The sigmoids (K, 2) of K classes together, from (K, N)."""
    size = np.maximum(np.abs(scores).max(axis=1), np.finfo(np.float32).tiny)
    f, w = scores / size[:, None], weight.astype(np.float64)
    n1 = np.where(positive, w, 0).sum(axis=1)
    n0 = w.sum(axis=1) - n1
    target = np.where(positive, ((n1 + 1) / (n1 + 2))[:, None], (1 / (n0 + 2))[:, None])

    def loss(ab: Double) -> Double:
        z = ab[:, :1] * f + ab[:, 1:]
        return np.einsum("kn,kn->k", w, np.logaddexp(0, z) - (1 - target) * z)

    ab = np.stack([np.zeros_like(n0), np.log((n0 + 1) / (n1 + 1))], axis=1)
    value = loss(ab)
    for _ in range(MAX_STEPS):
        step, decrement = _newton_step(ab, f, w, target)
        if (decrement <= DECREMENT * (n0 + n1)).all():
            break
        length = np.ones_like(n0)
        for _ in range(MAX_STEPS):
            after = loss(ab - length[:, None] * step)
            if not (worse := after > value).any():
                break
            length[worse] /= 2
        length[worse] = 0  # rounding alone decides
        ab, value = ab - length[:, None] * step, np.where(worse, value, after)
    return ab / np.stack([size, np.ones_like(size)], axis=1)


def _newton_step(ab: Double, f: Double, w: Double, target: Double) -> tuple[Double, Double]:
    """(K, 2) Newton's steps, and (K,) by how much each lowers the loss to second order."""
    p = expit(-(ab[:, :1] * f + ab[:, 1:]))
    slope, bend = w * (target - p), w * p * (1 - p)
    g = np.stack([np.einsum("kn,kn->k", slope, f), slope.sum(axis=1)], axis=1)
    off = np.einsum("kn,kn->k", bend, f)
    H = np.stack([np.einsum("kn,kn,kn->k", bend, f, f), off, off, bend.sum(axis=1)], axis=1).reshape(-1, 2, 2)
    H += 1e-12 * (1 + np.trace(H, axis1=1, axis2=2))[:, None, None] * np.eye(2)  # scores may all be equal
    step = np.linalg.solve(H, g[:, :, None])[:, :, 0]
    return step, np.einsum("ki,ki->k", g, step) / 2
