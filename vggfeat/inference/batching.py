"""Pictures of different sizes in one padded batch, without changing what any of them gives (Sect. 3.2's whole images).

A picture's map in a padded batch equals its map alone as long as everything beyond its own border is zero wherever a
layer looks. Zero after a ReLU is what a convolution's zero padding would give; response normalisation keeps a zero; a
pooling window across the border (ceil mode) ignores zeros among values that are not negative. So only the input and
the output of each ReLU, where a bias may show, have to be cleared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

Size = tuple[int, int]
"""(height, width)."""


def form_batches(sizes: Sequence[Size], most_pixels: int, most_padding: float = 0.0) -> list[list[int]]:
    """Groups rows of similar sizes; the batches follow from the arguments alone.

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


def rounded_up(size: Size) -> Size:
    """A canvas for a picture of this size, of one of few shapes.

    Each side grows by less than a sixteenth of the shorter one, or than 8 if that is more: it becomes a multiple of 16
    at a shorter side of 256, of 32 at 512, so there are about as many shapes at every scale. The 733 sizes of
    Caltech-101's pictures at Q = 256 become 72, with 2% more pixels.
    """
    step = max(8, min(size) // 16 // 8 * 8)
    height, width = (-(-side // step) * step for side in size)
    return height, width


class Extents:
    """How far each picture of a padded batch reaches from the top left corner, at some layer.

    Args:
        sizes: heights and widths of the N pictures.
        tensor: the same, (N, 2), on the batch's device, where masks clear all pictures at once. Without it each border
            is cleared by itself: in less time on the CPU, where a mask would read the whole map.
    """

    def __init__(self, sizes: Sequence[Size], tensor: Tensor | None = None) -> None:
        self._sizes = sizes
        self._tensor = tensor

    def halved(self) -> Extents:
        """The extents after a 2x2 pooling of stride 2 that rounds up."""
        halves = [(-(-height // 2), -(-width // 2)) for height, width in self._sizes]
        return Extents(halves, None if self._tensor is None else (self._tensor + 1) // 2)

    def mirror(self, batch: Tensor) -> Tensor:
        """Each picture (N, C, H, W) mirrored within its own width; beyond it anything."""
        if self._tensor is None:
            mirrored = batch.flip(3)
            for place, (_, width) in enumerate(self._sizes):
                if width < batch.shape[3]:
                    mirrored[place, :, :, :width] = batch[place, :, :, :width].flip(2)
            return mirrored
        columns = torch.arange(batch.shape[3], device=batch.device)
        source = (self._tensor[:, 1:] - 1 - columns).clamp(min=0)  # (N, W)
        return batch.gather(3, source[:, None, None].expand(batch.shape))

    def clear_outside(self, values: Tensor) -> Tensor:
        """Zeroes what lies beyond each picture, in place: (N, C, H, W)."""
        if self._tensor is None:
            for place, (height, width) in enumerate(self._sizes):
                if (height, width) != values.shape[2:]:
                    values[place, :, height:].zero_()
                    values[place, :, :height, width:].zero_()
            return values
        rows = torch.arange(values.shape[2], device=values.device) >= self._tensor[:, :1]  # (N, H)
        columns = torch.arange(values.shape[3], device=values.device) >= self._tensor[:, 1:]  # (N, W)
        return values.masked_fill_((rows[:, :, None] | columns[:, None])[:, None], 0)

    def cut(self, values: Tensor) -> list[Tensor]:
        """Each picture's own part of (N, C, H, W), as (1, C, h, w)."""
        return [values[n : n + 1, :, :height, :width] for n, (height, width) in enumerate(self._sizes)]


def run_trunk(modules: Iterable[nn.Module], batch: Tensor, extents: Extents) -> Iterator[tuple[int, Tensor, Extents]]:
    """Convolutional layers on a batch (N, C, H, W), which changes in place, and which may be padded.

    Yields the number, output and extents of each module in turn. Within the extents, each picture's map is the map of
    the picture alone, to rounding; before a ReLU anything may lie beyond. A later module may change an output in
    place.
    """
    extents.clear_outside(batch)
    for number, module in enumerate(modules):
        batch = module(batch)
        if isinstance(module, nn.MaxPool2d):
            extents = extents.halved()
        elif isinstance(module, nn.ReLU):
            extents.clear_outside(batch)
        yield number, batch, extents
