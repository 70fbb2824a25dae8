"""The convolutional layers as inference runs them on a processor: the same values to rounding, in less time.

oneDNN convolves directly in float32. On processors with AVX2, and on AMD's Zen 4, which executes AVX-512 in two
halves, NNPACK's way, with fewer multiplications, is faster except for narrow layers and the smallest maps.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vggfeat.nets import nnpack
from vggfeat.system.processor import has_halved_avx512

Method = Literal["direct", "nnpack"]

NNPACK_CHANNELS = 64
"""Channels from which NNPACK is faster than the direct sum."""

NNPACK_POSITIONS = 150
"""Positions of a map from which it is. On smaller maps most of the time goes into reading its filters, which are seven
times as large as the net's own."""

POOLED_BY_NUMPY = 6_000_000
"""Values of a picture's map up to which numpy pools it, on one thread. torch's threads are faster, but stay awake for
some milliseconds, in which NNPACK's have to share the cores with them."""


def method(channels: int, out_channels: int, positions: int) -> Method:
    """The fastest way to convolve a map of this many positions.

    Measured on 2 cores each with AVX2 and of Zen 4 (`bench convolutions`; recipes/RESULTS.md).
    """
    suits = min(channels, out_channels) >= NNPACK_CHANNELS and positions >= NNPACK_POSITIONS
    return "nnpack" if suits else "direct"


def has_fast_convolutions() -> bool:
    """Whether this processor is of the kind for which `method` was measured, and torch has NNPACK."""
    measured = torch.backends.cpu.get_cpu_capability() == "AVX2" or has_halved_avx512()
    return measured and nnpack.is_available()


def inference_form(features: nn.Sequential, kept: Container[int] = ()) -> nn.Sequential:
    """The same layers in the same places, with faster ones where the net is wide enough to gain from them.

    They read the parameters of `features` and record no gradients. Only for float32 on a processor for which
    `has_fast_convolutions`. A convolution applies the ReLU that follows it, unless its place is among the `kept`,
    whose values before the ReLU are wanted.
    """
    if not any(isinstance(module, nn.Conv2d) and _narrowest(module) >= NNPACK_CHANNELS for module in features):
        return features
    rectifies = [
        _is_fast(module) and isinstance(after, nn.ReLU) and place not in kept
        for place, (module, after) in enumerate(zip(features, [*features[1:], None], strict=True))
    ]
    done = [False, *rectifies[:-1]]
    return nn.Sequential(*map(_fast, features, rectifies, done))


def _narrowest(convolution: nn.Conv2d) -> int:
    return min(convolution.in_channels, convolution.out_channels)


def _is_fast(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)


def _fast(module: nn.Module, rectifies: bool, done: bool) -> nn.Module:
    if isinstance(module, nn.Conv2d) and _is_fast(module):
        return FastConv2d(module, rectifies)
    if isinstance(module, nn.MaxPool2d):
        return FastMaxPool2d(2, 2, ceil_mode=True)
    return DoneReLU() if done else module


class FastConv2d(nn.Module):
    """A 3x3 convolution of stride 1 with a padding of 1, by the `method` that suits its input.

    NNPACK gives a picture the same bits whatever its batch, the direct sum the same values to rounding. The output's
    memory format is NNPACK's (contiguous) or channels_last; the next layer takes either.
    """

    def __init__(self, convolution: nn.Conv2d, rectifies: bool = False) -> None:
        super().__init__()
        self._direct = convolution
        self._rectifies = rectifies
        self._version = -1
        self._filters: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W), after the ReLU if it `rectifies`."""
        weight, bias = self._direct.weight, self._direct.bias
        assert bias is not None
        if method(weight.shape[1], len(weight), x.shape[2] * x.shape[3]) == "nnpack":
            return nnpack.convolve(x, self._transformed(), bias, rectify=self._rectifies)
        if len(weight) >= NNPACK_CHANNELS and x.shape[1] == 3:
            # In NNPACK's memory format already: to convert the output would take three times as long.
            x, weight = x.contiguous(), weight.contiguous()
        values = F.conv2d(x, weight, bias, padding=1)
        return values.relu_() if self._rectifies else values

    def _transformed(self) -> Tensor:
        """The filters as NNPACK takes them, made anew once they have changed."""
        weight = self._direct.weight
        version = 0 if weight.is_inference() else weight._version
        if self._filters is None or version != self._version:
            self._version, self._filters = version, nnpack.transformed_filters(weight)
        return self._filters


class DoneReLU(nn.ReLU):
    """Keeps the place of a ReLU whose work the layer before it has done: it gives no negative values."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns x."""
        return x


class FastMaxPool2d(nn.MaxPool2d):
    """The nets' 2x2 pooling of stride 2 that rounds up; torch's own is slow on contiguous maps."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
        if not x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
            return F.max_pool2d(x, 2, 2, ceil_mode=True)
        if x[0].numel() > POOLED_BY_NUMPY:
            return larger_of_pairs(larger_of_pairs(x, 2), 3)
        return torch.from_numpy(_numpy_larger_of_pairs(_numpy_larger_of_pairs(x.detach().numpy(), 2), 3))


def larger_of_pairs(x: Tensor, axis: int) -> Tensor:
    """The maximum of every two neighbours along an axis; an odd last one stays."""
    pairs, odd = divmod(x.shape[axis], 2)
    even, uneven = (x.narrow(axis, 0, 2 * pairs).unflatten(axis, (pairs, 2)).select(axis + 1, k) for k in (0, 1))
    larger = torch.maximum(even, uneven)
    return torch.cat([larger, x.narrow(axis, 2 * pairs, 1)], axis) if odd else larger


def _numpy_larger_of_pairs(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """The same by numpy."""
    before = (slice(None),) * axis
    even, uneven = values[(*before, slice(0, None, 2))], values[(*before, slice(1, None, 2))]
    larger = np.empty(even.shape, even.dtype)
    pairs, odd = (*before, slice(uneven.shape[axis])), (*before, slice(uneven.shape[axis], None))
    np.maximum(even[pairs], uneven, out=larger[pairs])
    larger[odd] = even[odd]
    return larger
