"""One writer for one output at a time, across processes and machines that share a file system."""

from __future__ import annotations

import errno
import glob
import os
import socket
from pathlib import Path

from vggfeat.errors import StoreError

try:
    import fcntl
except ImportError:  # Windows: HDF5's own lock on the file is then the only one
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""A file system without locks (some cluster file systems): there, too, HDF5's own check remains."""


class OutputLock:
    """The right to write an output, from creation to `release`; a process's death ends it, however it dies.

    The lock is the system's own, on a small file `.<name>.lock` beside the output that names its holder; what a dead
    process left there holds nobody up. Unlike HDF5's lock it also covers the time before the output exists. Whoever
    holds it removes the temporary files of holders that were killed.

    Raises StoreError where another process has it, naming that process, and where the folder cannot be written.
    """

    def __init__(self, target: Path) -> None:
        self._path = target.with_name(f".{target.name}.lock")
        self._handle = -1
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._handle = self._locked(target)
            os.ftruncate(self._handle, 0)
            os.write(self._handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
            # tempfile's random part has 8 characters: files.replacing makes such names.
            for left in target.parent.glob(f".{glob.escape(target.name)}.????????.part"):
                left.unlink(missing_ok=True)
        except OSError as error:
            self.release()  # a disk without room for the holder's name keeps no empty lock either
            raise StoreError(f"{target}: cannot write here: {error.strerror}") from error

    def _locked(self, target: Path) -> int:
        while True:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            if fcntl is None:
                return handle
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(handle, 200).decode(errors="replace") or "another process"
                os.close(handle)
                raise StoreError(f"{target} is being written by {holder}: wait for it, or name another -o") from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    os.close(handle)
                    raise
            if self._current(handle):
                return handle
            os.close(handle)  # its former holder has just removed it

    def _current(self, handle: int) -> bool:
        """Whether the file that we have locked is still the one of that name."""
        try:
            return os.path.samestat(os.fstat(handle), self._path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Lets the next process write; twice does no harm."""
        if self._handle >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> OutputLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
