"""Three ways to solve an SVM problem, behind one shape: solve rows at some C, score other rows, finish with weights.

`GramEngine` is the usual one; `PrimalEngine` serves few features; `LiblinearEngine` is the yardstick, and serves what
the others do not.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from vggfeat.classifiers import newton

Rows = NDArray[np.intp]
Array = NDArray[np.floating]
Double = NDArray[np.float64]

MAX_GRAM_ROWS = 40_000
"""K in float32 takes 4 n^2 bytes, 6.4 GB here, and once more for the training rows' part while C is chosen."""
MAX_PRIMAL_FEATURES = 256
"""Up to here (D + 1)^2 Hessians, in float64, cost less than products with K."""
MAX_REFINE = 6
"""Rounds of float64: a row that comes to count only then needs another."""
BLOCK = 1024
"""Rows of X turned to float64 at a time: 100 MB at 12,288 features."""


@dataclass
class Solution:
    """K problems solved on `rows`: `dual` beta (K, n) with w = X' beta, or `weights` (K, D + 1), the bias's last."""

    rows: Rows
    C: Double
    gap: Double
    n_iter: NDArray[np.int64]
    dual: Array | None = None
    weights: Array | None = None


@dataclass
class Fitted:
    """What an estimator keeps: coef (K, D), intercept (K,), the relative gap in float64 (K,), iterations (K,)."""

    coef: Array
    intercept: Array
    gap: Double
    n_iter: NDArray[np.int64]


def choose_engine(
    X: Array,
    positive: NDArray[np.bool_],
    unit: Double,
    *,
    loss: str,
    solver: str,
    intercept_scaling: float,
    tol: float,
) -> Engine:
    """The engine for X (N, D), positive (K, N) and costs at C = 1, unit (K, N); warns where it has to be LIBLINEAR."""
    n, d = X.shape
    few_features = d <= MAX_PRIMAL_FEATURES and d < n
    if solver != "liblinear" and loss == "squared_hinge":
        if few_features:
            return PrimalEngine(X, positive, unit, intercept_scaling, tol)
        if solver == "newton" or n <= MAX_GRAM_ROWS:
            return GramEngine(X, positive, unit, intercept_scaling, tol)
        warnings.warn(
            f"{n} rows are more than the {MAX_GRAM_ROWS} whose Gram matrix fits in memory: "
            "fitting with LIBLINEAR, one class after another",
            stacklevel=4,
        )
    elif solver == "auto":
        warnings.warn("the plain hinge is fitted with LIBLINEAR, one class after another", stacklevel=4)
    return LiblinearEngine(X, positive, unit, intercept_scaling, tol, loss)


class Engine(ABC):
    """One-vs-rest problems on fixed X (N, D), positive (K, N) and unit costs (K, N)."""

    def __init__(
        self, X: Array, positive: NDArray[np.bool_], unit: Double, intercept_scaling: float, tol: float
    ) -> None:
        self.X = X
        self.positive = positive
        self.unit = unit
        self.scaling = intercept_scaling
        self.tol = tol

    @abstractmethod
    def solve(self, rows: Rows, Cs: Sequence[Double], start: list[Solution] | None = None) -> list[Solution]:
        """One solution on the rows per entry (K,) of Cs, ascending at best; start has an earlier solution per class."""

    @abstractmethod
    def scores(self, solution: Solution, rows: Rows) -> Array:
        """(K, len(rows)) scores of any rows of X."""

    @abstractmethod
    def finish(self, solutions: Sequence[Solution]) -> list[Fitted]:
        """The weights of solutions on the same rows, with their gaps in float64."""

    def signs(self, rows: Rows, dtype: np.dtype) -> Array:
        """y (K, len(rows)) of 1 and -1."""
        return np.where(self.positive[:, rows], dtype.type(1), dtype.type(-1))

    def fitted(self, weights: Array, gap: Double, n_iter: NDArray[np.int64]) -> Fitted:
        """weights (K, D + 1), whose bias feature has the value `scaling`, as coef and intercept."""
        weights = weights.astype(self.X.dtype, copy=False)
        return Fitted(
            np.ascontiguousarray(weights[:, :-1]), weights[:, -1] * weights.dtype.type(self.scaling), gap, n_iter
        )

    def warn_if_open(self, gap: Double) -> None:
        """A ConvergenceWarning if a gap is above tol."""
        if (gap > self.tol).any():
            warnings.warn(
                f"{np.count_nonzero(gap > self.tol)} of {len(gap)} fits stopped short of the optimum: the largest "
                f"relative duality gap is {gap.max():.1e}, tol is {self.tol:.0e}; scale the features or lower C",
                ConvergenceWarning,
                stacklevel=5,
            )


