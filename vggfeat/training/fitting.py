"""How many images a device computes at a time: halved where they fill its memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from vggfeat.system.devices import is_out_of_memory, release_cached_memory
from vggfeat.system.numbers import number_of

T = TypeVar("T")

log = logging.getLogger(__name__)


class Portions:
    """Images at a time, from a number on that may turn out to be too many.

    Memory that was free when a run began may not be so later: other programs take some, and what is freed in pieces
    fits no large tensor.

    Args:
        images: at a time, at first.
        device: whose memory they fill.
    """

    def __init__(self, images: int, device: torch.device) -> None:
        self.images, self.device = images, device

    def of(self, total: int) -> Iterator[slice]:
        """The slices of `total` images, each of at most `images`."""
        for start in range(0, total, self.images):
            yield slice(start, min(start + self.images, total))

    def fitted(self, work: Callable[[], T], total: int) -> T:
        """Runs `work`, which takes `total` images by `of`; where memory is full, again with half as many at a time.

        Raises torch's error where one image at a time is too much.
        """
        while True:
            try:
                return work()
            except RuntimeError as error:
                largest = min(self.images, total)
                if not is_out_of_memory(error) or largest <= 1:
                    raise
            # Only outside of the handler has the failed pass let go of its activations.
            release_cached_memory(self.device)
            self.images = math.ceil(largest / 2)
            images = number_of(self.images, "image")
            log.warning("the memory of %s is full: %s at a time from here on", self.device, images)
