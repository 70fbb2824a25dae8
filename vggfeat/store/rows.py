"""Writing rows in place."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike

from vggfeat.errors import StoreError
from vggfeat.store.schema import opened

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NAMES = ("descriptors", "scales", "errors", "status")


class RowFile:
    """A descriptor file that is laid out (see `Layout`), open for writing rows, past HDF5.

    Each of its data sets is one run of bytes whose place never changes, so that a row is a plain write and a full disk
    a plain OSError. Through h5py it was neither: on a full disk 77 of 120 rows were lost without a word, and marked as
    done. Other programs are kept off by the lock that HDF5 knows.

    Raises StoreError where another program has the file open for writing, or its data sets are laid out otherwise.
    """

    def __init__(self, path: Path) -> None:
        with opened(path, "r") as file:
            self._runs = {name: _run(path, file[name]) for name in _NAMES if name in file}
        self._stream = path.open("r+b", buffering=0)
        try:
            if fcntl is not None:
                fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._stream.close()
            raise StoreError(f"{path} is open in another program: wait for it, or name another -o") from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):  # a file system without locks
                raise

    def __contains__(self, name: str) -> bool:
        return name in self._runs

    def write(self, name: str, start: int, values: ArrayLike) -> None:
        """Writes rows from `start` on of a data set. Raises OSError where not all of them could be written."""
        run = self._runs[name]
        data = memoryview(np.ascontiguousarray(values, dtype=run.dtype).tobytes())
        self._stream.seek(run.offset + start * run.row_bytes)
        while len(data):
            data = data[self._stream.write(data) :]

    def sync(self) -> None:
        """Waits until all of it is on the disk: a network share may say only now that there is no room."""
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Closes the file and gives the lock back."""
        self._stream.close()

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class _Run:
    """Where a data set's rows lie."""

    offset: int
    row_bytes: int
    dtype: np.dtype[Any]


def _run(path: Path, data: h5py.Dataset) -> _Run:
    offset = data.id.get_offset()  # None for chunks, compressed data, and where there are no rows
    if offset is None and len(data):
        raise StoreError(f"{path}: {data.name!r} does not lie in one run of bytes, so no row can be written in place")
    return _Run(offset or 0, data.dtype.itemsize * int(np.prod(data.shape[1:])), data.dtype)
