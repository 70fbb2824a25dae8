"""Newton's method on the Gram matrix: the usual engine, for fewer rows than features or up to 40,000 rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vggfeat.classifiers import newton
from vggfeat.classifiers.certificate import Certificate
from vggfeat.classifiers.engine import Engine, Fitted, Problem, Rows, Solution
from vggfeat.classifiers.gram import Gram, gram_of
from vggfeat.classifiers.objective import Array, Double
from vggfeat.classifiers.primal_engine import PrimalEngine

MAX_REFINE = 6
"""Rounds of float64: a row that comes to count only then needs another."""


class GramEngine(Engine):
    """Newton's method on K = X X' + s^2, computed once for all rows of X."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem
        self._gram: Gram | None = None
        self._part: tuple[Rows, Gram] | None = None

    @property
    def gram(self) -> Gram:
        """Of all rows of X."""
        if self._gram is None:
            self._gram = gram_of(self.X, self.scaling, self.limits)
        return self._gram

    def solve(self, rows: Rows, Cs: Sequence[Double], start: list[Solution] | None = None) -> list[Solution]:
        """See Engine."""
        gram = self._of(rows)
        dtype = gram.dtype
        unit = self.unit if self._is_all(rows) else self.unit[:, rows]
        states = newton.path(
            gram,
            self.signs(rows, dtype),
            unit.astype(dtype) if unit.strides != (0, 0) else np.broadcast_to(dtype.type(unit.flat[0]), unit.shape),
            [C.astype(dtype) for C in Cs],
            None if start is None else self._betas(start, rows).astype(dtype),
            0.9 * self.tol,
            self.progress,
        )
        return [Solution(rows, C, s.gap, s.steps, s.beta) for C, s in zip(Cs, states, strict=True)]

    def scores(self, solution: Solution, rows: Rows) -> Array:
        """See Engine."""
        return solution.values @ self.gram.K[np.ix_(solution.rows, rows)]

    def finish(self, solutions: Sequence[Solution]) -> list[Fitted]:
        """See Engine. The gaps are those of the rounded weights; float64 refines what float32 left above tol."""
        rows = solutions[0].rows
        certificate = Certificate(self.X, rows, self.scaling, self._of(rows))
        # Several solutions share one pass over X, whose blocks are turned to float64.
        at_once = max(1, 50_000_000 // (len(self.positive) * len(rows)))
        fitted: list[Fitted] = []
        for start in range(0, len(solutions), at_once):
            fitted += self._finish(solutions[start : start + at_once], certificate)
        return fitted

    def _finish(self, solutions: Sequence[Solution], certificate: Certificate) -> list[Fitted]:
        """Finishes all classes of some solutions as one stack of problems."""
        beta = np.concatenate([solution.values for solution in solutions])
        y = np.tile(self.signs(solutions[0].rows, beta.dtype), (len(solutions), 1))
        cost = np.concatenate([self.costs(solution).astype(solution.values.dtype) for solution in solutions])
        weights, f, gap = certificate.check(y, cost, beta, self.tol)
        short = () if self._is_polished(solutions[0].rows) else np.flatnonzero(gap > self.tol)
        betas = {k: beta[k].astype(np.float64) for k in short}
        for _ in range(MAX_REFINE):
            for k in list(betas):
                args = y[k].astype(np.float64), cost[k].astype(np.float64), betas[k], f[k]
                better = newton.refine(certificate.subset(), self.scaling, *args, 0.1 * self.tol, self.limits)
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
        fitted = (self.fitted(w, g, one.n_iter) for w, g, one in zip(*parts, solutions, strict=True))
        return [self._polished(one, solution) for one, solution in zip(fitted, solutions, strict=True)]

    def _polished(self, fitted: Fitted, solution: Solution) -> Fitted:
        """Newton steps on the weights, in float64, for classes that are still above tol.

        The Gram matrix of many rows of few features is nearly singular: of 5,000 x 1024 float32 left one fit in twelve
        at gaps of up to 4e-5, of 10,000 x 1024 one in four at up to 1e-4.
        """
        short = np.flatnonzero((fitted.gap > self.tol) & np.isfinite(fitted.gap))
        if not len(short) or not self._is_polished(solution.rows):
            return fitted
        engine = PrimalEngine(replace(self.problem, positive=self.positive[short], unit=self.unit[short]))
        bias = fitted.intercept[short] / (self.scaling or 1.0)
        weights = np.column_stack([fitted.coef[short], bias]).astype(np.float64)
        begin = Solution(solution.rows, solution.C[short], fitted.gap[short], fitted.n_iter[short], weights)
        (better,) = engine.finish(engine.solve(solution.rows, [solution.C[short]], [begin] * len(short)))
        gain = better.gap < fitted.gap[short]
        fitted = replace(fitted, n_iter=fitted.n_iter.copy())
        for whole, part in ((fitted.coef, better.coef), (fitted.intercept, better.intercept), (fitted.gap, better.gap)):
            whole[short[gain]] = part[gain]
        fitted.n_iter[short[gain]] += better.n_iter[gain]
        return fitted

    def _is_polished(self, rows: Rows) -> bool:
        """Whether float64 works on the weights, of which there are fewer than rows near the margin."""
        d = self.X.shape[1]
        return d < len(rows) and d <= self.limits.polished_features

    def _of(self, rows: Rows) -> Gram:
        """The Gram matrix of some rows; the last one is kept. It is contiguous, because products read it many times."""
        if self._is_all(rows):
            return self.gram
        if self._part is None or not np.array_equal(self._part[0], rows):
            self._part = (rows, self.gram.part(rows))
        return self._part[1]

    def _is_all(self, rows: Rows) -> bool:
        """Whether the rows are those of X in their order; a bootstrap has their number, a permutation the same rows."""
        return np.array_equal(rows, np.arange(len(self.X)))

    def _betas(self, start: list[Solution], rows: Rows) -> Array:
        """(K, len(rows)): each class's earlier beta where it was fitted on the same rows, else 0."""
        betas = np.zeros((len(start), len(self.X)))
        for k, solution in enumerate(start):
            betas[k, solution.rows] = solution.values[k]
        return betas[:, rows]
