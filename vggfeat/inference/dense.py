"""Batch of images -> spatial average of the penultimate layer, or of the class scores (Sect. 3.2, Appendix B)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggfeat.datasets.images import Picture
from vggfeat.errors import DeviceError, UsageError
from vggfeat.inference.batching import Extents, form_batches, run_padded
from vggfeat.nets.catalog import INPUT_SIDE, Conv, NetSpec, scaled
from vggfeat.nets.networks import VGG, Layer, windows
from vggfeat.nets.scaling import InputScaling
from vggfeat.system.devices import tf32
from vggfeat.system.memory import release_free_memory

CACHE_BYTES = 8 << 20
"""On the CPU a pass of the convolutions takes as many pictures as keep a layer's input and output within so much
memory, and at least one. One 256x341 picture of net D, 22 MB in bf16, fills the cores: four at a time took no less than
one by one, and from a net of an eighth of the width four took 14% less."""

GPU_BATCH_PIXELS = 8_000_000
"""Most pixels of a pass on a GPU, where its free memory allows it: about 90 pictures at Q = 256."""

GPU_PADDING = 0.15
"""Most of a padded batch on a GPU that may be padding. On the CPU only equal sizes share a pass: a batch of them is
no faster there than one after the other, so padding would be all loss."""

HEAD_WINDOWS = 512
"""Windows, of whichever pictures, that make one product with the fully-connected layers. Those of one 256x341 picture
are 10, for which reading the 205 MB of fc6's weights (bf16) takes longer than multiplying by them."""

GPU_HEAD_WINDOWS = 4096

