"""Files that one process at a time works on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl as fcntl
except ImportError:  # Windows, where HDF5's own lock on a descriptor file is the only one
    fcntl = None  # type: ignore[assignment]

CAN_LOCK = fcntl is not None
"""Whether this system locks files."""


@contextlib.contextmanager
def locked(name: Path, settled: Callable[[], bool]) -> Iterator[BinaryIO | None]:
    """The file of that name, created if missing, opened and locked against other processes.

    Waits for the process that holds the lock. If `settled()` then says that the work is done, yields None and removes
    the file. Without locks (Windows) the file is only opened.
    """
    while True:
        with name.open("ab+") as stream:
            if fcntl:
                fcntl.flock(stream, fcntl.LOCK_EX)
                # The former holder of the lock may have renamed or removed the file meanwhile.
                if not name.exists() or not os.path.samestat(name.stat(), os.fstat(stream.fileno())):
                    continue
            if not settled():
                yield stream
                return
            release(stream)
            name.unlink()
        yield None
        return


def release(stream: BinaryIO) -> None:
    """Closes the file on Windows, which renames and removes no open file; elsewhere it stays open to keep the lock."""
    if fcntl is None:
        stream.close()
