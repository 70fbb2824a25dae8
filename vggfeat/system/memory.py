"""glibc's heap in a long run: freed activations are reused, and large surpluses go back to the system.

By default glibc maps every large block anew, and each of its pages costs a fault and a clearing. Measured on one
256x341 picture through net D's convolutions on 2 cores: 141 ms with every block of 1 MiB and more mapped (24,000
faults), 74 ms without mapping (26 faults) in bf16; 204 and 131 ms in fp32. Updates of net D's fully-connected layers,
480 MB of gradients each: 158 and 447 images/s in bf16. Without glibc these functions do nothing.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

# malloc.h's names.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1


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


_keeping = False


def keeps_freed_memory() -> bool:
    """Whether this process's heap has been told to; the way back to glibc's own rules is closed."""
    return _keeping


def keep_freed_memory() -> None:
    """Makes every block come from the heap, which keeps freed memory until `release_free_memory`."""
    global _keeping
    if _LIBRARY is not None:
        _keeping = True
        _LIBRARY.mallopt(_M_MMAP_MAX, 0)
        _LIBRARY.mallopt(_M_TRIM_THRESHOLD, _NEVER)


def release_free_memory(beyond: int = 0) -> None:
    """Returns freed memory to the system, holes in the heap included, if it still holds more than `beyond` bytes."""
    if _LIBRARY is not None and _resident_beyond_use(_LIBRARY) > beyond:
        _LIBRARY.malloc_trim(0)


def _resident_beyond_use(library: ctypes.CDLL) -> int:
    """Bytes of freed memory that the process still holds, and some of Python's own.

    glibc also counts as free what it has returned to the system already. To go by that would be to return memory after
    every picture, once it has been much: a third of the time of short passes went into mapping it anew.
    """
    used = library.mallinfo2()
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
    except OSError:
        return int(used.fordblks)
    resident = (int(pages[1]) - int(pages[2])) * mmap.PAGESIZE  # without what files back
    return resident - int(used.uordblks) - int(used.hblkhd)
