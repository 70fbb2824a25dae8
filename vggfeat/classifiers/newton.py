"""Newton's method for many one-vs-rest squared-hinge SVMs at once: arrays in, arrays out.

Every class k minimises, over w in the span of the rows x_i of the bias-augmented X (N, D + 1),

    P(w) = 1/2 |w|^2 + sum_i c_ki max(0, 1 - y_ki x_i w)^2,

with w = X' beta, so that only K = X X' is needed: f = X w = K beta and |w|^2 = beta f. Arrays are (k, n), one class
a row, because products, masks and reductions are then contiguous per class. With the active set
h = 2 c [1 - y f > 0] the gradient in w is -X' g for g = h (y - f) - beta, the Hessian I + X' diag(h) X, and
alpha = 2 c max(0, 1 - y f) a dual point whose gap to P is |X' g|^2 / 2. So one product K g a step gives the certificate
and the start of the conjugate gradients alike.

Sources: Keerthi and DeCoste (JMLR 2005) and Chapelle (Neural Computation 2007) for Newton's method on this objective;
Fan et al., LIBLINEAR (JMLR 2008), for the objective, its dual and the penalised bias; Halko et al. (SIAM Review 2011)
for the randomised eigenvectors.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from vggfeat.system.launch import available_cores

Array = NDArray[np.floating]
Double = NDArray[np.float64]

# float32 loses about 1e-6 of each margin, which matters only where rounding, not the optimum, would decide; up to this
# many rows float64 costs no time that anyone notices, and one Cholesky per class is faster than any iteration.
SMALL_N = 1000
RITZ = 64
"""Eigenvectors of K in the preconditioner: the features' mean direction alone has an eigenvalue near 0.4 n."""
SHRINK = 0.1
"""A Newton step's own accuracy: its active set changes before more of it would count."""
PATIENCE, MAX_DIRECT = 4, 4000
"""After this many steps, larger active sets are factorised too: at large C float32 conjugate gradients stall."""
MAX_NEWTON, MAX_NEWTON_SINGLE, FLOOR_SINGLE = 100, 20, 3e-7
"""What float32 cannot bring below this gap, or not in so many steps, is left to `refine`."""
MAX_CG = 200
LADDER_START, LADDER_TOL = 0.1, 1e-2
"""A cold start climbs from this C |x|^2, where nearly all samples are active but the ridge 1/(2C) rules."""


@dataclass
class State:
    """Where k problems stand: beta and f = K beta, (k, n) each, the relative gap and the Newton steps, (k,) each."""

    beta: Array
    f: Array
    gap: Double
    steps: NDArray[np.int64]


def row_dot(a: Array, b: Array) -> Double:
    """(k,) inner products of the rows of a and b, (k, n): float32 within short blocks, float64 across them."""
    total = np.zeros(len(a))
    for at in range(0, a.shape[1], 1024):
        total += np.einsum("ij,ij->i", a[:, at : at + 1024], b[:, at : at + 1024])
    return total


