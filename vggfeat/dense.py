"""Batch of images -> spatial average of the penultimate layer, or of the class scores (Sect. 3.2, Appendix B)."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggfeat.catalog import INPUT_SIDE
from vggfeat.errors import UsageError
from vggfeat.images import Picture
from vggfeat.networks import VGG, Layer

BATCH_PIXELS = 600_000
"""Most pixels in one pass on the CPU, a single larger picture excepted: about 300 MB of VGG-D's activations in bf16.
More gains nothing there, since one 256x341 picture fills the cores."""

GPU_BATCH_PIXELS = 8_000_000

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
        cast = net if self._dtype == torch.float32 else copy.deepcopy(net).to(self._dtype)
        self._net = cast.eval().to(memory_format=torch.channels_last)
        preprocessing = net.preprocessing
        self._bgr = preprocessing.channels == "BGR"
        # (v * scale - mean) / std, as one multiplication and one subtraction.
        std = torch.tensor(preprocessing.std, device=self.device)
        self._factor = (preprocessing.scale / std).view(3, 1, 1)
        self._offset = (torch.tensor(preprocessing.mean, device=self.device) / std).view(3, 1, 1)

    def __call__(self, pictures: Sequence[Picture], *, flip: bool = False) -> NDArray[np.float32]:
        """Mean activation of each picture, alone whatever its batch: (N, D).

        Args:
            pictures: (H, W, 3) uint8 RGB, already rescaled; sizes may differ.
            flip: run the horizontally mirrored pictures instead.

        Raises UsageError where a side is under 224.
        """
        means = np.empty((len(pictures), self.dim), dtype=np.float32)
        for rows in _equal_sizes(pictures, BATCH_PIXELS if self.device.type == "cpu" else GPU_BATCH_PIXELS):
            batch = torch.from_numpy(np.stack([pictures[row] for row in rows]))
            means[rows] = self.mean_map(batch.to(self.device).permute(0, 3, 1, 2), flip).cpu().numpy()
        return means

    @torch.inference_mode()
    def mean_map(self, batch: Tensor, flip: bool = False) -> Tensor:
        """(N, 3, H, W) uint8 RGB -> (N, D) float32, averaged over the map's positions in float32."""
        tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.precision == "tf32"
        try:
            return self._net.dense(self.preprocess(batch, flip), self.layer).float().mean((1, 2))
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32

    def preprocess(self, batch: Tensor, flip: bool = False) -> Tensor:
        """(N, 3, H, W) uint8 RGB -> the net's own input in its precision, channels_last."""
        if min(batch.shape[2:]) < INPUT_SIDE:
            raise UsageError(f"a {batch.shape[3]}x{batch.shape[2]} picture is smaller than the net's {INPUT_SIDE}")
        if self._bgr:
            batch = batch.flip(1)
        if flip:
            batch = batch.flip(3)
        values = batch.float() * self._factor - self._offset
        return values.to(self._dtype).contiguous(memory_format=torch.channels_last)


def _equal_sizes(pictures: Sequence[Picture], most_pixels: int) -> Iterator[list[int]]:
    """Rows of equally large pictures, in input order, as many as fit into one pass."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, picture in enumerate(pictures):
        groups[picture.shape].append(row)
    for (height, width, _), rows in groups.items():
        size = max(1, most_pixels // (height * width))
        yield from (rows[start : start + size] for start in range(0, len(rows), size))
