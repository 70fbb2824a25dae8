"""Newton's method for many one-vs-rest squared-hinge SVMs at once: arrays in, arrays out.

Every class k minimises, over w in the span of the rows x_i of the bias-augmented X (N, D + 1),

    P(w) = 1/2 |w|^2 + sum_i c_ki max(0, 1 - y_ki x_i w)^2,

with w = X' beta, so that only K = X X' is needed: f = X w = K beta and |w|^2 = beta f. Arrays are (k, n), one class
a row, because products, masks and reductions are then contiguous per class. With the active set
h = 2 c [1 - y f > 0] the gradient in w is -X' g for g = h (y - f) - beta, the Hessian I + X' diag(h) X, and
alpha = 2 c max(0, 1 - y f) a dual point whose gap to P is |X' g|^2 / 2. So one product K g a step gives the certificate and
the start of the conjugate gradients alike.

Sources: Keerthi and DeCoste (JMLR 2005) and Chapelle (Neural Computation 2007) for Newton's method on this objective;
Fan et al., LIBLINEAR (JMLR 2008), for the objective, its dual and the penalised bias; Halko et al. (SIAM Review 2011) for the
randomised eigenvectors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Array = NDArray[np.floating]
Double = NDArray[np.float64]

# float32 loses about 1e-6 of each margin, which matters only where rounding, not the optimum, would decide; up to this
# many rows float64 costs no time that anyone notices, and one Cholesky per class is faster than any iteration.
SMALL_N = 1000
RITZ = 64
"""Eigenvectors of K in the preconditioner: the features' mean direction alone has an eigenvalue near 0.4 n."""
MAX_NEWTON = 60
MAX_CG = 200


@dataclass
class State:
    """Where k problems stand: beta and f = K beta, both (k, n), the relative gap (k,) and the Newton steps made (k,)."""

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

    def __init__(self, K: Array) -> None:
        self.K = K
        self.n = len(K)
        self.dtype = K.dtype
        self.diagonal = K.diagonal().copy()
        self._ritz: tuple[Array, Array, Array] | None = None

    @property
    def direct_limit(self) -> int:
        """Active sets up to this size are factorised: |F|^3/3 flops then cost less than some six products of 2 n^2."""
        return self.n if self.n <= SMALL_N else int((20.0 * self.n**2) ** (1 / 3))

    def ritz(self) -> tuple[Array, Array, Array]:
        """(A, Z, rest): V = X'A (D, r) is orthonormal, Z = X V (n, r) = K A, rest = diag(K - Z Z') (n,)."""
        if self._ritz is None:
            rng = np.random.default_rng(0)  # any start does; a fixed one makes runs repeat
            basis = rng.standard_normal((self.n, min(self.n, RITZ + 8))).astype(self.dtype)
            for _ in range(2):
                basis = np.linalg.qr(self.K @ basis)[0]
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
    """gap / primal, and 0 where nothing is to pay: a class without any sample of positive cost."""
    return np.divide(gap, primal, out=np.zeros_like(gap), where=primal > 0)


def line_search(y: Array, cost: Array, beta: Array, f: Array, step: Array, f_step: Array) -> Double:
    """(k,) exact minimisers t >= 0 of P(beta + t step): Newton on P', which is piecewise linear and increasing in t."""
    slope, curve = row_dot(beta, f_step), row_dot(step, f_step)
    margin, pull = 1 - y * f, y * f_step  # slack at t: max(0, margin - t pull)
    weighted = cost * pull
    t = np.ones(len(y))
    for _ in range(12):
        slack = margin - t[:, None].astype(pull.dtype) * pull
        np.maximum(slack, 0, out=slack)
        first = slope + t * curve - 2 * row_dot(weighted, slack)
        np.copyto(slack, pull, where=slack > 0)
        second = curve + 2 * row_dot(weighted, slack)
        move = np.divide(first, second, out=np.zeros_like(first), where=second > 0)
        t = np.maximum(t - move, 0)
        if np.all(np.abs(move) <= 1e-3):
            break
    return t


