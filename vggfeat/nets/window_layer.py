"""The first fully-connected layer on every 7x7 window of pooled maps (Sect. 3.2: fc6 as a convolution), in float32.

Neighbouring windows share most of their values. F(2x2, 7x7) takes 64 multiplications per pair of channels for four
windows, which take 196 one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from vggfeat.nets.minimal_filtering import two_dimensional
from vggfeat.nets.networks import POOLED_SIDE, windows

TILE = 2
"""Windows along a side of a tile; it spans one more value than a window."""

SPAN = TILE + POOLED_SIDE - 1
PRODUCTS = SPAN**2

CHANNELS = 128
"""Channels from which the products are large enough to gain from."""

FILTER_PRODUCTS = 8000
"""What transforming the filters costs, in products of one row with a (C, K) matrix: on 2 cores with AVX2 0.24 s for net
D, which 7,400 such products take. So 240 windows are worth it."""

AT_ONCE = 512
"""Outputs whose filters are transformed together: 67 MB of 512 channels. All of net D's would take 537 MB."""

TRANSFORMS = two_dimensional(TILE, POOLED_SIDE, (0, 1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 2)))


class WindowLayer:
    """fc6 of pictures' pooled maps: (1, C, h, w) each -> (windows of all, K), row by row."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear

    def __call__(self, pooled: Sequence[Tensor]) -> Tensor:
        """The layer's values before its ReLU, by the faster way for this many windows."""
        if is_worth_it(pooled):
            return self._by_tiles(pooled)
        return self.linear(torch.cat([windows(one) for one in pooled]))

    def _by_tiles(self, pooled: Sequence[Tensor]) -> Tensor:
        """The same in three steps: inputs (64, tiles, C), their products (64, tiles, K) by filters, and outputs."""
        sides = [_tiles(one) for one in pooled]
        counts = [down * across for down, across in sides]
        channels, outputs = pooled[0].shape[1], self.linear.out_features
        inputs = pooled[0].new_empty(PRODUCTS, sum(counts), channels)
        for part, one in zip(inputs.split(counts, dim=1), pooled, strict=True):
            part.copy_((TRANSFORMS.input @ _flat_tiles(one)).view_as(part))
        found = inputs.new_empty(TILE**2, sum(counts), outputs)
        for first in range(0, outputs, AT_ONCE):
            weight = self.linear.weight[first : first + AT_ONCE]
            filters = (TRANSFORMS.filter @ weight.reshape(-1, POOLED_SIDE**2).T).view(PRODUCTS, len(weight), channels)
            products = torch.bmm(inputs, filters.transpose(1, 2))
            part = found[:, :, first : first + AT_ONCE]
            part.copy_((TRANSFORMS.output @ products.flatten(1)).view_as(part))
        of_pictures = zip(found.split(counts, dim=1), pooled, sides, strict=True)
        return torch.cat([_in_rows(part, one, *side) for part, one, side in of_pictures]) + self.linear.bias


def window_layer(linear: nn.Module) -> WindowLayer | None:
    """The layer for float32 on a processor; None where it is too narrow to gain, or not the usual one."""
    if isinstance(linear, nn.Linear) and linear.in_features >= CHANNELS * POOLED_SIDE**2:
        return WindowLayer(linear)
    return None


def window_count(pooled: Tensor) -> int:
    """Number of windows of a map (N, C, h, w)."""
    down, across = _windows(pooled)
    return len(pooled) * down * across


def is_worth_it(pooled: Sequence[Tensor]) -> bool:
    """Whether tiles, with the transform of the filters, take fewer multiplications than the windows one by one."""
    tiles = sum(down * across for down, across in map(_tiles, pooled))
    return PRODUCTS * tiles + FILTER_PRODUCTS < POOLED_SIDE**2 * sum(map(window_count, pooled))


def _windows(pooled: Tensor) -> tuple[int, int]:
    down, across = (side - POOLED_SIDE + 1 for side in pooled.shape[2:])
    return down, across


def _tiles(pooled: Tensor) -> tuple[int, int]:
    down, across = (-(-count // TILE) for count in _windows(pooled))
    return down, across


def _flat_tiles(pooled: Tensor) -> Tensor:
    """(8 8, tiles C) of a map (1, C, h, w), with zeros beyond its right and lower border."""
    _, channels, height, width = pooled.shape
    down, across = _tiles(pooled)
    padded = pooled.new_zeros(TILE * down + POOLED_SIDE - 1, TILE * across + POOLED_SIDE - 1, channels)
    padded[:height, :width] = pooled[0].permute(1, 2, 0)
    tiles = padded.unfold(0, SPAN, TILE).unfold(1, SPAN, TILE)  # (down, across, C, 8, 8)
    return tiles.permute(3, 4, 0, 1, 2).reshape(PRODUCTS, -1)


def _in_rows(found: Tensor, pooled: Tensor, down: int, across: int) -> Tensor:
    """(4, tiles, K) -> (windows, K) of one picture."""
    height, width = _windows(pooled)
    whole = found.view(TILE, TILE, down, across, -1).permute(2, 0, 3, 1, 4).reshape(TILE * down, TILE * across, -1)
    return whole[:height, :width].flatten(0, 1)
