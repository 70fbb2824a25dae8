"""Newton's method on the D + 1 weights of squared-hinge SVMs, in float64."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from vggfeat.classifiers.objective import Double, line_search, objective_and_gap, relative, row_dot


def primal_newton(
    X: Double, y: Double, cost: Double, weights: Double, tol: float, max_steps: int
) -> tuple[Double, Double, NDArray[np.int64]]:
    """(weights (k, D), relative gaps (k,), steps (k,)) by Newton's method on the weights, from given ones.

    X (n, D) holds the bias feature. The dual point 2 c slack needs only X' alpha, the gradient's other half.
    """
    weights, f = weights.copy(), weights @ X.T
    gap, steps = np.full(len(y), np.inf), np.zeros(len(y), dtype=np.int64)
    live = np.arange(len(y))
    for turn in range(max_steps + 1):
        y_, c_, w_, f_ = y[live], cost[live], weights[live], f[live]
        slack = np.maximum(1 - y_ * f_, 0)
        pull = (2 * c_ * slack * y_) @ X  # X' (alpha y)
        primal, distance = objective_and_gap(slack, c_, row_dot(w_, w_), row_dot(pull, pull))
        gap[live] = relative(distance, primal)
        go = gap[live] > tol
        if turn == max_steps or not go.any():
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
