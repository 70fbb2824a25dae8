"""What this process was given to work with: its cores, and its place among those that torchrun started."""

from __future__ import annotations

import os
from dataclasses import dataclass

from vggfeat.errors import UsageError


def available_cores() -> int:
    """Cores that this process may use: on a shared machine a scheduler may have given it a part of them."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers(processes: int = 1) -> int:
    """Decoding threads for each of so many processes on this machine: its cores, shared."""
    return max(1, available_cores() // processes)


@dataclass(frozen=True)
class Launch:
    """This process among those that torchrun started, from what torchrun sets in the environment."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    """Processes on this machine."""

    def device(self, asked: str | None) -> str | None:
        """The device asked for, CUDA without a number becoming the one of this process's local rank.

        Raises UsageError where the machine has fewer CUDA devices than processes.
        """
        import torch

        from vggfeat.system.devices import resolve_device

        found = resolve_device(asked)
        if found.type != "cuda" or found.index is not None:
            return asked
        if self.local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"{self.local_world} processes on a machine with {torch.cuda.device_count()} CUDA devices: give "
                "torchrun as many processes as devices, or --device cpu"
            )
        return f"cuda:{self.local_rank}"

    def workers(self) -> int:
        """Decoding threads for each of this machine's processes."""
        return default_workers(self.local_world)


def launched() -> Launch | None:
    """What torchrun says of this process; None without torchrun, and where it started this process alone."""
    environment = os.environ
    world = int(environment.get("WORLD_SIZE", "1"))
    if world == 1 or "RANK" not in environment:
        return None
    local_world = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    return Launch(int(environment["RANK"]), world, int(environment.get("LOCAL_RANK", "0")), local_world)
