"""The rows of X that a fit reads, with the bias feature, in memory or in blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vggfeat.classifiers import kernels
from vggfeat.classifiers.blas import blas_threads
from vggfeat.classifiers.objective import Array, Double

Real = TypeVar("Real", np.float32, np.float64)

FEW_PRODUCTS = 2e9
"""Up to this many products (30 ms on one core with AVX2), one thread sums X'X."""


class Table:
    """n rows of X (N, D) and the bias feature of the value `scaling`: products with weights (k, D + 1) and with rows.

    X may be a memory map: of more than `held_bytes` only blocks of rows are in memory at a time.
    """

    def __init__(self, X: Array, rows: NDArray[np.intp], scaling: float, held_bytes: int) -> None:
        self.X, self.chosen, self.scaling = X, rows, scaling
        self.n, self.dim = len(rows), X.shape[1] + 1
        self.whole = len(rows) == len(X) and np.array_equal(rows, np.arange(len(X)))
        self.held = 12 * self.n * self.dim <= held_bytes
        self._double: Double | None = None
        self._single: NDArray[np.float32] | None = None
        self._gram: NDArray[np.float32] | None = None
        self.block = max(256, held_bytes // (64 * self.dim))
        """Rows of a block."""

    def prepare(self) -> None:
        """Computes now what several threads are about to read."""
        if self.held and self._double is None:
            double = self._read(np.arange(self.n), np.float64)
            self._double, self._single = double, double.astype(np.float32)
        self.gram()

    def scores(self, weights: Double) -> Double:
        """X w (k, n) in float64."""
        if self._double is not None:
            return weights @ self._double.T
        f = np.empty((len(weights), self.n))
        for at, block in self._blocks():
            f[:, at] = weights @ block.T
        return f

    def pull(self, alpha: Double) -> Double:
        """X' alpha (k, D + 1) in float64, of alpha (k, n)."""
        if self._double is not None:
            return alpha @ self._double
        total = np.zeros((len(alpha), self.dim))
        for at, block in self._blocks():
            total += alpha[:, at] @ block
        return total

    def rows(self, at: NDArray[np.intp]) -> Double:
        """Some of the rows in float64, (m, D + 1)."""
        return self._read(at, np.float64) if self._double is None else self._double[at]

    def _read(self, at: NDArray[np.intp], dtype: type[Real]) -> NDArray[Real]:
        out = np.empty((len(at), self.dim), dtype=dtype)
        out[:, :-1] = self.X[at] if self.whole else self.X[self.chosen[at]]
        out[:, -1] = self.scaling
        return out

    def add_squares(
        self, total: NDArray[np.float32], at: NDArray[np.intp], factor: float, weight: Double | None = None
    ) -> None:
        """Adds factor sum of weight x x' over some of the rows to the upper triangle of total (D + 1, D + 1)."""
        for start in range(0, len(at), self.block):
            part = slice(start, start + self.block)
            rows = self._read(at[part], np.float32) if self._single is None else self._single.take(at[part], axis=0)
            if weight is not None:
                rows *= np.sqrt(weight[part]).astype(np.float32)[:, None]
            kernels.add_squares(total, rows, factor)

    def gram(self) -> NDArray[np.float32]:
        """The upper triangle of 2 X' X (D + 1, D + 1)."""
        if self._gram is None:
            self._gram = np.zeros((self.dim, self.dim), dtype=np.float32)
            # Waking BLAS's threads takes up to 60 ms where numpy's own, of another copy of BLAS, are still awake.
            few = self.n * self.dim**2 < FEW_PRODUCTS
            with blas_threads(1) if few else contextlib.nullcontext():
                self.add_squares(self._gram, np.arange(self.n), 2)
        return self._gram

    def _blocks(self) -> Iterator[tuple[slice, Double]]:
        for start in range(0, self.n, self.block):
            at = slice(start, min(start + self.block, self.n))
            yield at, self._read(np.arange(at.start, at.stop), np.float64)
