"""Newton's method on the D + 1 weights of many squared-hinge SVMs: for fewer features than rows.

Class k's Hessian is I + C M with M = 2 sum u_i x_i x_i' over its active rows, u the costs at C = 1. M does not depend
on C, and from one step or one C to the next few rows enter or leave it. So each class keeps M in float32 and adds or
subtracts the outer products of these rows. Gradients, margins and duality gaps are float64 products for all classes of
a group together, so that float32 costs at most a further step, never accuracy.

With alpha = 2 c max(0, 1 - y f) as the dual point, X' alpha is the other half of the gradient: the certificate is free.

Sources: Keerthi and DeCoste (JMLR 2005); Chapelle (Neural Computation 2007).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from vggfeat.classifiers.groups import Count, silent
from vggfeat.classifiers.kernels import solve_positive
from vggfeat.classifiers.newton import MAX_STALLS
from vggfeat.classifiers.objective import (
    Double,
    line_search,
    objective_and_gap,
    relative,
    row_dot,
)
from vggfeat.classifiers.table import Table

EXACT_AFTER = 6
"""Steps at one C after which a class computes its Hessian anew in float64, because float32 does not suffice."""


@dataclass
class PrimalState:
    """k problems at one C: weights (k, D + 1), their margins f (k, n); relative gaps, steps, dual values, (k,) each."""

    weights: Double
    f: Double
    gap: Double
    steps: NDArray[np.int64]
    bound: Double


class Hessians:
    """M = 2 sum u x x' over the active rows of each of k classes, kept up to date by the rows that change sides."""

    def __init__(self, table: Table, unit: Double) -> None:
        self.table = table
        self.unit = unit
        self.counted = unit > 0
        """(k, n) the rows that count for a class at all."""
        self.uniform = bool((unit[self.counted] == 1).all())
        self.active = np.zeros(unit.shape, dtype=bool)
        """(k, n) the rows that M holds."""
        self.M = np.zeros((len(unit), table.dim, table.dim), dtype=np.float32)
        self.scratch = np.empty((table.dim, table.dim), dtype=np.float32)

    def steps(
        self, classes: NDArray[np.intp], active: NDArray[np.bool_], C: Double, down: Double, exact: NDArray[np.bool_]
    ) -> Double:
        """(I + C M)^-1 down, (m, D + 1), of these classes (m,) with these active rows (m, n), each at its C (m,)."""
        # All classes' flips at once: what is done class by class holds Python's lock, for which other groups wait.
        changed = active != self.active[classes]
        flips = np.split(np.nonzero(changed)[1], np.count_nonzero(changed, axis=1).cumsum()[:-1])
        each = zip(classes.tolist(), active, flips, C.tolist(), down, exact.tolist(), strict=True)
        return np.stack([self._step(*one) for one in each])

    def _step(
        self, k: int, active: NDArray[np.bool_], flips: NDArray[np.intp], C: float, down: Double, exact: bool
    ) -> Double:
        """The step (D + 1,) of class k, of whose rows (n,) flips change sides."""
        if not exact:
            self._update(k, active, flips)
            found = solve_positive(partial(self._system, k, C), down.astype(np.float32))
            if math.isfinite(found[0]):
                return found.astype(np.float64)
        rows = np.flatnonzero(active)
        # The triangle of a QR factorisation: squares of unscaled or collinear features would lose half of the digits.
        triangle = np.eye(self.table.dim)
        for start in range(0, len(rows), self.table.block):
            part = rows[start : start + self.table.block]
            scaled = self.table.rows(part) * np.sqrt(2 * C * self.unit[k, part])[:, None]
            if not np.isfinite(scaled).all():
                return np.full_like(down, np.nan)
            triangle = np.asarray(np.linalg.qr(np.vstack([triangle, scaled]), mode="r"))
        return scipy.linalg.cho_solve((triangle, False), down, check_finite=False)

    def _system(self, k: int, C: float) -> NDArray[np.float32]:
        """I + C M of class k, until the next call."""
        system = np.multiply(self.M[k], np.float32(C), out=self.scratch)
        system.ravel()[:: len(system) + 1] += np.float32(1)
        return system

    def _update(self, k: int, active: NDArray[np.bool_], flips: NDArray[np.intp]) -> None:
        """Brings M of class k to these active rows on the cheapest of three ways."""
        build = int(np.count_nonzero(active))
        cut = len(active) - build if self.uniform else len(active)
        if build < min(len(flips), cut):
            self.M[k] = 0
            self._add(k, np.flatnonzero(active), 2)
        elif cut < len(flips):
            self.M[k] = self.table.gram()
            self._add(k, np.flatnonzero(~active), -2, whole=True)
        else:
            enters = active[flips]
            self._add(k, flips[enters], 2)
            self._add(k, flips[~enters], -2)
        self.active[k] = active

    def _add(self, k: int, rows: NDArray[np.intp], factor: float, whole: bool = False) -> None:
        """Adds factor sum u x x' over some rows to M; whole: u = 1 for rows that do not count, too."""
        self.table.add_squares(self.M[k], rows, factor, None if whole or self.uniform else self.unit[k, rows])