def factorised_step(K: Array, y: Array, h: Array, beta: Array) -> Array:
    """The whole Newton step of one class, (n,): beta becomes the solution of (K_FF + 1/h_F) beta_F = y_F, 0 outside F."""
    active = np.flatnonzero(h)
    step = -beta
    if len(active):
        system = K[np.ix_(active, active)]
        system.ravel()[:: len(active) + 1] += 1 / h[active]
        try:
            factor = scipy.linalg.cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
            step[active] += scipy.linalg.cho_solve(factor, y[active], check_finite=False)
        except np.linalg.LinAlgError:  # K is singular to rounding beside a tiny 1/h: a huge C in float32
            system = K[np.ix_(active, active)].astype(np.float64)
            system.ravel()[:: len(active) + 1] += 1 / h[active] + 1e-6 * system.diagonal().max()
            step[active] += scipy.linalg.solve(system, y[active], assume_a="pos", check_finite=False)
    return step


class Deflation:
    """M^-1 = I + V S V' for the Hessians I + X' diag(h) X of k classes: exact on V's span, a scaled identity beside it."""

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
    gram: Gram, h: Array, g: Array, Kg: Array, enough: Double, shrink: float
) -> tuple[Array, Array]:
    """Newton steps (k, n) of k classes and their products with K, by conjugate gradients in w written in beta.

    Solves (I + diag(h) K) step = g in the inner product of K. A class is done when its gradient's |X' r|^2 is at most
    enough (k,), or its energy r' M^-1 r fell by the factor `shrink`: far from the optimum the active set will change anyway.
    The plain residual would not do for the second: the mean direction's eigenvalue dwarfs all else in it.
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


def newton(
    gram: Gram, y: Array, cost: Array, state: State, tol: float, max_steps: int = MAX_NEWTON, shrink: float = 0.1
) -> State:
    """Newton steps on k problems from `state` until each one's relative gap is at most tol; a new state.

    y (k, n) is 1 or -1, cost (k, n) at least 0. The gap here is of float32 products with float64 sums.
    """
    beta, f = state.beta.copy(), state.f.copy()
    gap, steps = np.full(len(y), np.inf), state.steps.copy()
    live = np.arange(len(y))
    for turn in range(max_steps + 1):
        y_, c_, b_, f_ = y[live], cost[live], beta[live], f[live]
        slack = 1 - y_ * f_
        np.maximum(slack, 0, out=slack)
        alpha = 2 * c_ * slack * y_
        g = alpha - b_
        Kg = g @ gram.K
        primal, distance = objective_and_gap(slack, c_, row_dot(b_, f_), row_dot(alpha, f_ + Kg))
        gap[live] = relative(distance, primal)
        go = gap[live] > tol
        if turn == max_steps or not go.any():
            break
        live, y_, c_, b_, f_, g, Kg, primal = live[go], y_[go], c_[go], b_[go], f_[go], g[go], Kg[go], primal[go]
        h = 2 * c_ * (slack[go] > 0)
        small = np.count_nonzero(h, axis=1) <= gram.direct_limit
        step, K_step = np.empty_like(g), np.empty_like(g)
        if small.any():
            for k in np.flatnonzero(small):
                step[k] = factorised_step(gram.K, y_[k], h[k], b_[k])
            K_step[small] = step[small] @ gram.K
        if not small.all():
            big = ~small
            enough = tol * primal[big]  # twice the gap that |X' r|^2 stands for, before one more step
            step[big], K_step[big] = conjugate_gradient_step(gram, h[big], g[big], Kg[big], enough, shrink)
        t = line_search(y_, c_, b_, f_, step, K_step)[:, None].astype(g.dtype)
        beta[live] += t * step
        f[live] += t * K_step
        steps[live] += 1
    return State(beta, f, gap, steps)
