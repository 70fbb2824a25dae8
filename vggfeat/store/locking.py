"""One writer at a time for an output, across processes and machines that share a file system."""

from __future__ import annotations

import contextlib
import glob
import os
import socket
from pathlib import Path

from vggfeat.errors import StoreError
from vggfeat.system.files import discard, followed
from vggfeat.system.locking import can_lock, give_back, moves_open_files, remove, take, taken


def lock_path(target: Path) -> Path:
    """`feats.h5` -> `.feats.h5.lock`, beside what a link points to."""
    target = followed(target)
    return target.with_name(f".{target.name}.lock")


def holder(target: Path) -> str | None:
    """The process that is writing an output, such as "process 17 on node3"; None if none is, or nothing tells."""
    try:
        handle = os.open(lock_path(target), os.O_RDONLY)
    except OSError:
        return None
    try:
        return _name(handle) if taken(handle) else None
    except OSError:
        return None
    finally:
        os.close(handle)


def _name(handle: int) -> str:
    """The holder of a lock file that another process has."""
    return os.read(handle, 200).decode(errors="replace") or "another process"


class OutputLock:
    """An exclusive lock on an output, from creation to `release`; it ends with the process, even a killed one.

    The lock is on a small file `.<name>.lock` beside the output, which names its holder; a file left by a dead process
    blocks nobody. Unlike HDF5's lock it also covers the time before the output exists, and it works on Windows, where
    HDF5 locks nothing. The holder removes temporary files of holders that were killed, and at its end the folders that
    it made, where they stayed empty.

    Raises StoreError if another process has it, naming that process, or if the folder cannot be written.
    """

    def __init__(self, target: Path) -> None:
        self._path = lock_path(target)
        self._handle = -1
        target = followed(target)
        self._made = [folder for folder in target.parents if not folder.exists()]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._handle = self._locked(target)
            os.ftruncate(self._handle, 0)
            os.write(self._handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
            # tempfile's random part has 8 characters: files.replacing makes such names. Without locks, another process
            # may be writing them.
            for left in target.parent.glob(f".{glob.escape(target.name)}.????????.part") if can_lock() else ():
                discard(left)
        except OSError as error:
            self.release()  # a full disk must not keep an empty lock file
            if self._path.exists():  # another user's, say
                raise StoreError(
                    f"{self._path}: {error.strerror}: remove this lock file if nothing writes {target.name}"
                ) from error
            raise StoreError(f"{target}: cannot write here: {error.strerror}") from error

    def _locked(self, target: Path) -> int:
        while True:
            try:
                handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:
                if target.parent.is_dir():
                    raise
                target.parent.mkdir(parents=True, exist_ok=True)  # a holder that failed has removed what it made
                continue
            try:
                mine = take(handle)
                name = "" if mine else _name(handle)
            except BaseException:
                os.close(handle)
                raise
            if mine and self._current(handle):
                return handle
            os.close(handle)
            if not mine:
                raise StoreError(f"{target} is being written by {name}: wait for it, or name another `output`")
            # Else the former holder has just removed it.

    def _current(self, handle: int) -> bool:
        """Whether the locked file still has that name, which an open file keeps on Windows."""
        if not moves_open_files():
            return True
        try:
            return os.path.samestat(os.fstat(handle), self._path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Lets the next process write. Calling it twice is harmless."""
        if self._handle >= 0:
            self._unlock()
        for folder in self._made:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()

    def _unlock(self) -> None:
        if moves_open_files():  # removed while locked, so that no other process locks a file that is about to go
            remove(self._path)
        give_back(self._handle)
        os.close(self._handle)
        self._handle = -1
        if not moves_open_files():
            remove(self._path)

    def __enter__(self) -> OutputLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
