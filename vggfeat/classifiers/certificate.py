"""Duality gaps of weights, from margins in float64 over blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vggfeat.classifiers.engine import Rows
from vggfeat.classifiers.gram import Gram
from vggfeat.classifiers.groups import Count, Group, run_groups
from vggfeat.classifiers.objective import (
    SILENT,
    Array,
    Double,
    groups_of,
    objective_and_gap,
    relative,
    row_dot,
    support_gap,
)
from vggfeat.system.launch import available_cores

CACHE_BYTES, PRODUCT_BYTES = 1_000_000, 50_000_000
"""Of a group of classes' float64 array: what a core's cache holds, and what makes a product with K worth reading K."""

BLOCK_ROWS = 1024
"""Rows of X turned to float64 at a time: 100 MB at 12,288 features."""


class Certificate:
    """Gaps of weights w = X' beta, from margins X w in float64 over blocks of rows."""

    def __init__(self, X: Array, rows: Rows, scaling: float, gram: Gram | None = None) -> None:
        self.X, self.rows, self.scaling, self.gram = X, rows, scaling, gram
        self._subset: Array | None = None
        self.whole = len(rows) == len(X) and np.array_equal(rows, np.arange(len(X)))

    def check(self, y: Array, cost: Array, beta: Array, tol: float) -> tuple[Array, Double, Double]:
        """(weights (K, D + 1) in the dtype of X, margins' f (K, n) and relative gaps (K,), both float64)."""
        weights = self.weights(beta, exact=beta.dtype == np.float64).astype(self.X.dtype, copy=False)
        f = self.margins(weights)

        def by_beta(k: Group, _count: Count) -> Double:
            with np.errstate(**SILENT):
                return self._gap_of_beta(y[k], cost[k], beta[k], f[k], weights[k])

        small = groups_of(np.arange(len(y)), y.shape[1], CACHE_BYTES)
        gap = np.concatenate(run_groups(by_beta, small, available_cores()))
        # In large groups, because each product reads all of K.
        for k in groups_of(np.flatnonzero(gap > tol), y.shape[1], PRODUCT_BYTES):
            gap[k] = np.minimum(gap[k], self._gap_of_slack(y[k], cost[k], beta[k], f[k], weights[k]))
        return weights, f, gap

    def _gap_of_beta(self, y: Array, cost: Array, beta: Array, f: Double, weights: Array) -> Double:
        """(K,) the gaps with beta itself as the dual point."""
        assert self.gram is not None
        y, cost, beta, weights = (part.astype(np.float64, copy=False) for part in (y, cost, beta, weights))
        slack = np.maximum(1 - y * f, 0)
        return support_gap(self.gram.diagonal, y, cost, beta, f, slack, row_dot(weights, weights))[0]

    def _gap_of_slack(self, y: Array, cost: Array, beta: Array, f: Double, weights: Array) -> Double:
        """(K,) the gaps with 2 c slack as the dual point.

        |X'(alpha y)|^2 is written around |X' beta|^2. The float32 K then computes only |X' g|^2, which is twice the
        gap, so its rounding errors are small beside the gap.
        """
        assert self.gram is not None
        y, cost, beta, weights = (part.astype(np.float64, copy=False) for part in (y, cost, beta, weights))
        slack = np.maximum(1 - y * f, 0)
        quad = row_dot(weights, weights)
        g = 2 * cost * slack * y - beta
        single = g.astype(self.gram.dtype)
        square = row_dot(single, self.gram.product(single))
        dual_quad = 2 * row_dot(beta, f) - quad + 2 * row_dot(g, f) + square
        primal, distance = objective_and_gap(slack, cost, quad, dual_quad)
        return relative(distance, primal)

    def subset(self) -> Array:
        """X on the rows; a copy unless they are all rows."""
        if self.whole:
            return self.X
        if self._subset is None:
            self._subset = self.X[self.rows]
        return self._subset

    def weights(self, beta: Array, exact: bool = False) -> Array:
        """X' beta (K, D + 1), in beta's dtype or, if exact, in float64; the bias feature's weight last."""
        if not exact and self.whole and self.X.dtype == beta.dtype:
            weights = beta @ self.X
        else:
            weights = np.zeros((len(beta), self.X.shape[1]), dtype=np.float64 if exact else beta.dtype)
            for at, block in self._blocks(weights.dtype):
                weights += beta[:, at].astype(weights.dtype, copy=False) @ block
        bias = self.scaling * beta.sum(axis=1, dtype=np.float64)
        return np.column_stack([weights, bias.astype(weights.dtype)])

    def margins(self, weights: Array) -> Double:
        """X w (K, n) in float64."""
        f = np.empty((len(weights), len(self.rows)))
        exact = weights.astype(np.float64, copy=False)
        inner = np.ascontiguousarray(exact[:, :-1])
        for at, block in self._blocks(np.dtype(np.float64)):
            f[:, at] = inner @ block.T
        f += self.scaling * exact[:, -1:]
        return f

    def _blocks(self, dtype: np.dtype) -> Iterator[tuple[slice, Array]]:
        for start in range(0, len(self.rows), BLOCK_ROWS):
            at = slice(start, min(start + BLOCK_ROWS, len(self.rows)))
            block = self.X[at] if self.whole else self.X[self.rows[at]]
            yield at, block.astype(dtype, copy=False)
