"""Pictures of different sizes in one padded batch, without changing what any of them gives (Sect. 3.2's whole images).

A picture's map in a padded batch is what it is alone as long as everything beyond its own border is zero wherever a
layer looks. Zero after a ReLU is what a convolution's zero padding would give; response normalisation keeps a zero; a
pooling window across the border (ceil mode) ignores zeros among values that are not negative. So only the input and
what each ReLU makes of a bias have to be cleared.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Size = tuple[int, int]
"""(height, width)."""


def form_batches(sizes: Sequence[Size], most_pixels: int, most_padding: float = 0.0) -> list[list[int]]:
    """Rows to run together, of sizes as alike as can be; what a batch holds follows from its arguments alone.

    Args:
        sizes: of the pictures.
        most_pixels: of one batch, padding included; a single picture may have more.
        most_padding: the greatest share of a batch that may be padding, from 0 (equal sizes only) to below 1.
    """
    batches: list[list[int]] = []
    own = 0  # pixels of the last batch's own pictures
    height = width = 0
    for row in sorted(range(len(sizes)), key=lambda row: (*sizes[row], row)):
        h, w = sizes[row]
        own, height, width = own + h * w, max(height, h), max(width, w)
        padded = (len(batches[-1]) + 1 if batches else 1) * height * width
        if batches and padded <= most_pixels and padded - own <= most_padding * padded:
            batches[-1].append(row)
        else:
            batches.append([row])
            own, height, width = h * w, h, w
    return batches


class Extents:
    """How far each picture of a padded batch reaches from the top left corner, at some layer.

    Args:
        sizes: heights and widths of the N pictures.
        tensor: the same, (N, 2), on the batch's device.
    """

    def __init__(self, sizes: Sequence[Size], tensor: Tensor) -> None:
        self._sizes = sizes
        self._heights, self._widths = tensor[:, :1], tensor[:, 1:]  # (N, 1) each

    def halved(self) -> Extents:
        """The extents after a 2x2 pooling of stride 2 that rounds up."""
        halves = [(-(-height // 2), -(-width // 2)) for height, width in self._sizes]
        return Extents(halves, torch.cat([self._heights + 1, self._widths + 1], dim=1) // 2)

    def mirror(self, batch: Tensor) -> Tensor:
        """Each picture (N, C, H, W) mirrored within its own width; beyond it anything."""
        columns = torch.arange(batch.shape[3], device=batch.device)
        source = (self._widths - 1 - columns).clamp(min=0)  # (N, W)
        return batch.gather(3, source[:, None, None].expand(batch.shape))

    def clear_outside(self, values: Tensor) -> Tensor:
        """Zeroes what lies beyond each picture, in place: (N, C, H, W)."""
        rows = torch.arange(values.shape[2], device=values.device) >= self._heights  # (N, H)
        columns = torch.arange(values.shape[3], device=values.device) >= self._widths  # (N, W)
        return values.masked_fill_((rows[:, :, None] | columns[:, None])[:, None], 0)

    def cut(self, values: Tensor) -> list[Tensor]:
        """Each picture's own part of (N, C, H, W), as (1, C, h, w)."""
        return [values[n : n + 1, :, :height, :width] for n, (height, width) in enumerate(self._sizes)]


def run_padded(trunk: nn.Sequential, batch: Tensor, extents: Extents) -> list[Tensor]:
    """The convolutional layers on a padded batch (N, C, H, W), changed in place -> N maps (1, C', h', w').

    Each is the map of its picture alone, to rounding.
    """
    extents.clear_outside(batch)
    for layer in trunk:
        batch = layer(batch)
        if isinstance(layer, nn.MaxPool2d):
            extents = extents.halved()
        elif isinstance(layer, nn.ReLU):
            extents.clear_outside(batch)
    return extents.cut(batch)
