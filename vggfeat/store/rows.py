"""Writing rows of a descriptor file in place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike

from vggfeat.errors import StoreError
from vggfeat.store.schema import opened
from vggfeat.system.locking import NO_LOCKS, fcntl, moves_open_files

_NAMES = ("descriptors", "scales", "errors", "status")


class RowFile:
    """A laid-out descriptor file (see `Layout`) open for writing rows, bypassing HDF5.

    Each data set is one run of bytes at a fixed place, so a row is a plain write and a full disk a plain OSError. h5py
    gave neither: on a full disk it silently lost 77 of 120 rows and marked them as done. HDF5's lock keeps other
    programs away, except on Windows, where HDF5 locks nothing: `OutputLock` is the only lock there.

    Raises StoreError if another program has the file open for writing, or a data set is not one run of bytes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with opened(path, "r") as file:
            self._extents = {name: _extent(path, file[name]) for name in _NAMES if name in file}
        self._stream = path.open("r+b", buffering=0)
        try:
            if fcntl is not None:
                fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._stream.close()
            raise StoreError(f"{path} is open in another program: wait for it, or name another `output`") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                self._stream.close()
                raise

    def __contains__(self, name: str) -> bool:
        return name in self._extents

    def write(self, name: str, start: int, values: ArrayLike) -> None:
        """Writes rows of a data set, beginning at `start`. Raises OSError unless all of them were written."""
        extent = self._extents[name]
        data = memoryview(np.ascontiguousarray(values, dtype=extent.dtype).tobytes())
        self._stream.seek(extent.offset + start * extent.row_bytes)
        while len(data):
            data = data[self._stream.write(data) :]

    def sync(self) -> None:
        """Waits until everything is on the disk; a network share may report a full disk only now.

        Raises StoreError for a file that was removed or replaced meanwhile: what is written into it would be lost.
        """
        os.fsync(self._stream.fileno())
        if moves_open_files() and not self._has_its_name():
            raise StoreError(f"{self._path} was removed or replaced while it was being written: begin it anew")

    def _has_its_name(self) -> bool:
        """Whether the path still leads to the open file. Some network shares number a file anew at each look."""
        try:
            open_, there = os.fstat(self._stream.fileno()), self._path.stat()
        except FileNotFoundError:
            return False
        alike = (open_.st_size, open_.st_mtime_ns) == (there.st_size, there.st_mtime_ns)
        return os.path.samestat(open_, there) or alike

    def close(self) -> None:
        """Closes the file and releases the lock."""
        self._stream.close()

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class _Extent:
    """The place of a data set's rows in the file."""

    offset: int
    row_bytes: int
    dtype: np.dtype[Any]


def _extent(path: Path, data: h5py.Dataset) -> _Extent:
    offset = data.id.get_offset()  # None for chunked, compressed or empty data
    if offset is None and len(data):
        raise StoreError(f"{path}: {data.name!r} is not stored in one run of bytes, so rows cannot be written in place")
    return _Extent(offset or 0, data.dtype.itemsize * int(np.prod(data.shape[1:])), data.dtype)
