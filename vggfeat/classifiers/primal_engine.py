"""Newton's method on the weights themselves: the engine for fewer features than rows, and for very many rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vggfeat.classifiers.engine import Fitted, Problem, Rows, Solution, WeightsEngine
from vggfeat.classifiers.groups import Count, run_groups, silent
from vggfeat.classifiers.objective import SILENT, Double, relative, row_dot
from vggfeat.classifiers.primal import PrimalState, walk
from vggfeat.classifiers.table import Table
from vggfeat.system.launch import available_cores

SAMPLED_ROWS, SHARE, SAMPLE_TOL = 16_000, 8, 1e-2
"""With SAMPLED_ROWS rows or more, a cold fit starts from the solution on every SHARE-th row, to the gap SAMPLE_TOL."""


class PrimalEngine(WeightsEngine):
    """Newton's method on the D + 1 weights, all classes of a group at a time; groups run on the cores in parallel."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._table: Table | None = None

    def solve(self, rows: Rows, Cs: Sequence[Double], start: list[Solution] | None = None) -> list[Solution]:
        """See Engine."""
        table = self._of(rows)
        if start is None:
            begin = self._first(rows, Cs[0])
        else:
            begin = np.stack([solution.values[k] for k, solution in enumerate(start)])
        return self._walk(table, rows, Cs, begin, self.tol, self.progress)

    def _first(self, rows: Rows, C: Double) -> Double:
        """Weights (K, D + 1) to begin from: 0, or for many rows nearly those of every SHARE-th row at SHARE times C.

        At 0 all rows are active, and most of them leave the Hessian in the first steps, which costs least with few
        rows. Of 50,000 x 512 rows with 100 classes a cold fit took 36 s of CPU time, 47 s from 0.
        """
        if len(rows) < SAMPLED_ROWS:
            return np.zeros((len(self.positive), self.X.shape[1] + 1))
        part, cost = rows[::SHARE], C * SHARE
        table = Table(self.X, part, self.scaling, self.limits.held_bytes)
        return self._walk(table, part, [cost], self._first(part, cost), SAMPLE_TOL)[0].values.astype(np.float64)

    def _walk(
        self, table: Table, rows: Rows, Cs: Sequence[Double], begin: Double, tol: float, progress: Count = silent
    ) -> list[Solution]:
        """One solution on the rows of the table per entry of Cs, from the weights `begin`."""
        table.prepare()
        cores = available_cores()
        groups = self._groups(table, cores)

        def run(group: NDArray[np.intp], count: Count) -> list[PrimalState]:
            y = np.where(self.positive[group][:, rows], 1.0, -1.0)
            unit = self.unit[group][:, rows]
            with np.errstate(**SILENT):
                return walk(table, y, unit, [C[group] for C in Cs], begin[group], tol, self.limits.newton_steps, count)

        parts = run_groups(run, groups, cores, progress)
        found = []
        for C, same in zip(Cs, zip(*parts, strict=True), strict=True):
            gap, steps, weights, bound = (
                np.concatenate([getattr(state, name) for state in same])
                for name in ("gap", "steps", "weights", "bound")
            )
            found.append(Solution(rows, C, gap, steps, weights, bound))
        return found

    def finish(self, solutions: Sequence[Solution]) -> list[Fitted]:
        """See Engine. The gaps are those of the rounded weights, against the dual value found in float64."""
        fitted = []
        for one in solutions:
            rounded = one.values.astype(self.X.dtype).astype(np.float64)
            fitted.append(self.fitted(one.values, self._gap(one, rounded), one.n_iter))
        return fitted

    def _gap(self, solution: Solution, weights: Double) -> Double:
        table, gap = self._of(solution.rows), np.empty(len(weights))
        for group in self._groups(table, 1):
            y = np.where(self.positive[group][:, solution.rows], 1.0, -1.0)
            slack = np.maximum(1 - y * table.scores(weights[group]), 0)
            cost = solution.C[group, None] * self.unit[group][:, solution.rows]
            primal = row_dot(weights[group], weights[group]) / 2 + row_dot(cost * slack, slack)
            assert solution.bound is not None
            gap[group] = relative(primal - solution.bound[group], primal)
        return gap

    def _of(self, rows: Rows) -> Table:
        """The table of some rows; the last one is kept."""
        if self._table is None or not np.array_equal(self._table.chosen, rows):
            self._table = Table(self.X, rows, self.scaling, self.limits.held_bytes)
        return self._table

    def _groups(self, table: Table, cores: int) -> list[NDArray[np.intp]]:
        """The classes in as few groups as the cores and `held_bytes` allow, each thread at one of them."""
        k = len(self.positive)
        of_class = 8 * (10 * table.n + table.dim**2)  # bytes of a class's arrays while it is solved
        at_once = max(1, self.limits.held_bytes // (of_class * cores))
        return np.array_split(np.arange(k), max(min(cores, k), -(-k // at_once)))
