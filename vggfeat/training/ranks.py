"""The processes that train together: torch.distributed under torchrun, or this one alone."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from vggfeat.errors import UsageError
from vggfeat.system.devices import current
from vggfeat.system.launch import launched


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int
    world: int
    device: torch.device
    local_world: int = 1
    """Processes on this machine."""

    @property
    def first(self) -> bool:
        """Whether this process writes the files and speaks to the user."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of all processes' tensors; with several processes on their device."""
        if self.world == 1:
            return values
        there = values.to(self.device)
        distributed.all_reduce(there)
        return there

    def any(self, *asked: bool) -> list[bool]:
        """Whether any process asks for each of these, so that all of them act after the same update."""
        if self.world == 1:
            return list(asked)
        return [bool(n) for n in self.sum(torch.tensor(asked, dtype=torch.float32, device=self.device))]

    def wait(self) -> None:
        """Returns when all processes have called it."""
        self.any(False)

    def least(self, number: int) -> int:
        """The smallest of all processes' numbers."""
        if self.world == 1:
            return number
        value = torch.tensor(number, device=self.device)
        distributed.all_reduce(value, op=distributed.ReduceOp.MIN)
        return int(value)

    def shared(self, value: Any) -> Any:
        """The first process's value (plain data), in all of them."""
        if self.world == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gathered(self, entries: list[Any]) -> list[Any]:
        """The entries (plain data) of all processes, in their order."""
        if self.world == 1:
            return entries
        box: list[Any] = [None] * self.world
        distributed.all_gather_object(box, entries)
        return [entry for part in box for entry in part]


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[Ranks]:
    """The processes that torchrun started, over NCCL on CUDA devices and gloo elsewhere; without torchrun, this one.

    A CUDA device without a number becomes the one of this process's local rank. It is the current device meanwhile.

    Raises UsageError where a machine has fewer CUDA devices than processes, for one device that several processes would
    share, and on MPS.
    """
    launch = launched()
    if launch is None:
        with current(device):
            yield Ranks(0, 1, device)
        return
    if device.type == "mps":
        raise UsageError("torch.distributed has no backend for mps: start one process, or take `device=cpu`")
    if device.type == "cuda":
        if device.index is not None and launch.local_world > 1:
            raise UsageError(
                f"`device={device}`: {launch.local_world} processes on this machine cannot train on one device; "
                "`device=cuda` gives each one its own"
            )
        device = torch.device(launch.device(str(device)) or device)
        torch.cuda.set_device(device)
    if sys.platform == "win32":
        os.environ.setdefault("USE_LIBUV", "0")  # the wheels of torch 2.4 and 2.5 ask for libuv, and lack it
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(launch.rank, launch.world, device, launch.local_world)
    finally:
        distributed.destroy_process_group()
