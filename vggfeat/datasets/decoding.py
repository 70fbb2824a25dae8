"""Threads that decode pictures in the background, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Thread, current_thread
from typing import Any, TypeVar

from vggfeat.errors import ImageError, ReadError

T = TypeVar("T")

THREAD_PREFIX = "decode"
"""What the threads' names begin with."""

READ_TIMEOUT = 1800.0
"""Seconds after which a picture that is still being read is waited for no longer: its disk does not answer."""

SHUTDOWN_GRACE = 5.0
"""Seconds that a thread has to end in once nobody needs it."""


class Decoders(ThreadPoolExecutor):
    """A pool of threads that is left without waiting for one that hangs."""

    def __init__(self, workers: int) -> None:
        self._started: list[Thread] = []
        super().__init__(
            max(1, workers),
            thread_name_prefix=THREAD_PREFIX,
            initializer=lambda: self._started.append(current_thread()),
        )

    def end(self) -> None:
        """Drops what has not begun, and waits for the rest, but for hanging threads not for ever."""
        self.shutdown(wait=False, cancel_futures=True)
        for thread in self._started:
            thread.join(SHUTDOWN_GRACE)

    def __exit__(self, *_: Any) -> None:
        self.end()


@dataclass(frozen=True)
class Decoded:
    """Which of some samples gave a picture, and why the others did not."""

    number: int
    """Samples, those that failed included."""
    rows: list[int]
    """Of the pictures among the samples."""
    failures: dict[int, str]
    """Reasons by row."""
    unread: frozenset[int]
    """Those of the failures that are no fault of the images: their bytes could not be had."""


def collected(started: Sequence[Future[T]]) -> tuple[Decoded, list[T]]:
    """Waits for decoding that was started: which rows came out, and their pictures in order."""
    failures: dict[int, str] = {}
    unread: set[int] = set()
    pictures: dict[int, T] = {}
    for row, future in enumerate(started):
        try:
            pictures[row] = future.result()
        except ImageError as error:
            failures[row] = str(error)
            if isinstance(error, ReadError):
                unread.add(row)
    return Decoded(len(started), list(pictures), failures, frozenset(unread)), list(pictures.values())
