"""Background threads that decode pictures, and their results."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Thread, current_thread
from typing import Any, TypeVar

from vggfeat.errors import ImageError, ReadError

T = TypeVar("T")

THREAD_PREFIX = "decode"
"""Prefix of the threads' names."""

READ_TIMEOUT = 1800.0
"""Seconds after which the reading of a picture is abandoned, because its disk does not answer."""

SHUTDOWN_GRACE = 5.0
"""Seconds to wait for each thread at shutdown."""


class Decoders(ThreadPoolExecutor):
    """A thread pool whose shutdown does not wait for hung threads."""

    def __init__(self, workers: int) -> None:
        self._started: list[Thread] = []
        super().__init__(
            max(1, workers),
            thread_name_prefix=THREAD_PREFIX,
            initializer=lambda: self._started.append(current_thread()),
        )

    def end(self) -> None:
        """Cancels waiting tasks and waits for running ones, at most SHUTDOWN_GRACE per thread."""
        self.shutdown(wait=False, cancel_futures=True)
        for thread in self._started:
            thread.join(SHUTDOWN_GRACE)

    def __exit__(self, *_: Any) -> None:
        self.end()


@dataclass(frozen=True)
class Decoded:
    """Which samples gave a picture, and why the others failed."""

    number: int
    """Number of samples, failed ones included."""
    rows: list[int]
    """Positions of the decoded pictures among the samples."""
    failures: dict[int, str]
    """Reasons by row."""
    unread: frozenset[int]
    """The failures that are not the image's fault: its bytes could not be read (ReadError)."""


def collected(started: Sequence[Future[T]]) -> tuple[Decoded, list[T]]:
    """Waits for started decoding -> which rows succeeded, and their pictures in order."""
    failures: dict[int, str] = {}
    unread: set[int] = set()
    pictures: dict[int, T] = {}
    for row, future in enumerate(started):
        try:
            pictures[row] = future.result()
        except ImageError as error:
            failures[row] = str(error) or "cannot be used"  # no text is no reason, and would count as none
            if isinstance(error, ReadError):
                unread.add(row)
    return Decoded(len(started), list(pictures), failures, frozenset(unread)), list(pictures.values())
