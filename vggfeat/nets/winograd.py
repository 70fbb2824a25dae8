"""3x3 convolutions by Winograd's minimal filtering: F(4x4, 3x3) (Lavin and Gray, "Fast algorithms for ConvNets", 2016).

A tile of 4x4 outputs takes 36 multiplications per pair of channels where the direct sum takes 144. The products over
channels, which are nearly all of the work, are 36 matrix products over many tiles.
"""

from __future__ import annotations

from torch import Tensor

from vggfeat.nets.minimal_filtering import two_dimensional

TILE = 4
"""Outputs along a side of a tile; its inputs reach one further on each side."""

STRIP_BYTES = 16 << 20
"""Transformed inputs or outputs of the tile rows that are computed together: much more leaves the cache, and much less
makes the matrix products small. At 512 channels 16 MB took 12% less time than 4 MB, and 1 MB up to 60% more."""

TRANSFORMS = two_dimensional(TILE, 3, (0, 1, -1, 2, -2))


def transformed_filters(weight: Tensor) -> Tensor:
    """(K, C, 3, 3) float32 -> (36, C, K)."""
    values = weight.detach().permute(2, 3, 1, 0).reshape(9, -1)
    return (TRANSFORMS.filter @ values).view(36, weight.shape[1], weight.shape[0])


def convolve(x: Tensor, filters: Tensor, bias: Tensor, strip_bytes: int = STRIP_BYTES) -> Tensor:
    """A 3x3 convolution of stride 1 with a padding of 1.

    Args:
        x: (N, C, H, W) float32.
        filters: (36, C, K) from `transformed_filters`.
        bias: (K,).
        strip_bytes: transformed values that are computed together, at most.

    Returns:
        (N, K, H, W), channels_last.
    """
    n, channels, height, width = x.shape
    out_channels = filters.shape[2]
    down, across = -(-height // TILE), -(-width // TILE)
    padded = x.new_zeros(n, TILE * down + 2, TILE * across + 2, channels)
    padded[:, 1 : height + 1, 1 : width + 1] = x.permute(0, 2, 3, 1)
    tiles = padded.unfold(1, TILE + 2, TILE).unfold(2, TILE + 2, TILE)  # (N, down, across, C, 6, 6)
    out = x.new_empty(n, TILE * down, TILE * across, out_channels)
    rows = max(1, strip_bytes // (36 * 4 * across * max(channels, out_channels)))
    for picture in range(n):
        for first in range(0, down, rows):
            strip = tiles[picture, first : first + rows].permute(3, 4, 0, 1, 2)  # (6, 6, rows, across, C)
            inputs = TRANSFORMS.input @ strip.reshape(36, -1)
            products = inputs.view(36, -1, channels) @ filters
            outputs = TRANSFORMS.output @ products.view(36, -1)
            strip_of = out[picture, TILE * first : TILE * (first + rows)]
            strip_of.view(-1, TILE, across, TILE, out_channels).copy_(
                outputs.view(TILE, TILE, -1, across, out_channels).permute(2, 0, 3, 1, 4)
            )
    return (out[:, :height, :width] + bias).permute(0, 3, 1, 2)
