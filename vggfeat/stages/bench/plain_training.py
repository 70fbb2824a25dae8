"""What training is measured against: plain loops with torchvision's module, NCHW, fp32, torch's defaults."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vggfeat.nets.catalog import INPUT_SIDE, NUM_CLASSES
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.nets.scaling import InputScaling
from vggfeat.stages.bench.timing import Effort, median_seconds
from vggfeat.stages.bench.yardsticks import TORCHVISION_NAMES, torchvision_net
from vggfeat.system.devices import is_out_of_memory, release_cached_memory
from vggfeat.system.memory import keeps_freed_memory
from vggfeat.training.recipe import Sgd

log = logging.getLogger(__name__)

RATE = 1e-4  # so small that the loss on random pictures stays finite

HEAD_BATCH = 64
"""Images an update of the fully-connected layers alone, as `train --trainable fc` takes them."""


@dataclass(frozen=True)
class PlainRates:
    """Images/s of the plain loops; None where they cannot be measured."""

    whole: float | None
    """Of the whole net, the whole batch at once."""
    head: float | None
    """Of the fully-connected layers alone, on vectors in memory."""


def random_net(net: str, width: float) -> VGG:
    """A net with random weights and 1000 classes."""
    return glorot_(VGG(net, width=width))


def plain_rates(
    net: str, width: float, head_width: float, size: int, device: torch.device, effort: Effort
) -> PlainRates:
    """The rates of a net's plain loops.

    Extraction and training on the CPU change how a process allocates, for good, and a plain loop that follows gains by
    it; it then runs in a new process, as fast as in one that has done nothing else.
    """
    if net not in TORCHVISION_NAMES:
        return PlainRates(None, None)
    if device.type != "cpu" or not keeps_freed_memory():
        return _rates(net, width, head_width, size, device, effort)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(
                _in_new_process, torch.get_num_threads(), net, width, head_width, size, device, effort
            ).result()
        except BrokenProcessPool as error:
            log.warning("the process of the plain torchvision loops failed, so they are left out: %s", error)
            return PlainRates(None, None)


def _in_new_process(
    threads: int, net: str, width: float, head_width: float, size: int, device: torch.device, effort: Effort
) -> PlainRates:
    torch.set_num_threads(threads)
    return _rates(net, width, head_width, size, device, effort)


def _rates(net: str, width: float, head_width: float, size: int, device: torch.device, effort: Effort) -> PlainRates:
    return PlainRates(
        _unless_full(lambda: _whole_rate(random_net(net, width).to(device), size, effort), device),
        _unless_full(lambda: _head_rate(random_net(net, head_width).to(device), effort), device),
    )


def _unless_full(loop: Callable[[], float], device: torch.device) -> float | None:
    """The loop's rate; None where the device's memory is full: a plain loop has no smaller batches to retreat to."""
    try:
        return loop()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    release_cached_memory(device)
    log.warning("a plain torchvision loop does not fit into the memory of %s: it is left out", device)
    return None


def _whole_rate(model: VGG, size: int, effort: Effort) -> float:
    device = next(model.parameters()).device
    crops = torch.randint(0, 256, (size, INPUT_SIDE, INPUT_SIDE, 3), dtype=torch.uint8)
    scaled = InputScaling(model.preprocessing, device)
    net = torchvision_net(model)
    return _updates(net, lambda: scaled(crops.to(device)).permute(0, 3, 1, 2).contiguous(), size, effort)


def _head_rate(model: VGG, effort: Effort) -> float:
    head = torchvision_net(model).classifier
    first = next(head.parameters())
    vectors = torch.rand(HEAD_BATCH, first.shape[1])
    return _updates(head, lambda: vectors.to(first.device), HEAD_BATCH, effort)


def _updates(net: nn.Module, inputs: Callable[[], Tensor], size: int, effort: Effort) -> float:
    """Images/s of updates of a module that gives scores."""
    device = next(net.parameters()).device
    net.train()
    sgd = Sgd()
    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=sgd.momentum, weight_decay=sgd.weight_decay)
    labels = torch.randint(0, NUM_CLASSES, (size,))

    def update() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(inputs()), labels.to(device)).backward()
        optimizer.step()

    return size / median_seconds(update, device, effort)