KEPT_BYTES = 512 << 20
"""Freed memory that the next pass may find in place. Large pictures of ever other sizes leave holes that the next one
does not fit into; pictures up to Q = 512 stay below this."""

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class DenseNet:
    """A net's fully-convolutional form, ready to run: weights cast once to the precision, channels_last.

    Args:
        net: the net; its parameters are used in place at fp32 and copied at a lower precision.
        layer: "fc7" (the penultimate layer, after its ReLU), "fc6", or "scores" (before the soft-max).

    The precision and the device are the net's own (`load_net` sets them).
    """

    def __init__(self, net: VGG, layer: Layer = "fc7") -> None:
        self.layer: Layer = layer
        self.dim = net.dim(layer)
        self.precision = net.precision
        self.device = next(net.parameters()).device
        self.filter = net.preprocessing.filter
        self._dtype = DTYPES[net.precision]
        self._net = _cast(net, self._dtype).eval().to(memory_format=torch.channels_last)
        self._scaled = InputScaling(net.preprocessing, self.device)
        self._cuda = self.device.type == "cuda"
        self._most_pixels = self._pass_pixels()
        self._most_padding = GPU_PADDING if self._cuda else 0.0
        self._most_windows = GPU_HEAD_WINDOWS if self._cuda else HEAD_WINDOWS

    def __call__(self, pictures: Sequence[Picture], *, flip: bool = False) -> NDArray[np.float32]:
        """Mean activation of each picture, alone whatever its batch: (N, D).

        Args:
            pictures: (H, W, 3) uint8 RGB, already rescaled; sizes may differ.
            flip: run the horizontally mirrored pictures instead.

        Raises UsageError where a side is under 224, DeviceError where one picture alone fills a GPU's memory.
        """
        return self.means(pictures, flip=flip).cpu().numpy()

    @torch.inference_mode()
    def means(self, pictures: Sequence[Picture], *, flip: bool = False) -> Tensor:
        """What calling it gives, on the net's device; on a GPU perhaps still being computed."""
        means = torch.empty(len(pictures), self.dim, device=self.device)
        for row, out in self._maps(pictures, flip):
            means[row] = out.mean(0)
        return means

    @torch.inference_mode()
    def maps(self, pictures: Sequence[Picture], *, flip: bool = False) -> list[Tensor]:
        """The activations of each picture at every position of its map, row by row: (h w, D) float32 each."""
        found = dict(self._maps(pictures, flip))
        return [found[row] for row in range(len(pictures))]

    @torch.inference_mode()
    def mean_map(self, batch: Tensor, flip: bool = False) -> Tensor:
        """(N, 3, H, W) uint8 RGB -> (N, D) float32, averaged over the map's positions in float32."""
        with tf32(self.precision == "tf32"):
            return self._net.dense(self.preprocess(batch, flip), self.layer).float().mean((1, 2))

    def preprocess(self, batch: Tensor, flip: bool = False) -> Tensor:
        """(N, 3, H, W) uint8 RGB -> the net's own input in its precision, channels_last."""
        _check_size(*batch.shape[2:])
        if flip:
            batch = batch.flip(3)
        return self._scaled(batch, axis=1).to(self._dtype).contiguous(memory_format=torch.channels_last)

    def _maps(self, pictures: Sequence[Picture], flip: bool) -> Iterator[tuple[int, Tensor]]:
        """The row and the map of each picture, (h w, D), in the order in which they are computed."""
        waiting: dict[int, Tensor] = {}  # windows by row
        sizes = [picture.shape[:2] for picture in pictures]
        for size in set(sizes):
            _check_size(*size)
        with tf32(self.precision == "tf32"):
            for rows in form_batches(sizes, self._most_pixels, self._most_padding):
                batch = [pictures[row] for row in rows]
                waiting.update(zip(rows, self._windows(batch, flip), strict=True))
                release_free_memory(beyond=KEPT_BYTES)
                if sum(map(len, waiting.values())) >= self._most_windows:
                    yield from self._head(waiting)
                    waiting = {}
            if waiting:
                yield from self._head(waiting)

    def _head(self, waiting: dict[int, Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Runs the fully-connected layers on all windows at once."""
        out = self._net.head(torch.cat(list(waiting.values())), self.layer).float()
        yield from zip(waiting, out.split([len(its) for its in waiting.values()]), strict=True)

    def _windows(self, pictures: Sequence[Picture], flip: bool) -> list[Tensor]:
        """Each picture's windows (h w, C 7 7) of the last pooling; where memory runs out, by halves of the batch."""
        try:
            return self._one_pass(pictures, flip)
        except torch.OutOfMemoryError:
            if len(pictures) == 1:
                height, width, _ = pictures[0].shape
                raise DeviceError(
                    f"a {width}x{height} picture alone fills the memory of {self.device}: take smaller --scales, "
                    "--precision bf16 or --device cpu"
                ) from None
        # Only here has the failed pass let go of its activations.
        if self._cuda:
            torch.cuda.empty_cache()
        self._most_pixels //= 2
        half = len(pictures) // 2
        return self._windows(pictures[:half], flip) + self._windows(pictures[half:], flip)

    def _one_pass(self, pictures: Sequence[Picture], flip: bool) -> list[Tensor]:
        """The convolutions on one batch, padded where its sizes differ."""
        sizes = [picture.shape[:2] for picture in pictures]
        batch = self._uploaded(_canvas(pictures)).permute(0, 3, 1, 2)
        if len(set(sizes)) == 1:
            pooled = self._net.features(self.preprocess(batch, flip))
            return list(windows(pooled).unflatten(0, (len(pictures), -1)))
        extents = Extents(sizes, self._uploaded(torch.tensor(sizes)))
        values = self.preprocess(extents.mirror(batch) if flip else batch)
        return [windows(pooled) for pooled in run_padded(self._net.features, values, extents)]

    def _uploaded(self, values: Tensor) -> Tensor:
        """On the net's device; to a GPU from pinned memory, while it still computes what it was given before."""
        return values.pin_memory().to(self.device, non_blocking=True) if self._cuda else values.to(self.device)

    def _pass_pixels(self) -> int:
        """Most pixels of a pass: on a GPU by its free memory, down to a power of two so that runs agree on it."""
        per_pixel = _values_per_pixel(self._net.spec, self._net.width) * self._dtype.itemsize
        if not self._cuda:
            return CACHE_BYTES // per_pixel
        free, _ = torch.cuda.mem_get_info(self.device)
        pixels = free // 4 // per_pixel
        return min(GPU_BATCH_PIXELS, 1 << max(0, pixels.bit_length() - 1))


def _cast(net: VGG, dtype: torch.dtype) -> VGG:
    """The net itself in float32, else a copy, made tensor by tensor so that it takes no more memory than its own."""
    if dtype == torch.float32:
        return net
    with torch.device("meta"):
        copied = VGG(net.net, width=net.width, num_classes=net.num_classes)
    copied.load_state_dict({name: value.to(dtype) for name, value in net.state_dict().items()}, assign=True)
    return copied


def _check_size(height: int, width: int) -> None:
    if min(height, width) < INPUT_SIDE:
        raise UsageError(f"a {width}x{height} picture is smaller than the net's {INPUT_SIDE}")


def _canvas(pictures: Sequence[Picture]) -> Tensor:
    """(N, H, W, 3) uint8: each picture in the top left corner of the smallest canvas that holds them all."""
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    canvas = torch.zeros(len(pictures), height, width, 3, dtype=torch.uint8)
    for place, picture in zip(canvas.numpy(), pictures, strict=True):
        place[: picture.shape[0], : picture.shape[1]] = picture
    return canvas


def _values_per_pixel(spec: NetSpec, width: float) -> int:
    """Most activations per pixel of the image that a layer and the next hold together."""
    most, channels, area = 0.0, 3, 1
    for layer in spec.layers:
        if layer == "M":
            area *= 4
        elif isinstance(layer, Conv):
            out = scaled(layer.channels, width)
            most, channels = max(most, (channels + out) / area), out
    return round(most)
