"""Similar descriptors in a file, by cosine, in bounded memory however many rows and queries there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggfeat.errors import StoreError, UsageError
from vggfeat.store.reader import Descriptors
from vggfeat.system.numbers import number_of

Float = NDArray[np.float32]
Progress = Callable[[int, int], None]

MEMORY = 1 << 30
"""Bytes of descriptors held at once, by default."""

TILE = 4096
"""Most rows of a block that is read from the file, and so the sides of one product of cosines (64 MiB)."""

QUERIES = 512
"""Queries whose cosines to a block are sorted at once, so that memory does not grow with the queries either."""

ROUNDING = 1e-6
"""What float32 may take from a cosine: equal descriptors are similar to 1 within this."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The most similar rows of a file to each of n queries, best first; equal ones in the file's order."""

    rows: NDArray[np.int64]
    """(n, k)."""
    cosines: Float
    """(n, k)."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of rows, most similar first, then in the file's order."""

    rows: NDArray[np.int64]
    """(p, 2), the earlier row of the file first."""
    cosines: Float
    """(p,)."""
    found: int
    """Pairs above the threshold, of which only the most similar may be kept."""


def tile_of(dim: int, memory: int = MEMORY) -> int:
    """Rows in a block of descriptors of `dim` values: a few blocks and their units fit into `memory` bytes."""
    return max(1, min(TILE, memory // (16 * dim)))


def nearest(
    features: Descriptors, queries: NDArray[np.floating], k: int, *, progress: Progress | None = None
) -> Neighbours:
    """The k rows of a file that are most similar to each query; fewer where the file has fewer descriptors.

    Args:
        features: the file; pending and failed rows are left out.
        queries: (n, D) descriptors of any length; one of zeros has cosine 0 with everything.
        progress: called with (rows compared, rows).

    Raises StoreError where the queries have another length than the file's descriptors.
    """
    if queries.shape[1] != features.dim:
        raise StoreError(
            f"queries of {number_of(queries.shape[1], 'value')}, the descriptors of {features.path} have {features.dim}"
        )
    units = _units(np.asarray(queries, dtype=np.float32))
    parts = [units[start : start + QUERIES] for start in range(0, len(units), QUERIES)] or [units]
    best = [Neighbours(np.empty((len(part), 0), np.int64), np.empty((len(part), 0), np.float32)) for part in parts]
    for rows, block in _blocks(features, tile_of(features.dim)):
        best = [_better(one, part, rows, block, k) for one, part in zip(best, parts, strict=True)]
        if progress is not None:
            progress(int(rows[-1]) + 1, len(features))
    return Neighbours(np.concatenate([one.rows for one in best]), np.concatenate([one.cosines for one in best]))


def _better(best: Neighbours, units: Float, rows: NDArray[np.int64], block: Float, k: int) -> Neighbours:
    """The k best of those found so far and of a block's rows."""
    cosines = np.concatenate([best.cosines, np.minimum(units @ block.T, np.float32(1))], axis=1)
    candidates = np.concatenate([best.rows, np.broadcast_to(rows, (len(units), len(rows)))], axis=1)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return Neighbours(np.take_along_axis(candidates, order, 1), np.take_along_axis(cosines, order, 1))


def near_duplicates(
    features: Descriptors,
    at_least: float,
    *,
    most: int = 100_000,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> Pairs:
    """The pairs of rows with a cosine of `at_least` or more; of more than `most` pairs the most similar.

    Every pair is compared: N rows of D values cost N^2 D multiplications, and the file is read
    about 8 N D / `memory` times. Equal descriptors count as similar to 1, whatever float32 makes of their product.

    Args:
        features: the file; pending and failed rows are left out, and so are descriptors of zeros.
        memory: bytes of descriptors held at once.
        progress: called with (pairs compared, pairs).

    Raises UsageError unless `at_least` is a cosine above 0.
    """
    if not 0 < at_least <= 1:
        raise UsageError(f"`at_least={at_least:g}`: expected a cosine above 0, at most 1")
    tile = tile_of(features.dim, memory)
    held = max(tile, memory // (8 * features.dim) // tile * tile)
    kept = _BestPairs(most)
    done, total = 0, len(features.done) * (len(features.done) + 1) // 2
    for first, chunk in _chunks(features, held):
        for rows, block in _blocks(features, tile, since=int(first[0])):
            for place in range(0, len(first), tile):
                mine = first[place : place + tile]
                if mine[0] > rows[-1]:
                    continue
                cosines = chunk[place : place + tile] @ block.T
                cosines[mine[:, None] >= rows] = -np.inf  # each pair once
                left, right = np.nonzero(cosines >= at_least - ROUNDING)
                kept.add(np.stack([mine[left], rows[right]], axis=1), cosines[left, right])
                done += int((mine[:, None] <= rows).sum())
            if progress is not None:
                progress(min(done, total), total)
    return kept.pairs()


class _BestPairs:
    """Collects pairs and forgets all but the most similar from time to time."""

    def __init__(self, most: int) -> None:
        self._most, self._found = most, 0
        self._rows = np.empty((0, 2), np.int64)
        self._cosines = np.empty(0, np.float32)

    def add(self, rows: NDArray[np.int64], cosines: Float) -> None:
        self._found += len(rows)
        self._rows = np.concatenate([self._rows, rows])
        self._cosines = np.concatenate([self._cosines, cosines])
        if len(self._rows) > 2 * self._most:
            self._keep_best()

    def _keep_best(self) -> None:
        order = np.lexsort((self._rows[:, 1], self._rows[:, 0], -self._cosines))[: self._most]
        self._rows, self._cosines = self._rows[order], self._cosines[order]

    def pairs(self) -> Pairs:
        self._keep_best()
        return Pairs(self._rows, np.minimum(self._cosines, np.float32(1)), self._found)


def _units(values: Float) -> Float:
    """Rows at unit length; rows of zeros stay zero. Lengths in float64, as squares overflow float32."""
    lengths = np.sqrt(np.einsum("nd,nd->n", values, values, dtype=np.float64))[:, None]
    units: Float = np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0, casting="unsafe")
    return units


def _blocks(features: Descriptors, tile: int, since: int = 0) -> Iterator[tuple[NDArray[np.int64], Float]]:
    """(rows, their unit descriptors) of the rows that are done, in the file's order, at most `tile` at a time."""
    start = since // tile * tile
    for block in features.blocks(tile, start=start):
        rows = features.done[(features.done >= max(start, since)) & (features.done < start + len(block))]
        if len(rows):
            yield rows, _units(block[rows - start])
        start += len(block)


def _chunks(features: Descriptors, size: int) -> Iterator[tuple[NDArray[np.int64], Float]]:
    """The same in larger pieces."""
    for place in range(0, len(features.done), size):
        rows = features.done[place : place + size]
        yield rows, _units(features.read(rows))
