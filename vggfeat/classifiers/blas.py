"""How many threads BLAS takes, while several of ours call it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from threadpoolctl import threadpool_limits

_lock, _inside = threading.Lock(), 0
_before: threadpool_limits | None = None
"""What restores the numbers of threads from before the first of the blocks that overlap."""


@contextlib.contextmanager
def blas_threads(number: int) -> Iterator[None]:
    """Limits each call of BLAS to `number` threads until the block ends.

    The number is the whole process's, and blocks of several threads of a program, such as joblib's, overlap. Each
    restores what it found, which may be another's limit, so the last of them to end restores what the first one found.
    """
    global _before, _inside
    with _lock:
        if not _inside:
            _before = threadpool_limits(None, "blas")
        _inside += 1
    try:
        with threadpool_limits(number, "blas"):
            yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _before is not None:
                with _before:  # its end restores
                    _before = None
