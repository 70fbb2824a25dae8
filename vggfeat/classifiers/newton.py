"""Newton's method for many one-vs-rest squared-hinge SVMs at once, on the Gram matrix.

With w = X' beta only K = X X' is needed: f = X w = K beta and |w|^2 = beta f. With the active set
h = 2 c [1 - y f > 0] the gradient in w is -X' g for g = h (y - f) - beta, the Hessian I + X' diag(h) X, and
alpha = 2 c max(0, 1 - y f) a dual point whose gap to P is |X' g|^2 / 2. So one product K g a step gives both the
certificate and the start of the conjugate gradients.

Sources: Keerthi and DeCoste (JMLR 2005) and Chapelle (Neural Computation 2007) for Newton's method on this objective.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vggfeat.classifiers.gram import Gram, conjugate_gradient_step, factorised_solution
from vggfeat.classifiers.groups import Count, run_groups, silent
from vggfeat.classifiers.limits import Limits
from vggfeat.classifiers.objective import (
    SILENT,
    Array,
    Double,
    line_search,
    objective_and_gap,
    relative,
    row_dot,
    support_gap,
)
from vggfeat.system.launch import available_cores

PATIENCE, MAX_DIRECT = 4, 4000
"""After this many steps, larger active sets are factorised too: at large C float32 conjugate gradients stall."""
MAX_NEWTON_SINGLE, FLOOR_SINGLE = 20, 3e-7
"""float32 stops at this gap or after this many steps; `refine` does the rest."""
MAX_STALLS = 3
"""Steps without a lower objective after which a class stops: rounding decides, not the optimum."""
LADDER_START, LADDER_TOL = 0.1, 1e-2
"""A cold start climbs from this C |x|^2, where nearly all samples are active but the ridge 1/(2C) rules."""


@dataclass
class State:
    """The state of k problems: beta and f = K beta, (k, n) each; the relative gap and the Newton steps, (k,) each."""

    beta: Array
    f: Array
    gap: Double
    steps: NDArray[np.int64]


def newton(gram: Gram, y: Array, cost: Array, state: State, tol: float) -> State:
    """Newton steps on k problems from `state` until each one's relative gap is at most tol; a new state.

    The gaps here come from products in the dtype of K with float64 sums.
    """
    beta, f = state.beta.copy(), state.f.copy()
    gap, steps = np.full(len(y), np.inf), state.steps.copy()
    max_steps = gram.limits.newton_steps
    if beta.dtype == np.float32:
        tol, max_steps = max(tol, FLOOR_SINGLE), MAX_NEWTON_SINGLE
    lowest, stalls = np.full(len(y), np.inf), np.zeros(len(y), dtype=np.int64)
    summed = np.zeros(len(y), dtype=bool)
    live = np.arange(len(y))
    for turn in range(max_steps + 1):
        y_, c_, b_, f_ = y[live], cost[live], beta[live], f[live]
        slack = 1 - y_ * f_
        np.maximum(slack, 0, out=slack)
        gap[live], primal = support_gap(gram.diagonal, y_, c_, b_, f_, slack)
        stalls[live] += primal >= lowest[live] * (1 - 1e-13)
        lowest[live] = np.minimum(primal, lowest[live])
        go = (gap[live] > tol) & np.isfinite(primal) & (stalls[live] < MAX_STALLS)
        if turn == max_steps or not go.any():
            break
        live, y_, c_, b_, f_, slack, primal = live[go], y_[go], c_[go], b_[go], f_[go], slack[go], primal[go]
        h = 2 * c_ * (slack > 0)
        small = np.count_nonzero(h, axis=1) <= (gram.direct_limit if turn < PATIENCE else MAX_DIRECT)
        step, K_step = np.empty_like(b_), np.empty_like(b_)
        moving = np.ones(len(live), dtype=bool)
        if small.any():
            new = np.stack([factorised_solution(gram.K, *one) for one in zip(h[small], y_[small], strict=True)])
            # The whole product of the new beta, not the step's, so that rounding errors do not add up in f.
            step[small], K_step[small] = new - b_[small], gram.product(new) - f_[small]
        if not small.all():
            big = np.flatnonzero(~small)
            alpha = 2 * c_[big] * slack[big] * y_[big]
            g = alpha - b_[big]
            Kg = gram.product(g)
            quad, dual_quad = row_dot(b_[big], f_[big]), row_dot(alpha, f_[big] + Kg)
            primal_big, distance = objective_and_gap(slack[big], c_[big], quad, dual_quad)
            gap[live[big]] = np.minimum(gap[live[big]], relative(distance, primal_big))
            on = gap[live[big]] > tol
            moving[big[~on]] = False
            big = big[on]
            if len(big):
                enough = tol * primal_big[on]  # twice the gap that |X' r|^2 stands for, before one more step
                step[big], K_step[big] = conjugate_gradient_step(gram, h[big], g[on], Kg[on], enough)
                summed[live[big]] = True
        moving &= np.isfinite(step).all(axis=1) & np.isfinite(K_step).all(axis=1)  # after an overflow: stay
        if not moving.all():
            live, y_, c_, b_, f_ = live[moving], y_[moving], c_[moving], b_[moving], f_[moving]
            step, K_step = step[moving], K_step[moving]
        if len(live):
            t = line_search(y_, c_, f_, K_step, row_dot(b_, K_step), row_dot(step, K_step))[:, None].astype(step.dtype)
            beta[live] += t * step
            f[live] += t * K_step
            steps[live] += 1
    if summed.any():  # else the rounding errors of long steps stay in f and reach the gaps at larger C
        f[summed] = gram.product(beta[summed])
    return State(beta, f, gap, steps)


def refine(
    X: Array, scaling: float, y: Double, cost: Double, beta: Double, f: Double, tol: float, limits: Limits
) -> Double | None:
    """A better beta (n,) of one class by float64 on the rows near or beyond its margin; None if those are too many.

    For gaps that float32 cannot close, mostly at huge C, where few rows are active. Rows that become active then need
    another call.
    """
    rows = np.flatnonzero((cost > 0) & (y * f < 1.3))
    if not 0 < len(rows) <= MAX_DIRECT:
        return None
    near = X[rows].astype(np.float64)
    gram = Gram(near @ near.T + np.float64(scaling) ** 2, limits, direct=True)
    start = np.where(y * beta > 0, beta, 0)[None, rows]
    state = State(start, gram.product(start), np.zeros(1), np.zeros(1, dtype=np.int64))
    better = np.zeros_like(beta)
    better[rows] = newton(gram, y[None, rows], cost[None, rows], state, tol).beta[0]
    return better


def path(
    gram: Gram, y: Array, unit: Array, Cs: list[Array], start: Array | None, tol: float, progress: Count = silent
) -> list[State]:
    """One State per entry of Cs, each (k,) in the dtype of K: costs are C_k unit, with unit (k, n) broadcast.

    Each solution starts the next; start (k, n) is a beta for the first, else a ladder of smaller C leads up to it.
    Groups of classes run on the cores in parallel, one BLAS thread each, so that work beside the products is shared
    too; `progress` hears of each group at each C.
    """
    k = len(y)
    gram.prepare()
    cores = available_cores()
    groups = np.array_split(np.arange(k), max(1, min(k // 8, cores * -(-k // (96 * cores)))))

    def run(group: NDArray[np.intp], count: Count) -> list[State]:
        begin = None if start is None else start[group]
        with np.errstate(**SILENT):
            return _walk(gram, y[group], unit[group], [C[group] for C in Cs], begin, tol, count)

    parts = run_groups(run, groups, cores, progress)
    return [
        State(*(np.concatenate(field) for field in zip(*((s.beta, s.f, s.gap, s.steps) for s in same), strict=True)))
        for same in zip(*parts, strict=True)
    ]


def _walk(
    gram: Gram, y: Array, unit: Array, Cs: list[Array], start: Array | None, tol: float, count: Count
) -> list[State]:
    """The path of one group of classes."""
    zero = np.zeros_like(y)
    state = State(zero, zero, np.zeros(len(y)), np.zeros(len(y), dtype=np.int64))
    if start is not None:
        state = replace(state, beta=start, f=gram.product(start))
    else:
        for C in _ladder(gram, unit, Cs[0]):
            state = newton(gram, y, C[:, None] * unit, state, LADDER_TOL)
    before, found = state, []
    for turn, C in enumerate(Cs):
        cost = C[:, None] * unit
        ahead = state
        if turn > 1:
            ahead = _extrapolate(y, cost, before, state)
        solved = newton(gram, y, cost, replace(ahead, steps=np.zeros_like(state.steps)), tol)
        before, state = state, solved
        found.append(solved)
        count(len(y))
    return found


def _extrapolate(y: Array, cost: Array, before: State, state: State) -> State:
    """The best point at the new cost on the line through the last two solutions: it saves about one Newton step."""
    step, f_step = state.beta - before.beta, state.f - before.f
    slope, curve = row_dot(state.beta, f_step), row_dot(step, f_step)
    t = line_search(y, cost, state.f, f_step, slope, curve)[:, None].astype(step.dtype)
    return replace(state, beta=state.beta + t * step, f=state.f + t * f_step)


def _ladder(gram: Gram, unit: Array, C: Array) -> list[Array]:
    """Smaller C before a cold start, ascending by tens: at w = 0 every sample is active and K_FF at its worst."""
    if gram.n <= gram.direct_limit:
        return []
    size = float((C[:, None] * unit).max() * gram.diagonal.mean())
    if not np.isfinite(size):
        return []
    rungs = max(0, int(np.ceil(np.log10(max(size, 1e-30) / LADDER_START))))
    return [C * C.dtype.type(10.0**-rung) for rung in range(rungs, 0, -1)]
