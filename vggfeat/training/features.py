"""The outputs of frozen layers for fixed crops, computed once and kept on disk.

One file holds a JSON header, a record for each crop, and the outputs as float16. A record says whether its crop is
done; outputs reach the disk before their records, so that a killed run loses a few seconds of work at most.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggfeat.errors import TrainingError
from vggfeat.system.files import replacing

HEADER_BYTES = 4096
"""Space for the header; the records follow."""

PENDING, DONE, FAILED = 0, 1, 2

COMMIT_SECONDS = 2.0
"""Longest time that finished outputs wait for their records, and so the most work that a kill loses."""

LARGEST = 2.0**15
"""Outputs above this are stored divided by a power of two, as float16 ends at 65504."""


@dataclass(frozen=True)
class Layout:
    """The contents of a file, which decide the place of everything in it.

    fingerprint: a hash of everything that changes a value.
    rows: number of crops.
    shape: of one crop's output.
    boxes: most objects of an image, for localisation; else 0.
    """

    fingerprint: str
    rows: int
    shape: tuple[int, ...]
    boxes: int

    @property
    def record(self) -> np.dtype[Any]:
        """What is known of a crop: its status, the divisor of its outputs, its weight, its boxes."""
        return np.dtype([("status", "u1"), ("divisor", "<f4"), ("weight", "<f4"), ("boxes", "<f4", (self.boxes, 4))])

    @property
    def start(self) -> int:
        """Where the outputs begin."""
        return -(-(HEADER_BYTES + self.rows * self.record.itemsize) // HEADER_BYTES) * HEADER_BYTES

    @property
    def row_bytes(self) -> int:
        """Of one crop's output."""
        return 2 * int(np.prod(self.shape))

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.start + self.rows * self.row_bytes

    def header(self) -> bytes:
        """The file's first bytes."""
        described = {"format": "vggfeat-features", "format_version": 1, "fingerprint": self.fingerprint}
        described |= {"rows": self.rows, "shape": list(self.shape), "boxes": self.boxes}
        return json.dumps(described).encode().ljust(HEADER_BYTES)


def gigabytes(number: int) -> str:
    """`1.2 GB`, or `120 MB`."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def _write_at(handle: int, data: bytes, offset: int) -> int:
    """Writes at a place of a file; the number of bytes written. A handle has one writing thread."""
    if hasattr(os, "pwrite"):
        return os.pwrite(handle, data, offset)
    os.lseek(handle, offset, os.SEEK_SET)  # Windows
    return os.write(handle, data)


class FeatureFile:
    """A file of outputs, made by the first process and filled by all of them."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout
        self._handle = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))  # Windows would change line ends
        self.records: NDArray[Any] = np.memmap(path, layout.record, "r", HEADER_BYTES, (layout.rows,))
        self.values: NDArray[Any] = np.memmap(path, "<f2", "r", layout.start, (layout.rows, *layout.shape))
        self._uncommitted: list[tuple[int, bytes]] = []
        self._committed = time.monotonic()

    @staticmethod
    def matches(path: Path, layout: Layout) -> bool:
        """Whether a file holds this layout, whole."""
        if not path.is_file() or path.stat().st_size != layout.size:
            return False
        with path.open("rb") as stream:
            return stream.read(HEADER_BYTES) == layout.header()

    @classmethod
    def make(cls, path: Path, layout: Layout) -> None:
        """Makes an empty file of the full length, which takes its space as it is filled, or on Windows at once.

        Raises TrainingError where the disk has too little space, or another program has the former file open.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise TrainingError(
                f"{path}: cannot replace it ({error.strerror}); is it open in another program?"
            ) from error
        free = shutil.disk_usage(path.parent).free
        if layout.size > free:
            raise TrainingError(
                f"{path}: the frozen layers' outputs take {gigabytes(layout.size)}, and the disk has "
                f"{gigabytes(free)} left: take fewer `augment.crops`, or `cache=False`, which computes them anew "
                "at every update"
            )
        with replacing(path) as temporary, temporary.open("r+b") as stream:
            stream.write(layout.header())
            stream.truncate(layout.size)

    def write(self, row: int, output: NDArray[np.float32], weight: float, boxes: NDArray[np.float32] | None) -> None:
        """Stores one crop's output; `commit` makes it count.

        Raises TrainingError for an output that is not finite or cannot be written.
        """
        largest = float(np.abs(output).max(initial=0.0))
        if not np.isfinite(largest):
            raise TrainingError("the frozen layers' outputs are NaN or infinite: take other weights")
        divisor = 1.0 if largest <= LARGEST else 2.0 ** np.ceil(np.log2(largest / LARGEST))
        values = (output / np.float32(divisor)).astype("<f2")
        self._put(values.tobytes(), self.layout.start + row * self.layout.row_bytes)
        self._record(row, DONE, divisor, weight, boxes)
        if time.monotonic() - self._committed > COMMIT_SECONDS:
            self.commit()

    def fail(self, row: int) -> None:
        """Marks a crop of an unreadable image; the next run tries it again."""
        self._record(row, FAILED, 1.0, 0.0, None)

    def commit(self) -> None:
        """Makes the crops written so far count, whatever happens to the process or the machine."""
        os.fsync(self._handle)
        for row, record in self._uncommitted:
            self._put(record, HEADER_BYTES + row * self.layout.record.itemsize)
        self._uncommitted, self._committed = [], time.monotonic()

    def close(self) -> None:
        """Closes the file, its maps too: Windows replaces no file that is mapped."""
        os.close(self._handle)
        self.records, self.values = (np.empty(0, one.dtype) for one in (self.records, self.values))

    def _record(self, row: int, status: int, divisor: float, weight: float, boxes: NDArray[np.float32] | None) -> None:
        record = np.zeros((), self.layout.record)
        record["status"], record["divisor"], record["weight"], record["boxes"] = status, divisor, weight, np.nan
        if boxes is not None:
            record["boxes"][: len(boxes)] = boxes
        self._uncommitted.append((row, record.tobytes()))

    def _put(self, data: bytes, offset: int) -> None:
        try:
            while data:
                written = _write_at(self._handle, data, offset)
                data, offset = data[written:], offset + written
        except OSError as error:
            raise TrainingError(f"{self.path}: cannot write: {error.strerror}") from error

    def read(self, rows: Sequence[int]) -> tuple[Tensor, NDArray[Any]]:
        """(outputs (N, ...) float32, records (N,)) of some crops; outputs of failed ones are zero."""
        records = self.records[list(rows)]
        outputs = torch.from_numpy(self.values[list(rows)].astype(np.float32))
        divisors = torch.from_numpy(records["divisor"].copy())
        return outputs * divisors.view(-1, *[1] * len(self.layout.shape)), records
