"""One writer at a time for an output, across processes and machines that share a file system."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import socket
import time
from pathlib import Path

from vggfeat.errors import StoreError
from vggfeat.system.locking import CAN_LOCK, fcntl

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""Errors of file systems without locks (some clusters): only HDF5's own check remains there."""


PAUSE = 0.01
"""Seconds between two attempts at a lock that only `holder` has, for an instant."""


def lock_path(target: Path) -> Path:
    """`feats.h5` -> `.feats.h5.lock`."""
    return target.with_name(f".{target.name}.lock")


def holder(target: Path) -> str | None:
    """The process that is writing an output, such as "process 17 on node3"; None if none is, or nothing tells."""
    try:
        handle = os.open(lock_path(target), os.O_RDONLY)
    except OSError:
        return None
    try:
        return _writer(handle)
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(handle)


def _writer(handle: int) -> str | None:
    """The process that has a lock file for itself, so that it cannot be shared; None if others only look at it."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(handle, 200).decode(errors="replace") or "another process"
    return None


class OutputLock:
    """An exclusive lock on an output, from creation to `release`; it ends with the process, even a killed one.

    An flock on a small file `.<name>.lock` beside the output, which names its holder; a file left by a dead process
    blocks nobody. Unlike HDF5's lock it also covers the time before the output exists. The holder removes temporary
    files of holders that were killed.

    Raises StoreError if another process has it, naming that process, or if the folder cannot be written.
    """

    def __init__(self, target: Path) -> None:
        self._path = lock_path(target)
        self._handle = -1
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._handle = self._locked(target)
            os.ftruncate(self._handle, 0)
            os.write(self._handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
            # tempfile's random part has 8 characters: files.replacing makes such names. Without locks, another process
            # may be writing them.
            for left in target.parent.glob(f".{glob.escape(target.name)}.????????.part") if CAN_LOCK else ():
                left.unlink(missing_ok=True)
        except OSError as error:
            self.release()  # a full disk must not keep an empty lock file
            raise StoreError(f"{target}: cannot write here: {error.strerror}") from error

    def _locked(self, target: Path) -> int:
        while True:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            if fcntl is None:
                return handle
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                try:
                    name = _writer(handle)
                finally:
                    os.close(handle)
                if name is None:
                    time.sleep(PAUSE)
                    continue
                raise StoreError(
                    f"{target} is being written by {name}: wait for it, or name another `output`"
                ) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    os.close(handle)
                    raise
            if self._current(handle):
                return handle
            os.close(handle)  # the former holder has just removed it

    def _current(self, handle: int) -> bool:
        """Whether the locked file still has that name."""
        try:
            return os.path.samestat(os.fstat(handle), self._path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Lets the next process write. Calling it twice is harmless."""
        if self._handle < 0:
            return
        if CAN_LOCK:  # removed while locked, so that no other process locks a file that is about to go
            self._path.unlink(missing_ok=True)
        os.close(self._handle)
        self._handle = -1
        if not CAN_LOCK:  # Windows removes no open file, nor one that another process has open
            with contextlib.suppress(PermissionError):
                self._path.unlink(missing_ok=True)

    def __enter__(self) -> OutputLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