class GramEngine(Engine):
    """Newton's method on K = X X' + s^2, which is made once for all rows of X."""

    def __init__(
        self, X: Array, positive: NDArray[np.bool_], unit: Double, intercept_scaling: float, tol: float
    ) -> None:
        super().__init__(X, positive, unit, intercept_scaling, tol)
        self._gram: newton.Gram | None = None
        self._part: tuple[Rows, newton.Gram] | None = None

    @property
    def gram(self) -> newton.Gram:
        """Over all rows of X."""
        if self._gram is None:
            self._gram = newton.gram(self.X, self.scaling)
        return self._gram

    def solve(self, rows: Rows, Cs: Sequence[Double], start: list[Solution] | None = None) -> list[Solution]:
        """See Engine."""
        gram = self._of(rows)
        dtype = gram.dtype
        unit = self.unit if len(rows) == len(self.X) else self.unit[:, rows]
        states = newton.path(
            gram,
            self.signs(rows, dtype),
            unit.astype(dtype) if unit.strides != (0, 0) else np.broadcast_to(dtype.type(unit.flat[0]), unit.shape),
            [C.astype(dtype) for C in Cs],
            None if start is None else self._betas(start, rows).astype(dtype),
            0.9 * self.tol,
        )
        return [Solution(rows, C, s.gap, s.steps, dual=s.beta) for C, s in zip(Cs, states, strict=True)]

    def scores(self, solution: Solution, rows: Rows) -> Array:
        """See Engine."""
        return _dual(solution) @ self.gram.K[np.ix_(solution.rows, rows)]

    def finish(self, solutions: Sequence[Solution]) -> list[Fitted]:
        """See Engine. The gaps are those of the rounded weights; what float32 left open is refined in float64."""
        rows = solutions[0].rows
        certificate = Certificate(self.X, rows, self.scaling, self._of(rows))
        # Several solutions share one reading of X, which is to be turned to float64 block by block.
        at_once = max(1, 50_000_000 // (len(self.positive) * len(rows)))
        fitted: list[Fitted] = []
        for start in range(0, len(solutions), at_once):
            fitted += self._finish(solutions[start : start + at_once], certificate)
        self.warn_if_open(np.concatenate([one.gap for one in fitted]))
        return fitted

    def _finish(self, solutions: Sequence[Solution], certificate: Certificate) -> list[Fitted]:
        """The K classes of some solutions on the same rows, as one stack of problems."""
        beta = np.concatenate([_dual(solution) for solution in solutions])
        y = np.tile(self.signs(solutions[0].rows, beta.dtype), (len(solutions), 1))
        cost = np.concatenate([self._costs(solution) for solution in solutions])
        weights, f, gap = certificate.check(y, cost, beta, self.tol)
        betas = {k: beta[k].astype(np.float64) for k in np.flatnonzero(gap > self.tol)}
        for _ in range(MAX_REFINE):
            for k in list(betas):
                args = y[k].astype(np.float64), cost[k].astype(np.float64), betas[k], f[k]
                better = newton.refine(certificate.subset(), self.scaling, *args, 0.1 * self.tol)
                if better is None:
                    del betas[k]
                else:
                    betas[k] = better
            if not betas:
                break
            at = np.array(list(betas))
            weights[at], f[at], gap[at] = certificate.check(y[at], cost[at], np.stack(list(betas.values())), self.tol)
            betas = {k: one for k, one in betas.items() if gap[k] > self.tol}
        parts = (np.split(field, len(solutions)) for field in (weights, gap))
        return [self.fitted(w, g, one.n_iter) for w, g, one in zip(*parts, solutions, strict=True)]

    def _of(self, rows: Rows) -> newton.Gram:
        """The Gram matrix of some rows, kept for the last ones: a contiguous copy, as products read it many times."""
        if len(rows) == len(self.X) and np.array_equal(rows, np.arange(len(rows))):
            return self.gram
        if self._part is None or not np.array_equal(self._part[0], rows):
            self._part = (rows, newton.Gram(self.gram.K[np.ix_(rows, rows)]))
        return self._part[1]

    def _betas(self, start: list[Solution], rows: Rows) -> Array:
        """(K, len(rows)): each class's earlier beta on the rows it shares with these, and 0 on the others."""
        betas = np.zeros((len(start), len(self.X)))
        for k, solution in enumerate(start):
            betas[k, solution.rows] = _dual(solution)[k]
        return betas[:, rows]

    def _costs(self, solution: Solution) -> Array:
        return (solution.C[:, None] * self.unit[:, solution.rows]).astype(_dual(solution).dtype)


class Certificate:
    """Gaps of weights w = X' beta, from margins X w in float64 over blocks of rows."""

    def __init__(self, X: Array, rows: Rows, scaling: float, gram: newton.Gram | None = None) -> None:
        self.X, self.rows, self.scaling, self.gram = X, rows, scaling, gram
        self._subset: Array | None = None
        self.whole = len(rows) == len(X) and np.array_equal(rows, np.arange(len(X)))

    def check(self, y: Array, cost: Array, beta: Array, tol: float) -> tuple[Array, Double, Double]:
        """(weights (K, D + 1) in the dtype of X, margins' f (K, n) and relative gaps (K,), both float64)."""
        weights = self.weights(beta, exact=beta.dtype == np.float64).astype(self.X.dtype, copy=False)
        f = self.margins(weights)
        gap = np.empty(len(y))
        for k in newton.groups_of(len(y), y.shape[1]):
            gap[k] = self._gap(y[k], cost[k], beta[k], f[k], weights[k], tol)
        return weights, f, gap

    def _gap(self, y: Array, cost: Array, beta: Array, f: Double, weights: Array, tol: float) -> Double:
        """(K,): of the better of two dual points, beta itself and, where that is not enough, 2 c slack."""
        assert self.gram is not None
        y, cost, beta, weights = (part.astype(np.float64, copy=False) for part in (y, cost, beta, weights))
        slack = np.maximum(1 - y * f, 0)
        quad = newton.row_dot(weights, weights)
        gap = newton.support_gap(self.gram.diagonal, y, cost, beta, f, slack, quad)[0]
        k = np.flatnonzero(gap > tol)
        if len(k):
            # |X'(alpha y)|^2 is written around |X' beta|^2: what is left to K in float32, |X' g|^2, is twice the gap,
            # and so are its rounding errors small beside the gap.
            g = 2 * cost[k] * slack[k] * y[k] - beta[k]
            single = g.astype(self.gram.dtype)
            square = newton.row_dot(single, single @ self.gram.K)
            dual_quad = 2 * newton.row_dot(beta[k], f[k]) - quad[k] + 2 * newton.row_dot(g, f[k]) + square
            primal, distance = newton.objective_and_gap(slack[k], cost[k], quad[k], dual_quad)
            gap[k] = np.minimum(gap[k], newton.relative(distance, primal))
        return gap

    def subset(self) -> Array:
        """X on the rows (a copy, unless they are all of them)."""
        if self.whole:
            return self.X
        if self._subset is None:
            self._subset = self.X[self.rows]
        return self._subset

    def weights(self, beta: Array, exact: bool = False) -> Array:
        """X' beta (K, D + 1), in beta's dtype or, if exact, in float64; the bias feature's weight last."""
        if not exact and self.whole and self.X.dtype == beta.dtype:
            weights = beta @ self.X
        else:
            weights = np.zeros((len(beta), self.X.shape[1]), dtype=np.float64 if exact else beta.dtype)
            for at, block in self._blocks(weights.dtype):
                weights += beta[:, at].astype(weights.dtype, copy=False) @ block
        bias = self.scaling * beta.sum(axis=1, dtype=np.float64)
        return np.column_stack([weights, bias.astype(weights.dtype)])

    def margins(self, weights: Array) -> Double:
        """X w (K, n) in float64."""
        f = np.empty((len(weights), len(self.rows)))
        exact = weights.astype(np.float64, copy=False)
        inner = np.ascontiguousarray(exact[:, :-1])
        for at, block in self._blocks(np.dtype(np.float64)):
            f[:, at] = inner @ block.T
        f += self.scaling * exact[:, -1:]
        return f

    def _blocks(self, dtype: np.dtype) -> Iterator[tuple[slice, Array]]:
        for start in range(0, len(self.rows), BLOCK):
            at = slice(start, min(start + BLOCK, len(self.rows)))
            block = self.X[at] if self.whole else self.X[self.rows[at]]
            yield at, block.astype(dtype, copy=False)


class PrimalEngine(Engine):
    """Newton's method on the D + 1 weights themselves, in float64: for fewer features than rows."""

    def solve(self, rows: Rows, Cs: Sequence[Double], start: list[Solution] | None = None) -> list[Solution]:
        """See Engine."""
        X = np.column_stack([self.X[rows], np.full(len(rows), self.scaling)]).astype(np.float64, copy=False)
        k = len(self.positive)
        weights = np.zeros((k, X.shape[1]))
        if start is not None:
            for at, solution in enumerate(start):
                weights[at] = _weights(solution)[at]
        found = []
        for C in Cs:
            gap, steps, new = np.empty(k), np.zeros(k, dtype=np.int64), np.empty_like(weights)
            for part in newton.groups_of(k, len(rows)):
                y = np.where(self.positive[part][:, rows], 1.0, -1.0)
                cost = C[part, None] * self.unit[part][:, rows]
                new[part], gap[part], steps[part] = newton.primal_newton(X, y, cost, weights[part], self.tol)
            weights = new
            found.append(Solution(rows, C, gap, steps, weights=weights))
        return found

    def scores(self, solution: Solution, rows: Rows) -> Array:
        """See Engine."""
        weights = _weights(solution)
        return weights[:, :-1] @ self.X[rows].T + self.scaling * weights[:, -1:]

    def finish(self, solutions: Sequence[Solution]) -> list[Fitted]:
        """See Engine. The gaps are those of the float64 weights."""
        self.warn_if_open(np.concatenate([one.gap for one in solutions]))
        return [self.fitted(_weights(one), one.gap, one.n_iter) for one in solutions]


class LiblinearEngine(Engine):
    """scikit-learn's LinearSVC, one class after another."""

    def __init__(
        self, X: Array, positive: NDArray[np.bool_], unit: Double, intercept_scaling: float, tol: float, loss: str
    ) -> None:
        super().__init__(X, positive, unit, intercept_scaling, tol)
        self.loss = loss

    def solve(self, rows: Rows, Cs: Sequence[Double], start: list[Solution] | None = None) -> list[Solution]:
        """See Engine; every fit is cold, because LIBLINEAR takes no start."""
        X = self.X[rows].astype(np.float64, copy=False)
        k = len(self.positive)
        found = []
        for C in Cs:
            weights, sweeps = np.zeros((k, X.shape[1] + 1)), np.zeros(k, dtype=np.int64)
            for at in range(k):
                weights[at], sweeps[at] = self._one(X, self.positive[at, rows], self.unit[at, rows], float(C[at]))
            found.append(Solution(rows, C, np.full(k, np.nan), sweeps, weights=weights))
        return found

    def _one(self, X: Double, positive: NDArray[np.bool_], unit: Double, C: float) -> tuple[Double, int]:
        use = unit > 0
        if not use.any():
            return np.zeros(X.shape[1] + 1), 0
        if not use.all():
            X, positive, unit = X[use], positive[use], unit[use]
        if positive.all() or not positive.any():
            # LinearSVC refuses a single class, which has a solution all the same: add a sample of no cost or features.
            X, positive = np.vstack([X, np.zeros(X.shape[1])]), np.append(positive, not positive[0])
            unit = np.append(unit, 1e-30)
        svc = LinearSVC(
            C=C,
            loss=self.loss,
            tol=10 * self.tol,
            fit_intercept=self.scaling > 0,
            intercept_scaling=self.scaling or 1.0,
            max_iter=10_000,
            random_state=0,
        )
        svc.fit(X, positive, sample_weight=unit)
        bias = svc.intercept_[0] / self.scaling if self.scaling else 0.0
        return np.append(svc.coef_[0], bias), int(svc.n_iter_)

    def scores(self, solution: Solution, rows: Rows) -> Array:
        """See Engine."""
        weights = _weights(solution)
        return weights[:, :-1] @ self.X[rows].T + self.scaling * weights[:, -1:]

    def finish(self, solutions: Sequence[Solution]) -> list[Fitted]:
        """See Engine. LIBLINEAR keeps its dual variables to itself: the squared hinge's gap is that of 2 c slack."""
        return [self.fitted(_weights(one), self._gap(one), one.n_iter) for one in solutions]

    def _gap(self, solution: Solution) -> Double:
        if self.loss == "hinge":
            return solution.gap
        certificate = Certificate(self.X, solution.rows, self.scaling)
        weights = _weights(solution).astype(np.float64)
        y, cost = self.signs(solution.rows, np.dtype(np.float64)), solution.C[:, None] * self.unit[:, solution.rows]
        slack = np.maximum(1 - y * certificate.margins(weights), 0)
        dual = certificate.weights(2 * cost * slack * y, exact=True)
        squares = newton.row_dot(weights, weights), newton.row_dot(dual, dual)
        primal, distance = newton.objective_and_gap(slack, cost, *squares)
        return newton.relative(distance, primal)


def _dual(solution: Solution) -> Array:
    assert solution.dual is not None
    return solution.dual


def _weights(solution: Solution) -> Array:
    assert solution.weights is not None
    return solution.weights
