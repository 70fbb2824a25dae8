"""How much of training is measured, and the median time of some work."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from vggfeat.stages.bench.yardsticks import synchronize

WARM, TIMED = 2, 5
"""Untimed updates first, then the timed ones, whose median counts."""

LOADED = 384
"""Crops that the loader makes."""


@dataclass(frozen=True)
class Effort:
    """How much is measured; tests take less."""

    warm: int = WARM
    timed: int = TIMED
    loaded: int = LOADED
    matrix_side: int | None = None
    """Of the matrix product that gives the machine's rate; None: by device."""
    processes: bool = True
    """Whether to measure two processes."""


FULL = Effort()


def median_seconds(work: Callable[[], object], device: torch.device, effort: Effort) -> float:
    """Seconds of the work, the device's part included: the median of the timed runs after the warm ones."""
    seconds = []
    for _ in range(effort.warm + effort.timed):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[effort.warm :])