class Gram:
    """K = X X' + s^2 (n, n) of n rows, with its leading eigenvectors when they are first needed."""

    def __init__(self, K: Array, direct: bool = False) -> None:
        self.K = K
        self.direct = direct or len(K) <= SMALL_N
        self.n = len(K)
        self.dtype = K.dtype
        self.diagonal = K.diagonal().copy()
        self._ritz: tuple[Array, Array, Array] | None = None

    @property
    def direct_limit(self) -> int:
        """Active sets up to this size are factorised: |F|^3/3 flops then cost about what iterating would."""
        return self.n if self.direct else int((8.0 * self.n**2) ** (1 / 3))

    def prepare(self) -> None:
        """Finds the eigenvectors now, before threads ask for them."""
        if self.n > self.direct_limit:
            self.ritz()

    def ritz(self) -> tuple[Array, Array, Array]:
        """(A, Z, rest): V = X'A (D, r) is orthonormal, Z = X V (n, r) = K A, rest = diag(K - Z Z') (n,)."""
        if self._ritz is None:
            rng = np.random.default_rng(0)  # any start does; a fixed one makes runs repeat
            basis = rng.standard_normal((self.n, min(self.n, RITZ + 8))).astype(self.dtype)
            for _ in range(2):
                image = self.K @ basis
                with threadpool_limits(1, "blas"):  # many small calls: waiting for one another costs more than it saves
                    basis = np.linalg.qr(image)[0]
            image = self.K @ basis
            values, turn = np.linalg.eigh((basis.T @ image).astype(np.float64))
            keep = slice(-min(RITZ, self.n), None)
            scale = np.sqrt(np.maximum(values[keep], 1e-7 * values[-1]))
            turn = (turn[:, keep] / scale).astype(self.dtype)
            Z = image @ turn
            rest = np.maximum(self.diagonal - np.einsum("ij,ij->i", Z, Z), 0)
            self._ritz = basis @ turn, Z, rest
        return self._ritz


def gram(X: Array, intercept_scaling: float) -> Gram:
    """K over the rows of X (n, D), float64 up to SMALL_N rows and else float32, the bias feature included."""
    X = X.astype(np.float64 if len(X) <= SMALL_N else np.float32, copy=False)
    K = X @ X.T
    K += K.dtype.type(intercept_scaling**2)
    return Gram(K)


def objective_and_gap(slack: Array, cost: Array, quad: Double, dual_quad: Double) -> tuple[Double, Double]:
    """P and P - D, each (k,), of margins' slack max(0, 1 - y f) (k, n), |w|^2 and |X'(alpha y)|^2 (k,).

    The dual point t alpha is scaled by its best t, in closed form: unscaled, D is too low a thousandfold where w is off
    only by its length.
    """
    weighted = cost * slack
    loss, total = row_dot(weighted, slack), 2 * weighted.sum(axis=1, dtype=np.float64)
    primal = quad / 2 + loss
    curvature = dual_quad + 2 * loss
    dual = np.divide(total**2, 2 * curvature, out=np.zeros_like(total), where=curvature > 0)
    return primal, primal - dual


def relative(gap: Double, primal: Double) -> Double:
    """gap / primal, without rounding's minus sign; 0 where nothing is to pay: a class without samples of any cost."""
    return np.divide(np.maximum(gap, 0), primal, out=np.zeros_like(gap), where=primal > 0)


def line_search(y: Array, cost: Array, f: Array, f_step: Array, slope: Double, curve: Double) -> Double:
    """(k,) exact minimisers t >= 0 of P along a step: Newton on P', which is piecewise linear and increasing in t.

    slope (k,) is w's inner product with the step, curve (k,) the step's squared length, f_step (k, n) is added to f.
    """
    margin, pull = 1 - y * f, y * f_step  # slack at t: max(0, margin - t pull)
    weighted = cost * pull
    t, low, high = np.ones(len(y)), np.zeros(len(y)), np.full(len(y), np.inf)
    for _ in range(30):
        slack = margin - t[:, None].astype(pull.dtype) * pull
        np.maximum(slack, 0, out=slack)
        first = slope + t * curve - 2 * row_dot(weighted, slack)
        np.copyto(slack, pull, where=slack > 0)
        second = curve + 2 * row_dot(weighted, slack)
        np.copyto(low, t, where=first < 0)
        np.copyto(high, t, where=first > 0)
        move = np.divide(first, second, out=np.zeros_like(first), where=second > 0)
        new = t - move
        astray = (new < low) | (new > high)  # Newton can leave its bracket where P' has kinks
        new[astray] = np.where(np.isinf(high), 2 * low, (low + high) / 2)[astray]
        if np.all(np.abs(new - t) <= 1e-3):
            return new
        t = new
    return t


