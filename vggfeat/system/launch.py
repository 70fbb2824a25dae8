"""The resources of this process: its cores, and its place among the processes that torchrun started."""

from __future__ import annotations

import os
from dataclasses import dataclass

from vggfeat.errors import UsageError
from vggfeat.system.numbers import number_of


def available_cores() -> int:
    """Cores that this process may use; a scheduler may have given it only a part of the machine's."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers(processes: int = 1) -> int:
    """Decoding threads per process when `processes` of them share this machine's cores."""
    return max(1, available_cores() // processes)


@dataclass(frozen=True)
class Launch:
    """The place of this process among those that torchrun started, from the environment variables that it sets."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    """Processes on this machine."""

    def device(self, asked: str | None) -> str | None:
        """The device asked for; CUDA without a number becomes the device of this process's local rank.

        Raises UsageError if the machine has fewer CUDA devices than processes.
        """
        import torch

        from vggfeat.system.devices import resolve_device

        found = resolve_device(asked)
        if found.type != "cuda" or found.index is not None:
            return asked
        if self.local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"{number_of(self.local_world, 'process')} on a machine with "
                f"{number_of(torch.cuda.device_count(), 'CUDA device')}: give torchrun as many processes as devices, "
                "or take `device=cpu`"
            )
        torch.cuda.set_device(self.local_rank)  # else every process would take memory on the first device too
        return f"cuda:{self.local_rank}"

    def workers(self) -> int:
        """Decoding threads for each of this machine's processes."""
        return default_workers(self.local_world)


def launched() -> Launch | None:
    """This process's place among several that torchrun started; None if it runs alone.

    Raises UsageError for variables that torchrun does not set so.
    """
    world = _number("WORLD_SIZE", 1, least=1)
    if world == 1 or not os.environ.get("RANK"):
        return None
    place = Launch(_number("RANK", 0), world, _number("LOCAL_RANK", 0), _number("LOCAL_WORLD_SIZE", 1, least=1))
    if place.rank >= world:
        raise UsageError(f"the environment variable RANK is {place.rank} of WORLD_SIZE {world}: unset both")
    return place


def _number(variable: str, usual: int, least: int = 0) -> int:
    """The value of one of torchrun's environment variables; empty counts as not set."""
    text = os.environ.get(variable) or str(usual)
    if not text.isdecimal():
        raise UsageError(f"the environment variable {variable} is {text!r}, not a whole number: unset it")
    if int(text) < least:
        raise UsageError(f"the environment variable {variable} is {text}, but it is {least} or more: unset it")
    return int(text)
