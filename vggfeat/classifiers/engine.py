"""What the solvers have in common: solve rows at some C, score other rows, finish with weights and their gaps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggfeat.classifiers.groups import Count, silent
from vggfeat.classifiers.limits import Limits
from vggfeat.classifiers.objective import Array, Double

Rows = NDArray[np.intp]

BLOCK = 16_384
"""Rows scored at once: 34 MB at 512 features in float32."""


@dataclass
class Solution:
    """K problems solved on `rows`, (n,), at the costs C (K,)."""

    rows: Rows
    C: Double
    gap: Double
    n_iter: NDArray[np.int64]
    values: Array
    """The Gram engine's beta (K, n) with w = X' beta; the other engines' weights (K, D + 1), the bias's last."""
    bound: Double | None = None
    """(K,) the largest dual value found, where the engine computes it: a lower bound of the optimum."""


@dataclass
class Fitted:
    """What an estimator keeps: coef (K, D), intercept (K,), the relative gap in float64 (K,), iterations (K,)."""

    coef: Array
    intercept: Array
    gap: Double
    n_iter: NDArray[np.int64]


@dataclass(frozen=True)
class Problem:
    """One-vs-rest problems on fixed rows: what every engine is made from."""

    X: Array
    """(N, D)."""
    positive: NDArray[np.bool_]
    """(K, N) which rows are of each class."""
    unit: Double
    """(K, N) costs at C = 1."""
    scaling: float
    """Value of the constant feature whose weight is the bias."""
    tol: float
    """Largest relative duality gap."""
    limits: Limits


class Engine(ABC):
    """Solves the classes of one problem, on any of its rows and at any C."""

    def __init__(self, problem: Problem) -> None:
        self.X, self.positive, self.unit = problem.X, problem.positive, problem.unit
        self.scaling, self.tol, self.limits = problem.scaling, problem.tol, problem.limits
        self.open_above = self.tol
        """A larger gap is reported as an unfinished fit."""
        self.progress: Count = silent
        """What `solve` reports to: every class once at each C."""

    @abstractmethod
    def solve(self, rows: Rows, Cs: Sequence[Double], start: list[Solution] | None = None) -> list[Solution]:
        """One solution on the rows per entry (K,) of Cs, best in ascending order.

        start has an earlier solution for each class, to begin from.
        """

    @abstractmethod
    def scores(self, solution: Solution, rows: Rows) -> Array:
        """(K, len(rows)) scores of any rows of X."""

    @abstractmethod
    def finish(self, solutions: Sequence[Solution]) -> list[Fitted]:
        """The weights of solutions on the same rows, with their gaps in float64."""

    def signs(self, rows: Rows, dtype: np.dtype) -> Array:
        """y (K, len(rows)) of 1 and -1."""
        return np.where(self.positive[:, rows], dtype.type(1), dtype.type(-1))

    def costs(self, solution: Solution) -> Double:
        """(K, n) the cost of each row that the solution was fitted on."""
        return solution.C[:, None] * self.unit[:, solution.rows]

    def fitted(self, weights: Array, gap: Double, n_iter: NDArray[np.int64]) -> Fitted:
        """weights (K, D + 1), whose bias feature has the value `scaling`, as coef and intercept."""
        weights = weights.astype(self.X.dtype, copy=False)
        intercept = weights[:, -1] * weights.dtype.type(self.scaling)
        finite = np.isfinite(weights).all(axis=1) & np.isfinite(intercept)
        return Fitted(np.ascontiguousarray(weights[:, :-1]), intercept, np.where(finite, gap, np.inf), n_iter)


class WeightsEngine(Engine):
    """An engine whose solutions are the weights themselves."""

    def scores(self, solution: Solution, rows: Rows) -> Array:
        """See Engine."""
        weights = solution.values
        found = np.empty((len(weights), len(rows)), dtype=np.result_type(weights, self.X))
        for start in range(0, len(rows), BLOCK):
            part = slice(start, start + BLOCK)
            found[:, part] = weights[:, :-1] @ self.X[rows[part]].T + self.scaling * weights[:, -1:]
        return found
