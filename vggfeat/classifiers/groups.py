"""Groups of classes that run on the cores in parallel, and the progress that they report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vggfeat.classifiers.blas import blas_threads

R = TypeVar("R")
Group = NDArray[np.intp]

Count = Callable[[int], None]
"""Called with the number of classes that have just been solved at one C."""


def silent(_count: int) -> None:
    """The progress that nobody hears."""


def run_groups(
    run: Callable[[Group, Count], R], groups: Sequence[Group], cores: int, progress: Count = silent
) -> list[R]:
    """run(group, count) of each group, in their order; the threads share the cores with BLAS.

    What a group passes to its `count` reaches `progress` in the calling thread, so that no bar needs a lock. After an
    error or Ctrl-C the other groups stop at their next count.
    """
    workers = min(cores, len(groups))
    heard: SimpleQueue[int | Future[R]] = SimpleQueue()
    stopped = Event()

    def count(number: int) -> None:
        if stopped.is_set():
            raise CancelledError
        heard.put(number)

    with blas_threads(max(1, cores // workers)), ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(run, group, count) for group in groups]
        try:
            _hear(heard, futures, progress)
        finally:
            stopped.set()
            for future in futures:
                future.cancel()
    return [future.result() for future in futures]


def _hear(heard: SimpleQueue[int | Future[R]], futures: Sequence[Future[R]], progress: Count) -> None:
    """Passes counts on until all groups have ended. Raises the first error of a group."""
    for future in futures:
        future.add_done_callback(heard.put)
    running = len(futures)
    while running:
        told = heard.get()
        if isinstance(told, Future):
            told.result()
            running -= 1
        else:
            progress(told)