def walk(
    table: Table,
    y: Double,
    unit: Double,
    Cs: Sequence[Double],
    start: Double,
    tol: float,
    max_steps: int,
    count: Count = silent,
) -> list[PrimalState]:
    """One solution per entry (k,) of Cs, ascending at best: each starts the next. start is weights (k, D + 1).

    The solutions come without their margins f (k, 0), so that memory does not grow by k n for each C.
    """
    hessians = Hessians(table, unit)
    zero = np.zeros(len(y))
    state = PrimalState(start, table.scores(start), zero, zero.astype(np.int64), zero)
    before, found = state, []
    for turn, C in enumerate(Cs):
        cost = C[:, None] * unit
        ahead = _extrapolate(y, cost, before, state) if turn > 1 else state
        solved = primal_newton(hessians, y, C, cost, ahead, tol, max_steps)
        before, state = state, solved
        found.append(replace(solved, f=np.empty((len(y), 0))))
        count(len(y))
    return found


def _extrapolate(y: Double, cost: Double, before: PrimalState, state: PrimalState) -> PrimalState:
    """The best point at the new cost on the line through the last two solutions: it saves about one step."""
    step, f_step = state.weights - before.weights, state.f - before.f
    slope, curve = row_dot(state.weights, step), row_dot(step, step)
    t = line_search(y, cost, state.f, f_step, slope, curve)[:, None]
    t[~np.isfinite(t)] = 0
    return PrimalState(state.weights + t * step, state.f + t * f_step, state.gap, state.steps, state.bound)


def primal_newton(
    hessians: Hessians, y: Double, C: Double, cost: Double, state: PrimalState, tol: float, max_steps: int
) -> PrimalState:
    """Newton steps on k problems from `state` until each one's relative gap is at most tol.

    y (k, n) is 1 or -1, C is (k,), cost (k, n) is C times the costs at C = 1.
    """
    table, k = hessians.table, len(y)
    weights, f = state.weights.copy(), state.f.copy()
    gap, bound, lowest = np.full(k, np.inf), np.full(k, -np.inf), np.full(k, np.inf)
    steps, stalls = np.zeros(k, dtype=np.int64), np.zeros(k, dtype=np.int64)
    live = np.arange(k)
    for turn in range(max_steps + 1):
        y_, c_, w_, f_ = y[live], cost[live], weights[live], f[live]
        slack = np.maximum(1 - y_ * f_, 0)
        pull = table.pull(2 * c_ * slack * y_)  # X' (alpha y)
        primal, distance = objective_and_gap(slack, c_, row_dot(w_, w_), row_dot(pull, pull))
        gap[live] = relative(distance, primal)
        # Minus the rounding error, which a huge early objective would carry above the optimum.
        bound[live] = np.fmax(bound[live], primal - distance - np.spacing(primal))
        stalls[live] += primal >= lowest[live] * (1 - 1e-13)
        lowest[live] = np.minimum(primal, lowest[live])
        go = (gap[live] > tol) & np.isfinite(primal) & (stalls[live] < MAX_STALLS)
        if turn == max_steps or not go.any():
            break
        live, y_, c_, w_, f_, slack, pull = live[go], y_[go], c_[go], w_[go], f_[go], slack[go], pull[go]
        active = (slack > 0) & hessians.counted[live]
        step = hessians.steps(live, active, C[live], pull - w_, exact=steps[live] >= EXACT_AFTER)
        f_step = table.scores(step)
        sound = np.isfinite(step).all(axis=1) & np.isfinite(f_step).all(axis=1)  # after an overflow: stay
        if not sound.all():
            live, y_, c_, w_, f_ = live[sound], y_[sound], c_[sound], w_[sound], f_[sound]
            step, f_step = step[sound], f_step[sound]
        if not len(live):
            break
        t = line_search(y_, c_, f_, f_step, row_dot(w_, step), row_dot(step, step))[:, None]
        weights[live] = w_ + t * step
        f[live] = f_ + t * f_step
        steps[live] += 1
    return PrimalState(weights, f, gap, steps, bound)
