"""Newton's method on the weights themselves: the engine for fewer features than rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vggfeat.classifiers.engine import Fitted, Rows, Solution, WeightsEngine
from vggfeat.classifiers.objective import Double, groups_of
from vggfeat.classifiers.primal import primal_newton


class PrimalEngine(WeightsEngine):
    """Newton's method on the D + 1 weights themselves, in float64: for fewer features than rows."""

    def solve(self, rows: Rows, Cs: Sequence[Double], start: list[Solution] | None = None) -> list[Solution]:
        """See Engine."""
        X = np.column_stack([self.X[rows], np.full(len(rows), self.scaling)]).astype(np.float64, copy=False)
        k = len(self.positive)
        weights = np.zeros((k, X.shape[1]))
        if start is not None:
            for at, solution in enumerate(start):
                weights[at] = solution.values[at]
        found = []
        for C in Cs:
            gap, steps, new = np.empty(k), np.zeros(k, dtype=np.int64), np.empty_like(weights)
            for part in groups_of(k, len(rows)):
                y = np.where(self.positive[part][:, rows], 1.0, -1.0)
                cost = C[part, None] * self.unit[part][:, rows]
                new[part], gap[part], steps[part] = primal_newton(
                    X, y, cost, weights[part], self.tol, self.limits.newton_steps
                )
            weights = new
            found.append(Solution(rows, C, gap, steps, weights))
        return found

    def finish(self, solutions: Sequence[Solution]) -> list[Fitted]:
        """See Engine. The gaps are those of the float64 weights."""
        self.warn_if_open(np.concatenate([one.gap for one in solutions]))
        return [self.fitted(one.values, one.gap, one.n_iter) for one in solutions]
