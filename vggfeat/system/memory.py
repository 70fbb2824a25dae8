"""glibc's heap in a long run: freed activations are reused, and large surpluses go back to the system.

By default glibc maps every large block anew, and each of its pages costs a fault and a clearing. Measured on one
256x341 picture through net D's convolutions on 2 cores: 141 ms with every block of 1 MiB and more mapped (24,000
faults), 74 ms without mapping (26 faults) in bf16; 204 and 131 ms in fp32. Updates of net D's fully-connected layers,
480 MB of gradients each: 158 and 447 images/s in bf16. Without glibc these functions do nothing.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from pathlib import Path

# malloc.h's names.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1

_MOST_MAPPED, _LARGE = 65536, 32 << 20
"""glibc's number of mapped blocks, and the size of a block to map that its own threshold reaches in time."""


class _Mallinfo2(ctypes.Structure):
    """malloc.h's struct: `uordblks` bytes of the heap and `hblkhd` mapped beside it are in use; `fordblks` are free,
    those that the system has back included."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
        if not all(hasattr(library, name) for name in ("malloc_trim", "mallopt", "mallinfo2")):  # before glibc 2.33
            return None
        library.mallinfo2.restype = _Mallinfo2
        return library
    except (OSError, TypeError):  # Windows has no such handle
        return None


_LIBRARY = _glibc()


_keepers, _has_kept, _lock = 0, False, threading.Lock()


def keeps_freed_memory() -> bool:
    """Whether this process's heap has been told to: even afterwards glibc's thresholds do not follow the program."""
    return _has_kept


def keep_freed_memory() -> None:
    """Makes every block come from the heap, which keeps freed memory until `release_free_memory`.

    For each call one of `keep_no_longer` ends it.
    """
    global _keepers, _has_kept
    if _LIBRARY is not None:
        with _lock:
            _keepers, _has_kept = _keepers + 1, True
            _LIBRARY.mallopt(_M_MMAP_MAX, 0)
            _LIBRARY.mallopt(_M_TRIM_THRESHOLD, _NEVER)


def keep_no_longer() -> None:
    """Gives freed memory back to the system again, as glibc does by itself: a program's own large arrays too."""
    global _keepers
    if _LIBRARY is not None:
        with _lock:
            _keepers -= 1
            if _keepers == 0:
                _LIBRARY.mallopt(_M_MMAP_MAX, _MOST_MAPPED)
                _LIBRARY.mallopt(_M_MMAP_THRESHOLD, _LARGE)
                _LIBRARY.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE)
    release_free_memory()


def release_free_memory(beyond: int = 0) -> None:
    """Returns freed memory to the system, holes in the heap included, if it still holds more than `beyond` bytes."""
    if _LIBRARY is not None and _resident_beyond_use(_LIBRARY) > beyond:
        _LIBRARY.malloc_trim(0)


def _resident_beyond_use(library: ctypes.CDLL) -> int:
    """Bytes of freed memory that the process still holds, and some of Python's own.

    glibc also counts as free what it has returned to the system already. To go by that would return memory
    after every picture once the count is large: a third of the time of short passes went into mapping it anew.
    """
    used = library.mallinfo2()
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
    except OSError:
        return int(used.fordblks)
    resident = (int(pages[1]) - int(pages[2])) * mmap.PAGESIZE  # without what files back
    return resident - int(used.uordblks) - int(used.hblkhd)
