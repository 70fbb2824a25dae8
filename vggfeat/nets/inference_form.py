"""The convolutional layers as inference runs them on a processor: the same values to rounding, in less time.

oneDNN convolves directly in float32. On a processor with AVX2 two ways with fewer multiplications are faster for most
of the paper's layers: NNPACK's, which torch contains, on large maps, and the matrix products of `winograd` on small
ones, because NNPACK transforms the filters anew at every call.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vggfeat.nets import winograd

Method = Literal["direct", "winograd", "nnpack"]

NNPACK_BYTES = 256 << 20
"""NNPACK's working memory for one call, at most: larger maps are computed in strips of rows, which took 10% longer at
Q = 512 (net D's conv1_2)."""

NNPACK_TILE = 6
"""Outputs along a side of NNPACK's tiles."""

NNPACK_PRODUCTS = 64
"""Values per tile and channel after its transforms: F(6x6, 3x3)."""


NNPACK_CHANNELS = 64
"""Channels from which NNPACK is faster than the direct sum, on large maps."""

WINOGRAD_CHANNELS = 128


def method(channels: int, out_channels: int, positions: int) -> Method:
    """The fastest way to convolve a map of so many positions.

    Measured on 2 cores with AVX2 (`bench convolutions`; recipes/RESULTS.md): NNPACK won on maps of at least ten
    positions per channel, elsewhere Winograd's way, and the direct sum where there are few channels.
    """
    narrow = min(channels, out_channels)
    if narrow >= NNPACK_CHANNELS and positions >= 10 * narrow:
        return "nnpack"
    return "winograd" if narrow >= WINOGRAD_CHANNELS else "direct"


def has_nnpack() -> bool:
    """Whether torch has NNPACK and it runs on this processor; also initialises it."""
    return hasattr(torch, "_nnpack_spatial_convolution") and bool(torch._nnpack_available())


def has_fast_convolutions() -> bool:
    """Whether this processor is of the kind for which `method` was measured, and torch has NNPACK."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2" and has_nnpack()


def inference_form(features: nn.Sequential) -> nn.Sequential:
    """The same layers in the same places, with faster ones where the net is wide enough to gain from them.

    They read the parameters of `features` and record no gradients. Only for float32 on a processor for which
    `has_fast_convolutions`.
    """
    wide = any(isinstance(module, nn.Conv2d) and _narrowest(module) >= NNPACK_CHANNELS for module in features)
    return nn.Sequential(*map(_fast, features)) if wide else features


def _narrowest(convolution: nn.Conv2d) -> int:
    return min(convolution.in_channels, convolution.out_channels)


def _fast(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
        return FastConv2d(module)
    if isinstance(module, nn.MaxPool2d):
        return FastMaxPool2d(2, 2, ceil_mode=True)
    return module


class FastConv2d(nn.Module):
    """A 3x3 convolution of stride 1 with a padding of 1, by the `method` that suits its input.

    The same picture gives the same bits whatever its batch. The output's memory format is NNPACK's (contiguous) or
    channels_last; the next layer takes either.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self._direct = convolution
        self._version = -1
        self._filters: dict[Method, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W)."""
        weight, bias = self._direct.weight, self._direct.bias
        assert bias is not None
        how = method(weight.shape[1], weight.shape[0], x.shape[2] * x.shape[3])
        if how == "winograd":
            return winograd.convolve(x, self._filters_for(how), bias.detach())
        if how == "direct" and (weight.shape[1] > 3 or weight.shape[0] < NNPACK_CHANNELS):
            return F.conv2d(x, weight, bias, padding=1)
        x, weight = x.contiguous(), self._filters_for(how)
        if how == "direct":  # in NNPACK's memory format already: to convert the output would take three times as long
            return F.conv2d(x, weight, bias, padding=1)
        outputs = [by_nnpack(one, weight, bias) for one in x.split(1)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _filters_for(self, how: Method) -> Tensor:
        """The filters as a method takes them (Winograd's are four times as large), made anew once they have changed."""
        weight = self._direct.weight
        version = 0 if weight.is_inference() else weight._version
        if version != self._version:
            self._version, self._filters = version, {}
        if how not in self._filters:
            own = winograd.transformed_filters(weight) if how == "winograd" else weight.detach().contiguous()
            self._filters[how] = own
        return self._filters[how]


class FastMaxPool2d(nn.MaxPool2d):
    """The nets' 2x2 pooling of stride 2 that rounds up; torch's own is slow on contiguous maps."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
        if not x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
            return F.max_pool2d(x, 2, 2, ceil_mode=True)
        return larger_of_pairs(larger_of_pairs(x, 2), 3)


def larger_of_pairs(x: Tensor, axis: int) -> Tensor:
    """The maximum of every two neighbours along an axis; an odd last one stays."""
    pairs, odd = divmod(x.shape[axis], 2)
    even, uneven = (x.narrow(axis, 0, 2 * pairs).unflatten(axis, (pairs, 2)).select(axis + 1, k) for k in (0, 1))
    larger = torch.maximum(even, uneven)
    return torch.cat([larger, x.narrow(axis, 2 * pairs, 1)], axis) if odd else larger


def by_nnpack(x: Tensor, weight: Tensor, bias: Tensor, most_bytes: int = NNPACK_BYTES) -> Tensor:
    """One picture (1, C, H, W), contiguous, in strips of rows that need at most so much working memory each."""
    height, width = x.shape[2:]
    tile_bytes = 4 * NNPACK_PRODUCTS * sum(weight.shape[:2])
    tile_rows = max(1, most_bytes // (tile_bytes * -(-width // NNPACK_TILE)))
    rows = tile_rows * NNPACK_TILE - 2  # a strip takes one more on each side
    if height <= rows + 2:
        return torch._nnpack_spatial_convolution(x, weight, bias, [1, 1])
    out = x.new_empty(1, len(weight), height, width)
    for first in range(0, height, rows):
        last = min(height, first + rows)
        above = 1 if first else 0
        strip = x[:, :, first - above : last + 1].contiguous()
        convolved = torch._nnpack_spatial_convolution(strip, weight, bias, [1, 1])
        out[:, :, first:last] = convolved[:, :, above : above + last - first]
    return out
