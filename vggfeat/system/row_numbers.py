"""Rows chosen by their numbers or by a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vggfeat.system.numbers import number_of


def row_numbers(rows: ArrayLike, count: int, whose: str) -> NDArray[np.intp]:
    """(n,) the numbers of these rows, given as numbers or as a mask (count,).

    `whose` rows they are, for the message of the ValueError for anything else: fractions, negative numbers, others'
    masks.
    """
    chosen = np.asarray(rows)
    if chosen.dtype == bool:
        if chosen.shape != (count,):
            raise ValueError(f"a mask of rows has shape {chosen.shape}, {whose} has {number_of(count, 'row')}")
        return np.flatnonzero(chosen)
    if chosen.ndim != 1 or (len(chosen) and chosen.dtype.kind not in "iu"):
        raise ValueError("rows must be a list of row numbers, or a mask of all rows")
    outside = chosen[(chosen < 0) | (chosen >= count)]
    if len(outside):
        raise ValueError(f"row {outside[0]} is out of range: {whose} has {number_of(count, 'row')}, counted from 0")
    return chosen.astype(np.intp)
