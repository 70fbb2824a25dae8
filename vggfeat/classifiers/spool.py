"""Descriptors of more images than fit in memory: a temporary file on disk, of which the fit maps parts into memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggfeat.classifiers.limits import Limits
from vggfeat.errors import UsageError
from vggfeat.system.launch import available_cores
from vggfeat.system.numbers import number_of

GIB = 2**30


@dataclass(frozen=True)
class Budget:
    """How `n` descriptors of `dim` values and `classes` classes are fitted within `most` bytes; None: all in memory.

    Targets and scores, which grow with images x classes, are kept whole. Half of what is left is for the classes that
    are solved at a time, and the rest for blocks of descriptors.
    """

    n: int
    dim: int
    classes: int
    masked: bool = False
    """Whether images may be difficult for some classes, so that each image and class has a cost."""
    scores: int = 0
    """Validation images times values of C: the scores that choose C."""
    most: int | None = None

    @property
    def descriptors(self) -> int:
        """Bytes of the descriptors in float32."""
        return 4 * self.n * self.dim

    @property
    def spools(self) -> bool:
        """Whether the descriptors, and their float32 and float64 copies in the fit, exceed the budget."""
        return self.most is not None and self.kept + 4 * self.descriptors > self.most

    @property
    def kept(self) -> int:
        """Bytes of the arrays that are kept whole: targets, costs, and scores in float64 with one copy."""
        return self.classes * ((23 if self.masked else 3) * self.n + 16 * self.scores)

    def limits(self) -> Limits:
        """Where the engines change their method. Raises UsageError for a budget that not even one class fits in."""
        usual = Limits()
        if self.most is None:
            return usual
        left = self.most - self.kept
        least = 2 * available_cores() * 8 * (10 * self.n + (self.dim + 1) ** 2)  # as PrimalEngine counts a class
        if left < least:
            raise UsageError(
                f"`max_memory={self.most / GIB:.3g}`: {number_of(self.n, 'image')} of {number_of(self.dim, 'value')} "
                f"and {number_of(self.classes, 'class')} need at least {(self.kept + least) / GIB:.2g} GiB"
            )
        # The Gram matrix and its training rows' part take 8 n^2 bytes.
        rows = min(usual.gram_rows, int((left / 2 / 8) ** 0.5))
        few = usual.many_features if self.n <= rows else self.dim
        return replace(usual, gram_rows=rows, many_features=few, held_bytes=min(usual.held_bytes, left // 2))


def spooled(blocks: Iterable[tuple[slice, NDArray[np.float32]]], n: int, dim: int, folder: Path) -> NDArray[np.float32]:
    """(n, dim) descriptors in a temporary file, which vanishes with the array or the process.

    The file lies in `folder`, beside the descriptors, or where that is read-only in the system's temporary folder.
    Raises OSError where it does not fit on the disk.
    """
    try:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - the array keeps it open
    except OSError:
        file = tempfile.TemporaryFile()  # noqa: SIM115
    with file:
        for _, block in blocks:
            file.write(np.ascontiguousarray(block, dtype=np.float32).data)
        file.flush()
        return np.memmap(file, dtype=np.float32, mode="r", shape=(n, dim))