def factorised_solution(K: Array, h: Array, target: Array) -> Array:
    """(n,): the solution of (K_FF + 1/h_F) x_F = target_F on one class's active set F, and 0 outside of it."""
    active = np.flatnonzero(h)
    solution = np.zeros_like(target)
    if not len(active):
        return solution
    square, ridge, diagonal = np.ix_(active, active), 1 / h[active], slice(None, None, len(active) + 1)
    system = K[square]
    system.ravel()[diagonal] += ridge
    try:
        factor = scipy.linalg.cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:  # K_FF is singular to rounding and 1/h lost beside it: a huge C, in float32
        system = K[square]
        system.ravel()[diagonal] += ridge + 100 * np.finfo(K.dtype).eps * np.trace(system)
        factor = scipy.linalg.cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
    solution[active] = scipy.linalg.cho_solve(factor, target[active], check_finite=False)
    return solution


class Deflation:
    """M^-1 = I + V S V' for the Hessians I + X' diag(h) X of k classes: exact on V's span, up to scale beside it."""

    def __init__(self, gram: Gram, h: Array) -> None:
        self.A, self.Z, rest = gram.ritz()
        mean = row_dot(h, np.broadcast_to(rest, h.shape)) / np.maximum(np.count_nonzero(h, axis=1), 1)
        r = self.Z.shape[1]
        self.S = np.empty((len(h), r, r), dtype=h.dtype)
        for k, weights in enumerate(h):
            active = np.flatnonzero(weights)
            rows = self.Z[active]
            inner = rows.T @ (weights[active, None] * rows)  # (r, r)
            inner.ravel()[:: r + 1] += 1
            self.S[k] = (1 + mean[k]) * np.linalg.inv(inner)
            self.S[k].ravel()[:: r + 1] -= 1

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Leaves out the classes that are done."""
        self.S = self.S[rows]

    def add(self, r: Array, Kr: Array) -> tuple[Array, Array]:
        """z = M^-1 r and K z, of r and K r, all (k, n)."""
        turned = self._turned(r @ self.Z)
        return r + turned @ self.A.T, Kr + turned @ self.Z.T

    def apply(self, r: Array) -> Array:
        """z = M^-1 r (k, n)."""
        self.inside = r @ self.Z
        self.turned = self._turned(self.inside)
        return r + self.turned @ self.A.T

    def _turned(self, inside: Array) -> Array:
        return np.matmul(inside[:, None, :], self.S)[:, 0]

    def excess(self) -> Double:
        """r' M^-1 r - |X' r|^2 (k,) of the r last applied."""
        return row_dot(self.inside, self.turned)


def conjugate_gradient_step(
    gram: Gram, h: Array, g: Array, Kg: Array, enough: Double, shrink: float = SHRINK
) -> tuple[Array, Array]:
    """Newton steps (k, n) of k classes and their products with K, by conjugate gradients in w written in beta.

    Solves (I + diag(h) K) step = g in the inner product of K. A class is done when its gradient's |X' r|^2 is at most
    enough (k,), or its energy r' M^-1 r fell by the factor `shrink`: far from the optimum the active set will change
    anyway. The plain residual would not do for the second: the mean direction's eigenvalue dwarfs all else in it.
    """
    M = Deflation(gram, h)
    steps, K_steps = np.empty_like(g), np.empty_like(g)
    live = np.arange(len(g))
    step, K_step, r = np.zeros_like(g), np.zeros_like(g), g.copy()
    p, Kp = M.add(r, Kg)
    energy = first = row_dot(r, Kp)
    last = np.zeros(len(g), dtype=bool)
    for turn in range(MAX_CG):
        Hp = h * Kp
        Hp += p
        length = np.divide(energy, row_dot(Hp, Kp), out=np.zeros_like(energy), where=energy > 0)
        a = length[:, None].astype(g.dtype)
        step += a * p
        K_step += a * Kp
        if last.any() or turn == MAX_CG - 1:
            steps[live[last]], K_steps[live[last]] = step[last], K_step[last]
            go = ~last
            if turn == MAX_CG - 1:
                steps[live], K_steps[live] = step, K_step
            if not go.any():
                break
            live, h, step, K_step, r, Hp, a = live[go], h[go], step[go], K_step[go], r[go], Hp[go], a[go]
            p, Kp, energy, first, enough = p[go], Kp[go], energy[go], first[go], enough[go]
            M.keep(go)
        Hp *= a
        r -= Hp
        z = M.apply(r)
        Kz = z @ gram.K
        new = row_dot(r, Kz)
        # The next step, along a direction whose product is known by now, is free: a class that is done takes it too.
        last = (new - M.excess() <= enough) | (new <= shrink * first)
        b = np.divide(new, energy, out=np.zeros_like(new), where=energy > 0)[:, None].astype(g.dtype)
        p *= b
        p += z
        Kp *= b
        Kp += Kz
        energy = new
    return steps, K_steps


def newton(gram: Gram, y: Array, cost: Array, state: State, tol: float) -> State:
    """Newton steps on k problems from `state` until each one's relative gap is at most tol; a new state.

    y (k, n) is 1 or -1, cost (k, n) at least 0. The gap here is of float32 products with float64 sums.
    """
    beta, f = state.beta.copy(), state.f.copy()
    gap, steps = np.full(len(y), np.inf), state.steps.copy()
    max_steps = MAX_NEWTON
    if beta.dtype == np.float32:
        tol, max_steps = max(tol, FLOOR_SINGLE), MAX_NEWTON_SINGLE
    live = np.arange(len(y))
    for turn in range(max_steps + 1):
        y_, c_, b_, f_ = y[live], cost[live], beta[live], f[live]
        slack = 1 - y_ * f_
        np.maximum(slack, 0, out=slack)
        gap[live], primal = support_gap(gram.diagonal, y_, c_, b_, f_, slack)
        go = gap[live] > tol
        if turn == max_steps or not go.any():
            break
        live, y_, c_, b_, f_, slack, primal = live[go], y_[go], c_[go], b_[go], f_[go], slack[go], primal[go]
        h = 2 * c_ * (slack > 0)
        small = np.count_nonzero(h, axis=1) <= (gram.direct_limit if turn < PATIENCE else MAX_DIRECT)
        step, K_step = np.empty_like(b_), np.empty_like(b_)
        moving = np.ones(len(live), dtype=bool)
        if small.any():
            new = np.stack([factorised_solution(gram.K, *one) for one in zip(h[small], y_[small], strict=True)])
            # The new beta's whole product, not the step's: f is then as good as one product, whatever came before.
            step[small], K_step[small] = new - b_[small], new @ gram.K - f_[small]
        if not small.all():
            big = np.flatnonzero(~small)
            alpha = 2 * c_[big] * slack[big] * y_[big]
            g = alpha - b_[big]
            Kg = g @ gram.K
            quad, dual_quad = row_dot(b_[big], f_[big]), row_dot(alpha, f_[big] + Kg)
            primal_big, distance = objective_and_gap(slack[big], c_[big], quad, dual_quad)
            gap[live[big]] = np.minimum(gap[live[big]], relative(distance, primal_big))
            on = gap[live[big]] > tol
            moving[big[~on]] = False
            big = big[on]
            if len(big):
                enough = tol * primal_big[on]  # twice the gap that |X' r|^2 stands for, before one more step
                step[big], K_step[big] = conjugate_gradient_step(gram, h[big], g[on], Kg[on], enough)
        if not moving.all():
            live, y_, c_, b_, f_ = live[moving], y_[moving], c_[moving], b_[moving], f_[moving]
            step, K_step = step[moving], K_step[moving]
        if len(live):
            t = line_search(y_, c_, f_, K_step, row_dot(b_, K_step), row_dot(step, K_step))[:, None].astype(step.dtype)
            beta[live] += t * step
            f[live] += t * K_step
            steps[live] += 1
    return State(beta, f, gap, steps)


def support_gap(
    gram_diagonal: Array, y: Array, cost: Array, beta: Array, f: Array, slack: Array, quad: Double | None = None
) -> tuple[Double, Double]:
    """Relative gap (k,) with beta itself as the dual point, and P (k,): no product with K, and none of its rounding.

    2 c (1 - y f) turns an error of 1e-6 in f into one of 2e-6 c in alpha, which has the mean direction's eigenvalue to
    grow by; beta comes from the solve. Where y beta < 0, or the cost is 0, it is cut off to be feasible; the length
    that this adds to |X'(alpha y)| is bounded by the triangle inequality. quad is |w|^2 where w is X' beta only up to
    rounding, e: |X' beta|^2 is then 2 beta f - |w|^2 + |e|^2, and |e|^2 is of the order of the rounding squared.
    """
    dual = y * beta
    cut = np.where(cost > 0, np.minimum(dual, 0), dual)
    alpha = dual - cut
    quad_beta = row_dot(beta, f)
    if quad is None:
        quad = quad_beta
    added = (np.abs(cut) @ np.sqrt(gram_diagonal)).astype(np.float64)
    dual_quad = 2 * quad_beta - quad - 2 * row_dot(cut * y, f) + added**2
    loss = row_dot(cost * slack, slack)
    over = np.divide(alpha, 2 * cost, out=np.zeros_like(alpha), where=cost > 0)
    curvature = dual_quad + row_dot(over, alpha)
    total = alpha.sum(axis=1, dtype=np.float64)
    best = np.divide(total**2, 2 * curvature, out=np.zeros_like(total), where=curvature > 0)
    primal = quad / 2 + loss
    return relative(primal - best, primal), primal


def refine(X: Array, scaling: float, y: Double, cost: Double, beta: Double, f: Double, tol: float) -> Double | None:
    """A better beta (n,) of one class by float64 on the rows near or beyond its margin; None where those are too many.

    For what float32 leaves open, mostly huge C, where few rows count. Rows that come to count need another call.
    """
    rows = np.flatnonzero((cost > 0) & (y * f < 1.3))
    if not 0 < len(rows) <= MAX_DIRECT:
        return None
    near = X[rows].astype(np.float64)
    gram = Gram(near @ near.T + scaling**2, direct=True)
    start = np.where(y * beta > 0, beta, 0)[None, rows]
    state = State(start, start @ gram.K, np.zeros(1), np.zeros(1, dtype=np.int64))
    better = np.zeros_like(beta)
    better[rows] = newton(gram, y[None, rows], cost[None, rows], state, tol).beta[0]
    return better


def path(gram: Gram, y: Array, unit: Array, Cs: list[Array], start: Array | None, tol: float) -> list[State]:
    """One State per entry of Cs, each (k,) in the dtype of K: costs are C_k unit, with unit (k, n) broadcast.

    Each solution starts the next; start (k, n) is a beta for the first, and without it a ladder of smaller C leads up
    to it. Classes go to the cores in groups, one BLAS thread each, so that what is not a product runs in parallel too.
    """
    k = len(y)
    gram.prepare()
    cores = available_cores()
    groups = np.array_split(np.arange(k), max(1, min(k // 8, cores * -(-k // (96 * cores)))))

    def run(group: NDArray[np.intp]) -> list[State]:
        begin = None if start is None else start[group]
        return _walk(gram, y[group], unit[group], [C[group] for C in Cs], begin, tol)

    with threadpool_limits(max(1, cores // len(groups)), "blas"), ThreadPoolExecutor(min(cores, len(groups))) as pool:
        parts = list(pool.map(run, groups))
    return [
        State(*(np.concatenate(field) for field in zip(*((s.beta, s.f, s.gap, s.steps) for s in same), strict=True)))
        for same in zip(*parts, strict=True)
    ]


def _walk(gram: Gram, y: Array, unit: Array, Cs: list[Array], start: Array | None, tol: float) -> list[State]:
    """The path of one group of classes, on the calling thread."""
    zero = np.zeros_like(y)
    state = State(zero, zero, np.zeros(len(y)), np.zeros(len(y), dtype=np.int64))
    if start is not None:
        state = replace(state, beta=start, f=start @ gram.K)
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
    return found


def _extrapolate(y: Array, cost: Array, before: State, state: State) -> State:
    """The best point at the new cost on the line through the last two solutions: it saves about one Newton step."""
    step, f_step = state.beta - before.beta, state.f - before.f
    slope, curve = row_dot(state.beta, f_step), row_dot(step, f_step)
    t = line_search(y, cost, state.f, f_step, slope, curve)[:, None].astype(step.dtype)
    return replace(state, beta=state.beta + t * step, f=state.f + t * f_step)


def _ladder(gram: Gram, unit: Array, C: Array) -> list[Array]:
    """Smaller C, ascending by tens, to come before a cold one: at 0 every sample is active, and K_FF at its worst."""
    if gram.n <= gram.direct_limit:
        return []
    size = float((C[:, None] * unit).max() * gram.diagonal.mean())
    rungs = max(0, int(np.ceil(np.log10(max(size, 1e-30) / LADDER_START))))
    return [C * C.dtype.type(10.0**-rung) for rung in range(rungs, 0, -1)]


def groups_of(k: int, n: int) -> list[slice]:
    """The k classes in slices whose (classes, n) float64 arrays take about 50 MB each."""
    size = max(1, 6_000_000 // n)
    return [slice(at, min(at + size, k)) for at in range(0, k, size)]


def primal_newton(
    X: Double, y: Double, cost: Double, weights: Double, tol: float
) -> tuple[Double, Double, NDArray[np.int64]]:
    """(weights (k, D), relative gaps (k,), steps (k,)) by Newton's method on the weights, from given ones.

    X (n, D) holds the bias feature. The dual point 2 c slack needs only X' alpha, the gradient's other half.
    """
    weights, f = weights.copy(), weights @ X.T
    gap, steps = np.full(len(y), np.inf), np.zeros(len(y), dtype=np.int64)
    live = np.arange(len(y))
    for turn in range(MAX_NEWTON + 1):
        y_, c_, w_, f_ = y[live], cost[live], weights[live], f[live]
        slack = np.maximum(1 - y_ * f_, 0)
        pull = (2 * c_ * slack * y_) @ X  # X' (alpha y)
        primal, distance = objective_and_gap(slack, c_, row_dot(w_, w_), row_dot(pull, pull))
        gap[live] = relative(distance, primal)
        go = gap[live] > tol
        if turn == MAX_NEWTON or not go.any():
            break
        live, y_, c_, w_, f_, slack, pull = live[go], y_[go], c_[go], w_[go], f_[go], slack[go], pull[go]
        h = 2 * c_ * (slack > 0)
        step = np.stack([_primal_step(X, weight, down) for weight, down in zip(h, pull - w_, strict=True)])
        f_step = step @ X.T
        t = line_search(y_, c_, f_, f_step, row_dot(w_, step), row_dot(step, step))[:, None]
        weights[live] = w_ + t * step
        f[live] = weights[live] @ X.T
        steps[live] += 1
    return weights, gap, steps


def _primal_step(X: Double, h: Double, down: Double) -> Double:
    """(I + X' diag(h) X)^-1 down, (D,)."""
    active = np.flatnonzero(h)
    rows = X[active] * np.sqrt(h[active, None])
    hessian = rows.T @ rows
    hessian.ravel()[:: len(hessian) + 1] += 1
    return scipy.linalg.solve(hessian, down, assume_a="pos", check_finite=False)
