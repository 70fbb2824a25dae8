"""The Gram matrix K = X X' of one problem, its preconditioner, and the Newton systems solved with it.

Source: Halko et al. (SIAM Review 2011) for the randomised eigenvectors.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from vggfeat.classifiers.blas import blas_threads
from vggfeat.classifiers.kernels import add_squares, inverse_of_positive, solve_positive
from vggfeat.classifiers.limits import Limits
from vggfeat.classifiers.objective import Array, Double, row_dot

SHRINK = 0.1
"""Accuracy of a Newton step: more is wasted, because the active set changes first."""
MAX_CG = 200
"""Most iterations of conjugate gradients."""


class Gram:
    """K = X X' + s^2 (n, n) of n rows; its leading eigenvectors are computed when first needed.

    factor is X with the bias feature, (n, D + 1), if products by way of it are cheaper than with K: 2 (D + 1) < n.
    """

    def __init__(self, K: Array, limits: Limits, *, factor: Array | None = None, direct: bool = False) -> None:
        self.K = K
        self.factor = factor if factor is not None and 2 * factor.shape[1] < len(K) else None
        self.limits = limits
        self.direct = direct or len(K) <= limits.double_rows
        self.n = len(K)
        self.dtype = K.dtype
        self.diagonal = K.diagonal().copy()
        self._ritz: tuple[Array, Array, Array, Array] | None = None

    @property
    def direct_limit(self) -> int:
        """Largest active set to factorise: |F|^3/3 operations then cost as much as iterating."""
        return self.n if self.direct else int((8.0 * self.n**2) ** (1 / 3))

    def part(self, rows: NDArray[np.intp]) -> Gram:
        """The Gram matrix of some of the rows: a contiguous copy, because products read it many times."""
        factor = None if self.factor is None else self.factor[rows]
        return Gram(square(self.K, rows), self.limits, factor=factor)

    def product(self, beta: Array) -> Array:
        """K beta (k, n) of beta (k, n)."""
        if self.factor is None:
            return beta @ self.K
        return (beta @ self.factor) @ self.factor.T

    def prepare(self) -> None:
        """Computes the eigenvectors now, before several threads need them."""
        if self.n > self.direct_limit:
            self.ritz()

    def ritz(self) -> tuple[Array, Array, Array, Array]:
        """(A, Z, rest, Z'Z): V = X'A (D, r) is orthonormal, Z = X V (n, r) = K A, rest = diag(K - Z Z') (n,)."""
        if self._ritz is None:
            rng = np.random.default_rng(0)  # any start works; a fixed one makes runs repeat
            basis = rng.standard_normal((self.n, min(self.n, self.limits.ritz + 8))).astype(self.dtype)
            for _ in range(2):
                image = self.product(basis.T).T
                with blas_threads(1):  # threads cost more than they save in small calls
                    basis = np.linalg.qr(image)[0]
            image = self.product(basis.T).T
            if not np.isfinite(image).all():  # an overflow: no preconditioner, and the gaps will tell
                none = np.zeros((self.n, 0), dtype=self.dtype)
                self._ritz = none, none, self.diagonal, none.T @ none
                return self._ritz
            values, turn = np.linalg.eigh((basis.T @ image).astype(np.float64))
            keep = slice(-min(self.limits.ritz, self.n), None)
            scale = np.sqrt(np.maximum(values[keep], 1e-7 * values[-1]))
            turn = (turn[:, keep] / scale).astype(self.dtype)
            Z = image @ turn
            rest = np.maximum(self.diagonal - np.einsum("ij,ij->i", Z, Z), 0)
            self._ritz = basis @ turn, Z, rest, Z.T @ Z
        return self._ritz


def gram_of(X: Array, intercept_scaling: float, limits: Limits) -> Gram:
    """K of the rows of X (n, D), the bias feature included; float64 up to `limits.double_rows` rows, else float32."""
    X = X.astype(np.float64 if len(X) <= limits.double_rows else np.float32, copy=False)
    K = X @ X.T
    K += K.dtype.type(intercept_scaling) * K.dtype.type(intercept_scaling)
    return Gram(K, limits, factor=with_bias(X, intercept_scaling))


def with_bias(X: Array, intercept_scaling: float) -> Array:
    """X (n, D) and the bias feature, (n, D + 1), in the dtype of X."""
    return np.column_stack([X, np.full(len(X), intercept_scaling, dtype=X.dtype)])


def square(K: Array, rows: NDArray[np.intp]) -> Array:
    """K[rows][:, rows]: in two steps, each along memory, it takes a half to a third of `np.ix_`'s time."""
    part: Array = K.take(rows, axis=0).take(rows, axis=1)
    return part


def factorised_solution(K: Array, h: Array, target: Array) -> Array:
    """(n,) the solution of (K_FF + 1/h_F) x_F = target_F on one class's active set F, 0 elsewhere."""
    active = np.flatnonzero(h)
    solution = np.zeros_like(target)
    if not len(active):
        return solution

    def system() -> Array:
        part = square(K, active)
        part.ravel()[:: len(active) + 1] += 1 / h[active]
        return part

    solution[active] = solve_positive(system, target[active])
    return solution


class Deflation:
    """Preconditioner M^-1 = I + V S V' of k classes' Hessians: exact on V's span, right up to a factor beside it."""

    def __init__(self, gram: Gram, h: Array) -> None:
        self.A, self.Z, rest, self.squares = gram.ritz()
        mean = row_dot(h, np.broadcast_to(rest, h.shape)) / np.maximum(np.count_nonzero(h, axis=1), 1)
        r = self.Z.shape[1]
        self.S = np.zeros((len(h), r, r), dtype=h.dtype)
        heaviest = h.max(axis=1, keepdims=True)
        equal = ((h == 0) | (h == heaviest)).all(axis=1)
        for k, weights in enumerate(h if r else ()):  # an overflow has left no eigenvectors
            inverse = inverse_of_positive(partial(self._inner, weights, heaviest[k, 0] if equal[k] else None))
            if np.isfinite(inverse).all():  # else, after an overflow or rounding: no preconditioner
                self.S[k] = (1 + mean[k]) * inverse
                self.S[k].ravel()[:: r + 1] -= 1

    def _inner(self, weights: Array, equal: float | None) -> Array:
        """The upper triangle of I + Z' diag(weights) Z (r, r), by the active rows, or the others where that is cheaper.

        equal: what all active rows weigh, if they weigh the same.
        """
        active = np.flatnonzero(weights)
        inner = np.eye(len(self.squares), dtype=weights.dtype)
        if equal is None:
            add_squares(inner, self.Z.take(active, axis=0) * np.sqrt(weights[active])[:, None], 1)
        elif 2 * len(active) > len(weights):
            inner += equal * self.squares
            add_squares(inner, self.Z.take(np.flatnonzero(weights == 0), axis=0), -equal)
        else:
            add_squares(inner, self.Z.take(active, axis=0), equal)
        return inner

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Drops all classes but these."""
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

    Solves (I + diag(h) K) step = g in the inner product of K. A class is finished when its gradient's |X' r|^2 is at
    most enough (k,), or its energy r' M^-1 r fell by the factor `shrink`: far from the optimum the active set changes
    anyway. The plain residual would not serve there: the mean direction's eigenvalue dominates it.
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
        Kz = gram.product(z)
        new = row_dot(r, Kz)
        # The product of the next direction is known by now, so its step is free: finished classes take it too.
        last = (new - M.excess() <= enough) | (new <= shrink * first)
        b = np.divide(new, energy, out=np.zeros_like(new), where=energy > 0)[:, None].astype(g.dtype)
        p *= b
        p += z
        Kp *= b
        Kp += Kz
        energy = new
    return steps, K_steps
