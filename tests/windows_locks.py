"""Locks as on Windows: a stand-in for msvcrt, built on flock, and files that nobody removes while they are open."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from vggfeat.system import locking

LK_NBLCK, LK_UNLCK = 2, 0
_held: dict[tuple[int, int], int] = {}


def _lock(handle: int, mode: int, count: int) -> None:
    """msvcrt.locking: one byte, at the handle's place, of this handle alone; it ends with the process."""
    import fcntl

    assert count == 1
    place = os.lseek(handle, 0, os.SEEK_CUR)
    assert place < 2**31, "msvcrt takes its place from a C long"
    if mode == LK_UNLCK:
        if (handle, place) not in _held:
            raise PermissionError(errno.EACCES, "Permission denied")
        os.close(_held.pop((handle, place)))
        return
    # By name: `_unlinked` may remove a file that another process opens at the same instant, as Windows never does.
    name = Path(f"/proc/self/fd/{handle}").readlink().name.removesuffix(" (deleted)")
    byte = os.open(Path(os.environ["WINDOWS_LOCKS"], f"{name}.{place}"), os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(byte, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(byte)
        raise PermissionError(errno.EACCES, "Permission denied") from None
    _held[handle, place] = byte


class Msvcrt:
    """What vggfeat uses of the module."""

    LK_NBLCK, LK_UNLCK = LK_NBLCK, LK_UNLCK
    locking = staticmethod(_lock)


def _open_somewhere(path: Path) -> bool:
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if path in (one.readlink() for one in folder.iterdir()):
                return True
        except OSError:  # it has just ended, or is another user's
            continue
    return False


_unlink = Path.unlink


def _unlinked(self: Path, missing_ok: bool = False) -> None:
    if _open_somewhere(self):
        raise PermissionError(errno.EACCES, "Permission denied", os.fspath(self))
    _unlink(self, missing_ok=missing_ok)


STAND_INS = ((locking, "fcntl", None), (locking, "msvcrt", Msvcrt), (Path, "unlink", _unlinked))


def install() -> None:
    """For a child process, whose WINDOWS_LOCKS is a folder that all its fellows share."""
    for owner, name, stand_in in STAND_INS:
        setattr(owner, name, stand_in)
