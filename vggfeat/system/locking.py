"""Files that one process at a time works on: by flock, or on Windows by locked bytes."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl as fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt as _msvcrt
except ImportError:  # everywhere else
    _msvcrt = None  # type: ignore[assignment]
msvcrt: Any = _msvcrt

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""Errors of file systems without locks (some clusters)."""

PAUSE = 0.01
"""Seconds between two attempts at a lock that another process has for an instant."""

WRITER, GATE = 2**30, 2**30 + 1
"""The bytes that stand for a file's locks on Windows: no other process can read a locked byte, so they are far beyond a
lock file's content. msvcrt knows no shared locks, so whoever tries WRITER, to lock it or to look, first locks GATE: a
WRITER that is locked then belongs to a writer."""


def can_lock() -> bool:
    """Whether this system locks files."""
    return fcntl is not None or msvcrt is not None


def moves_open_files() -> bool:
    """Whether this system renames and removes open files, so that a lock lasts until its file is gone."""
    return fcntl is not None


def take(handle: int) -> bool:
    """Locks an open file for this process alone, until `give_back`; False where another process has it.

    Waits for a process that only looks (`taken`). True as well where the system or the file system has no locks.
    """
    with _if_any():
        if msvcrt is not None:
            with _gate(handle):
                return _locked_byte(handle, WRITER)
        while fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if taken(handle):
                    return False
            fcntl.flock(handle, fcntl.LOCK_UN)
            time.sleep(PAUSE)
    return True


def taken(handle: int) -> bool:
    """Whether another process has an open file for itself. Close the file soon: a writer waits for that."""
    with _if_any():
        if msvcrt is not None:
            with _gate(handle):
                free = _locked_byte(handle, WRITER)
                if free:
                    _unlock_byte(handle, WRITER)
                return not free
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def give_back(handle: int) -> None:
    """Ends a lock that `take` made, before the file is closed: Windows may take its time over those of closed files."""
    if msvcrt is not None:
        with contextlib.suppress(OSError):  # not locked
            _unlock_byte(handle, WRITER)


@contextlib.contextmanager
def _if_any() -> Iterator[None]:
    """Leaves the block where the file system has no locks."""
    try:
        yield
    except OSError as error:
        if error.errno not in (NO_LOCKS if msvcrt is None else (*NO_LOCKS, errno.EINVAL)):
            raise


@contextlib.contextmanager
def _gate(handle: int) -> Iterator[None]:
    """Windows: while this process may try WRITER."""
    while not _locked_byte(handle, GATE):
        time.sleep(PAUSE)
    try:
        yield
    finally:
        _unlock_byte(handle, GATE)


def _locked_byte(handle: int, place: int) -> bool:
    """Windows: locks a byte; False where another process has it."""
    try:
        _at(handle, place, msvcrt.LK_NBLCK)
    except PermissionError:
        return False
    return True


def _unlock_byte(handle: int, place: int) -> None:
    _at(handle, place, msvcrt.LK_UNLCK)


def _at(handle: int, place: int, mode: int) -> None:
    """Windows locks where the file is read and written; it goes on where it was."""
    here = os.lseek(handle, 0, os.SEEK_CUR)
    os.lseek(handle, place, os.SEEK_SET)
    try:
        msvcrt.locking(handle, mode, 1)
    finally:
        os.lseek(handle, here, os.SEEK_SET)


@contextlib.contextmanager
def locked(name: Path, settled: Callable[[], bool]) -> Iterator[BinaryIO | None]:
    """The file of that name, created if missing, opened and locked against other processes.

    Waits for the process that holds the lock. If `settled()` then says that the work is done, yields None and removes
    the file.
    """
    while True:
        with name.open("ab+") as stream:
            if fcntl:
                with _if_any():
                    fcntl.flock(stream, fcntl.LOCK_EX)
                # The former holder of the lock may have renamed or removed the file meanwhile.
                if not name.exists() or not os.path.samestat(name.stat(), os.fstat(stream.fileno())):
                    continue
            else:
                while not take(stream.fileno()):
                    time.sleep(PAUSE)
            if not settled():
                yield stream
                return
            release(stream)
            remove(name)
        yield None
        return


def release(stream: BinaryIO) -> None:
    """Closes the file on Windows, which renames and removes no open file; elsewhere it stays open to keep the lock."""
    if not moves_open_files():
        give_back(stream.fileno())
        stream.close()


def remove(lock: Path) -> None:
    """Removes a lock file; on Windows a process that has it open, as it waits or looks, leaves it to the next one."""
    try:
        lock.unlink(missing_ok=True)
    except PermissionError:
        if moves_open_files():
            raise
