"""The squared hinge's objective, dual and line search, for k problems at once: arrays in, arrays out.

Each class k minimises, over w in the span of the rows x_i of the bias-augmented X (N, D + 1),

    P(w) = 1/2 |w|^2 + sum_i c_ki max(0, 1 - y_ki x_i w)^2.

Arrays are (k, n), one class a row: products, masks and reductions are then contiguous per class. y is 1 or -1, cost is
at least 0, f = X w.

Source: Fan et al., LIBLINEAR (JMLR 2008), for the objective, its dual and the penalised bias.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Double = NDArray[np.float64]

SILENT: Any = {"over": "ignore", "invalid": "ignore", "divide": "ignore"}
"""np.errstate of a fit, needed in every thread: an overflow has an infinite gap, and the fit warns of that."""


def row_dot(a: Array, b: Array) -> Double:
    """(k,) inner products of the rows of a and b, (k, n), in float64 across blocks of columns."""
    total = np.zeros(len(a))
    for at in range(0, a.shape[1], 1024):
        total += np.einsum("ij,ij->i", a[:, at : at + 1024], b[:, at : at + 1024])
    return total


def objective_and_gap(slack: Array, cost: Array, quad: Double, dual_quad: Double) -> tuple[Double, Double]:
    """P and P - D, each (k,), of margins' slack max(0, 1 - y f) (k, n), |w|^2 and |X'(alpha y)|^2 (k,).

    The dual point is t alpha with the best t, in closed form. Without t, D would be far too low where w is wrong only
    in its length.
    """
    weighted = cost * slack
    loss, total = row_dot(weighted, slack), 2 * weighted.sum(axis=1, dtype=np.float64)
    primal = quad / 2 + loss
    curvature = dual_quad + 2 * loss
    dual = np.divide(total**2, 2 * curvature, out=np.zeros_like(total), where=curvature > 0)
    return primal, primal - dual


def relative(gap: Double, primal: Double) -> Double:
    """gap / primal, at least 0; infinity unless both are finite; 0 if primal is 0: all of a class's samples cost 0."""
    found = np.divide(np.maximum(gap, 0), primal, out=np.zeros_like(gap), where=primal > 0)
    return np.where(np.isfinite(gap) & np.isfinite(primal), found, np.inf)


def support_gap(
    gram_diagonal: Array, y: Array, cost: Array, beta: Array, f: Array, slack: Array, quad: Double | None = None
) -> tuple[Double, Double]:
    """Relative gap (k,) with beta itself as the dual point, and P (k,): no product with K and so none of its rounding.

    The dual point 2 c (1 - y f) would turn an error of 1e-6 in f into 2e-6 c in alpha, which the mean direction's
    eigenvalue multiplies; beta comes from the solve instead. Where y beta < 0 or the cost is 0, beta is cut to be
    feasible; the triangle inequality bounds the length that this adds to |X'(alpha y)|. quad is |w|^2 where w is
    X' beta only up to a rounding error e: |X' beta|^2 is then 2 beta f - |w|^2 + |e|^2, and |e|^2 is negligible.
    """
    dual = y * beta
    alpha = np.maximum(dual, 0) * (cost > 0)
    cut = dual - alpha
    quad_beta = row_dot(beta, f)
    if quad is None:
        quad = quad_beta
    added = (np.abs(cut) @ np.sqrt(gram_diagonal)).astype(np.float64)
    dual_quad = 2 * quad_beta - quad - 2 * row_dot(cut * y, f) + added**2
    loss = row_dot(cost * slack, slack)
    over = alpha / (2 * cost + (cost == 0))
    curvature = dual_quad + row_dot(over, alpha)
    total = alpha.sum(axis=1, dtype=np.float64)
    best = np.divide(total**2, 2 * curvature, out=np.zeros_like(total), where=curvature > 0)
    primal = quad / 2 + loss
    return relative(primal - best, primal), primal


def line_search(y: Array, cost: Array, f: Array, f_step: Array, slope: Double, curve: Double) -> Double:
    """(k,) exact minimisers t >= 0 of P along a step: Newton on P', which is piecewise linear and increasing in t.

    slope (k,) is the inner product of w and the step, curve (k,) the squared length of the step, f_step (k, n) its
    change of f.
    """
    margin, pull = y * f, y * f_step
    np.subtract(1, margin, out=margin)  # slack at t: max(0, margin - t pull)
    weighted = cost * pull
    t, low, high = np.ones(len(y)), np.zeros(len(y)), np.full(len(y), np.inf)
    slack = np.empty_like(pull)  # in place, because the memory of a new array costs as much as what is done with it
    for _ in range(30):
        np.multiply(t[:, None].astype(pull.dtype), pull, out=slack)
        np.subtract(margin, slack, out=slack)
        np.maximum(slack, 0, out=slack)
        first = slope + t * curve - 2 * row_dot(weighted, slack)
        np.greater(slack, 0, out=slack)
        slack *= pull
        second = curve + 2 * row_dot(weighted, slack)
        np.copyto(low, t, where=first < 0)
        np.copyto(high, t, where=first > 0)
        move = np.divide(first, second, out=np.zeros_like(first), where=second > 0)
        new = t - move
        astray = (new < low) | (new > high)  # Newton can leave its bracket at the kinks of P'
        new[astray] = np.where(np.isinf(high), 2 * low, (low + high) / 2)[astray]
        if np.all(np.abs(new - t) <= 1e-3):
            return new
        t = new
    return t


def groups_of(classes: NDArray[np.intp], n: int, most: int) -> list[NDArray[np.intp]]:
    """The classes in groups whose (classes, n) float64 arrays take about `most` bytes each."""
    return np.array_split(classes, max(1, -(-8 * len(classes) * n // most))) if len(classes) else []
