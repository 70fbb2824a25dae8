"""scikit-learn's LinearSVC: the yardstick, and the engine of the plain hinge and of very many rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import LinearSVC

from vggfeat.classifiers.certificate import Certificate
from vggfeat.classifiers.engine import Fitted, Problem, Rows, Solution, WeightsEngine
from vggfeat.classifiers.objective import Double, objective_and_gap, relative, row_dot

MAX_SIZE = 1e30
"""Largest C |x|^2, and its inverse the least, for LIBLINEAR, which loops without end on extreme ones."""


class LiblinearEngine(WeightsEngine):
    """scikit-learn's LinearSVC, one class after another."""

    def __init__(self, problem: Problem, loss: str) -> None:
        super().__init__(problem)
        self.loss = loss
        self.open_above = np.finfo(np.float64).max  # LIBLINEAR warns itself when it stops short

    def solve(self, rows: Rows, Cs: Sequence[Double], start: list[Solution] | None = None) -> list[Solution]:
        """See Engine; every fit is cold, because LIBLINEAR takes no start."""
        X = self.X[rows].astype(np.float64, copy=False)
        k = len(self.positive)
        found = []
        for C in Cs:
            weights, sweeps = np.zeros((k, X.shape[1] + 1)), np.zeros(k, dtype=np.int64)
            for at in range(k):
                weights[at], sweeps[at] = self._one(X, self.positive[at, rows], self.unit[at, rows], float(C[at]))
                self.progress(1)
            found.append(Solution(rows, C, np.full(k, np.nan), sweeps, weights))
        return found

    def _one(self, X: Double, positive: NDArray[np.bool_], unit: Double, C: float) -> tuple[Double, int]:
        use = unit > 0
        if not use.any():
            return np.zeros(X.shape[1] + 1), 0
        if not use.all():
            X, positive, unit = X[use], positive[use], unit[use]
        if positive.all() or not positive.any():
            # LinearSVC refuses a single class, although the problem has a solution: add a sample of zeros with no cost.
            X, positive = np.vstack([X, np.zeros(X.shape[1])]), np.append(positive, not positive[0])
            unit = np.append(unit, 1e-30)
        with np.errstate(over="ignore"):
            size = C * unit.max() * np.square(X).sum(axis=1).max() * max(self.scaling, 1.0) ** 2
        if not 1 / MAX_SIZE < size < MAX_SIZE:  # a vanishing cost has the solution 0
            return np.full(X.shape[1] + 1, 0.0 if size < 1 else np.nan), 0
        svc = LinearSVC(
            C=C,
            loss=self.loss,
            dual="auto",  # the default since scikit-learn 1.5; before, leaving it out warns
            tol=10 * self.tol,
            fit_intercept=self.scaling > 0,
            intercept_scaling=self.scaling or 1.0,
            max_iter=10_000,
            random_state=0,
        )
        svc.fit(X, positive, sample_weight=unit)
        bias = svc.intercept_[0] / self.scaling if self.scaling else 0.0
        return np.append(svc.coef_[0], bias), int(svc.n_iter_)

    def finish(self, solutions: Sequence[Solution]) -> list[Fitted]:
        """See Engine. LIBLINEAR does not return its dual variables, so the squared hinge's gap is that of 2 c slack."""
        return [self.fitted(one.values, self._gap(one), one.n_iter) for one in solutions]

    def _gap(self, solution: Solution) -> Double:
        if self.loss == "hinge":
            return solution.gap
        certificate = Certificate(self.X, solution.rows, self.scaling)
        weights = solution.values.astype(np.float64)
        y, cost = self.signs(solution.rows, np.dtype(np.float64)), self.costs(solution)
        slack = np.maximum(1 - y * certificate.margins(weights), 0)
        dual = certificate.weights(2 * cost * slack * y, exact=True)
        squares = row_dot(weights, weights), row_dot(dual, dual)
        primal, distance = objective_and_gap(slack, cost, *squares)
        return relative(distance, primal)
