"""Batch of images -> a net's layers, averaged over positions or otherwise pooled (Sect. 3.2, Appendix B)."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggfeat.datasets.images import Picture
from vggfeat.errors import DeviceError, UsageError
from vggfeat.inference.batching import Extents, Size, form_batches, rounded_up, run_trunk
from vggfeat.inference.settings import GEM_POWER, Pooling, with_pooling
from vggfeat.nets.catalog import INPUT_SIDE, STRIDE, Conv, NetSpec, scaled
from vggfeat.nets.inference_form import has_fast_convolutions, inference_form
from vggfeat.nets.int8 import byte_layers, int8_form, is_calibrated
from vggfeat.nets.layers import layer_shape, trunk_layers
from vggfeat.nets.networks import HEAD_DEPTHS, VGG, windows
from vggfeat.nets.scaling import InputScaling
from vggfeat.nets.window_layer import window_count, window_layer
from vggfeat.system.devices import (
    check_int8_device,
    current,
    has_tiles,
    is_out_of_memory,
    memory_format,
    release_cached_memory,
    tf32,
)
from vggfeat.system.memory import release_free_memory
from vggfeat.system.values import several

log = logging.getLogger(__name__)

SCORES: Literal["scores"] = "scores"
"""The last layer, before the soft-max."""

CACHE_BYTES = 8 << 20
"""On the CPU a pass of the convolutions takes as many pictures as keep a layer's input and output within so much
memory, and at least one; with `few_shapes` always one. One 256x341 picture of net D, 22 MB in bf16, fills the cores:
four at a time took no less than one by one, and from a net of an eighth of the width four took 14% less."""

GPU_BATCH_PIXELS = 8_000_000
"""Most pixels of a pass on a GPU, where its free memory allows it: a block of 16 pictures up to about Q = 600."""

GPU_PADDING = 0.15
"""Most of a padded batch on a GPU that may be padding. On the CPU only equal sizes share a pass: a batch of them is
no faster there than one after the other, so padding pays only where it makes few shapes of many."""

HEAD_WINDOWS = 512
"""Windows, of whichever pictures, that make one product with the fully-connected layers. Those of one 256x341 picture
are 10, for which reading the 205 MB of fc6's weights (bf16) takes longer than multiplying by them."""

TILED_WINDOWS = 2048
"""The same where windows share work: their filters are transformed each time. 512 tiles of four windows take 67 MB for
each of inputs, filters and products."""

GPU_HEAD_WINDOWS = 4096

KEPT_BYTES = 1 << 30
"""Freed memory that the next pass may find in place. Large pictures of ever other sizes leave holes that the next one
does not fit into; pictures up to Q = 512 stay below this."""

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.float32,  # its layers turn to bytes what they are given
}


Reduce = Callable[[Tensor], Tensor]
"""What becomes of a picture's map (positions, D), row by row."""

Reductions = Mapping[str, Reduce]
"""By layer."""


@dataclass(frozen=True)
class _Passed:
    """What the convolutions gave for one picture."""

    size: Size
    """Of the picture."""
    layers: dict[str, Tensor]
    """Its reduced maps by layer, of the trunk's layers first."""
    pooled: Tensor | None
    """(1, C, h, w), the last pooling's map; None where no fully-connected layer is wanted."""


class DenseNet:
    """A net's fully-convolutional form, ready to run: weights cast once, in the device's memory format.

    No layer beyond the last one asked for is computed. The precision and the device are the net's own (`load_net` sets
    them).

    Args:
        net: the net, which stays as it is; what can be used as it is, is not copied.
        layers: one or several of "conv1_1" to "pool5", "fc6", "fc7" (the penultimate layer) and "scores" (the last,
            before the soft-max); "pool5:max" has a pooling of its own.
        pool: how `pooled` reduces the other layers' maps to vectors; see `POOLINGS`.
        pre_relu: take convolutions and hidden layers before their ReLU.
        most_pixels: of one pass, padding included; by default what suits the device.
        most_padding: the greatest share of a pass that may be padding; by default what suits the device.
        few_shapes: pad each picture to one of few shapes (`rounded_up`); by default where new shapes cost time.

    Raises UsageError for a layer that the net does not have, for a net whose modules are no longer its own
    (`VGG.check_as_built`), and for int8 on another device than the CPU.
    """

    def __init__(
        self,
        net: VGG,
        layers: str | Sequence[str] = "fc7",
        *,
        pool: Pooling = "avg",
        pre_relu: bool = False,
        most_pixels: int | None = None,
        most_padding: float | None = None,
        few_shapes: bool | None = None,
    ) -> None:
        self.layers = several("layers", layers)
        for layer in self.layers:
            net.need(layer)
        self.precision = net.precision
        self.device = next(net.parameters()).device
        if self.precision == "int8":  # the net may have moved since it was loaded
            check_int8_device(self.device)
        net.check_as_built()
        self.filter = net.preprocessing.filter
        parts = {part: with_pooling(part, pool) for part in self.layers}
        self.dims = tuple(
            net.dim(SCORES) if layer == SCORES else lengths(net.spec, net.width, [layer], pool)[0]
            for layer in self.layers
        )
        self._reductions = {part: _REDUCTIONS[pooling] for part, (_, pooling) in parts.items()}
        self._dtype = DTYPES[net.precision]
        self._net = _copied(net, self._dtype, memory_format(self.device)).eval()
        trunk = trunk_layers(net.spec)
        self._taps: dict[int, list[str]] = {}
        self._head_taps: dict[int, list[str]] = {}
        for part, (layer, _) in parts.items():
            if layer in trunk:
                module = trunk[layer].module - (pre_relu and trunk[layer].has_relu)
                self._taps.setdefault(module, []).append(part)
            else:
                module = HEAD_DEPTHS[layer] - (pre_relu and layer != SCORES) - 1
                self._head_taps.setdefault(module, []).append(part)
        self._depth = len(self._net.features) if self._head_taps else 1 + max(self._taps)
        self._trunk = self._net.features[: self._depth]
        if self.device.type == "cpu" and self.precision == "fp32" and has_fast_convolutions():
            self._trunk = inference_form(self._trunk, kept=self._taps)
        self._classifier = self._net.classifier
        if self.precision == "int8":
            names, maxima = byte_layers(self._net), _maxima_of(net, head=bool(self._head_taps))
            self._trunk = int8_form(self._trunk, names, maxima, self._taps)
            if self._head_taps:
                self._classifier = int8_form(self._classifier, names, maxima, self._head_taps)
        on_cpu = self.device.type == "cpu" and self.precision == "fp32"
        self._window_layer = window_layer(self._classifier[0]) if on_cpu and self._head_taps else None
        self._scaled = InputScaling(net.preprocessing, self.device)
        self._cuda = self.device.type == "cuda"
        self._few_shapes = self._shapes_cost() if few_shapes is None else few_shapes
        self._most_pixels = self._pass_pixels() if most_pixels is None else most_pixels
        self._most_padding = (GPU_PADDING if self._cuda else 0.0) if most_padding is None else most_padding
        shared = HEAD_WINDOWS if self._window_layer is None else TILED_WINDOWS
        self._most_windows = GPU_HEAD_WINDOWS if self._cuda else shared

    @property
    def dim(self) -> int:
        """Length of all layers' vectors together."""
        return sum(self.dims)

    def __call__(self, pictures: Sequence[Picture], *, flip: bool = False) -> NDArray[np.float32]:
        """Each picture's pooled layers side by side, the same whatever its batch: (N, D).

        Args:
            pictures: (H, W, 3) uint8 RGB, already rescaled; sizes may differ.
            flip: run the horizontally mirrored pictures instead.

        Raises UsageError where a side is under 224, or under 32 if no layer is after pool5, and DeviceError where one
        picture alone fills a GPU's memory.
        """
        return torch.cat(self.pooled(pictures, flip=flip), dim=1).cpu().numpy()

    @torch.inference_mode()
    def pooled(self, pictures: Sequence[Picture], *, flip: bool = False) -> list[Tensor]:
        """(N, D) of each layer, on the net's device; on a GPU perhaps still being computed."""
        pooled = [torch.empty(len(pictures), dim, dtype=torch.float32, device=self.device) for dim in self.dims]
        for row, found in self._maps(pictures, flip, self._reductions):
            for layer, out in zip(self.layers, pooled, strict=True):
                out[row] = found[layer]
        return pooled

    @torch.inference_mode()
    def maps(self, pictures: Sequence[Picture], *, flip: bool = False) -> list[Tensor]:
        """The first layer of each picture at every position of its map, row by row: (h w, D) float32 each."""
        first = self.layers[0]
        found = dict(self._maps(pictures, flip, {**self._reductions, first: lambda values: values}))
        return [found[row][first] for row in range(len(pictures))]

    def preprocess(self, batch: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 RGB -> the net's own input in its precision."""
        return self._scaled(batch, axis=1).to(self._dtype).contiguous(memory_format=memory_format(self.device))

    def _maps(
        self, pictures: Sequence[Picture], flip: bool, reductions: Reductions
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The row and the reduced maps of each picture, by layer, in the order in which they are computed."""
        sizes = [_size(picture) for picture in pictures]
        least = INPUT_SIDE if self._head_taps else STRIDE
        for height, width in sizes:
            if min(height, width) < least:
                raise UsageError(f"a {width}x{height} picture is smaller than the net's {least}")
        waiting: dict[int, _Passed] = {}
        batches = deque(self._batches(sizes))
        with tf32(self.device, self.precision == "tf32"):
            while batches:
                rows = batches.popleft()
                try:
                    passed = self._one_pass([pictures[row] for row in rows], flip, reductions)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    passed = None
                if passed is None:  # only here has the failed pass let go of its activations
                    if waiting:  # their windows fill memory too
                        yield from self._finished(waiting, reductions)
                        waiting = {}
                        batches.appendleft(rows)
                    else:
                        batches = self._smaller([rows, *batches], sizes)
                    continue
                waiting.update(zip(rows, passed, strict=True))
                release_free_memory(beyond=KEPT_BYTES)
                count = sum(window_count(its.pooled) for its in waiting.values() if its.pooled is not None)
                if not self._head_taps or count >= self._most_windows or not batches:
                    yield from self._finished(waiting, reductions)
                    waiting = {}

    def _smaller(self, batches: Sequence[Sequence[int]], sizes: Sequence[Size]) -> deque[list[int]]:
        """Batches of half the size, from here on: the first of these filled the memory."""
        of_first = [sizes[row] for row in batches[0]]
        self._make_room(of_first)
        height, width = (max(size[axis] for size in of_first) for axis in (0, 1))
        self._most_pixels = min(self._most_pixels, len(of_first) * height * width) // 2
        log.warning("the memory of %s is full: batches of half the size from here on", self.device)
        rows = [row for batch in batches for row in batch]
        formed = self._batches([sizes[row] for row in rows])
        return deque([rows[place] for place in places] for places in formed)

    def _batches(self, sizes: Sequence[Size]) -> list[list[int]]:
        return form_batches(list(map(self._canvas_size, sizes)), self._most_pixels, self._most_padding)

    def _canvas_size(self, size: Size) -> Size:
        """The room that a picture of this size takes in a batch."""
        return rounded_up(size) if self._few_shapes else size

    def _make_room(self, sizes: Sequence[Size]) -> None:
        """Frees what it can after a full memory. Raises DeviceError where one picture alone was too large."""
        if len(sizes) == 1:
            height, width = sizes[0]
            instead = "smaller `scales`" if self.device.type == "cpu" else "`precision=bf16` or `device=cpu`"
            raise DeviceError(f"a {width}x{height} picture alone fills the memory of {self.device}: take {instead}")
        release_cached_memory(self.device)

    def _finished(self, waiting: dict[int, _Passed], reductions: Reductions) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The row and the reduced maps of each picture, those of the fully-connected layers included."""
        if self._head_taps:
            self._add_head(list(waiting.values()), reductions)
        for row, its in waiting.items():
            yield row, its.layers

    def _one_pass(self, pictures: Sequence[Picture], flip: bool, reductions: Reductions) -> list[_Passed]:
        """The convolutions on one batch, padded where its sizes differ and to few shapes."""
        sizes = [_size(picture) for picture in pictures]
        mixed = self._most_padding > 0 and len(set(sizes)) > 1
        extents = Extents(sizes, self._uploaded(torch.tensor(sizes)) if mixed else None)
        batch = self._uploaded(_canvas(pictures, list(map(self._canvas_size, sizes)))).permute(0, 3, 1, 2)
        batch = self.preprocess(extents.mirror(batch) if flip else batch)
        found: list[dict[str, Tensor]] = [{} for _ in pictures]
        for number, values, its_extents in run_trunk(self._trunk, batch, extents):
            batch, extents = values, its_extents
            if number in self._taps:
                for place, its_map in zip(found, extents.cut(values), strict=True):
                    positions = its_map[0].permute(1, 2, 0).flatten(0, 1)  # (h w, C)
                    # A copy, since the next ReLU would change it.
                    positions = positions.to(torch.float32, copy=True)
                    place.update((part, reductions[part](positions)) for part in self._taps[number])
        if not self._head_taps:
            return [_Passed(size, layers, None) for size, layers in zip(sizes, found, strict=True)]
        pooled = extents.cut(batch)
        return [_Passed(size, layers, its) for size, layers, its in zip(sizes, found, pooled, strict=True)]

    def _add_head(self, passed: Sequence[_Passed], reductions: Reductions) -> None:
        """Adds the fully-connected layers of these pictures, half of them at a time where memory is full."""
        try:
            self._head(passed, reductions)
            return
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        self._make_room([its.size for its in passed])
        self._most_windows = max(1, self._most_windows // 2)
        log.warning("the memory of %s is full: half as many windows at a time from here on", self.device)
        half = len(passed) // 2
        for part in (passed[:half], passed[half:]):
            self._add_head(part, reductions)

    def _head(self, passed: Sequence[_Passed], reductions: Reductions) -> None:
        """Runs the fully-connected layers on the windows of all pictures at once."""
        maps = [its.pooled for its in passed if its.pooled is not None]
        counts, last = [window_count(its) for its in maps], max(self._head_taps)
        values = self._first(maps)
        for number, module in enumerate(self._classifier[: last + 1]):
            values = module(values) if number else values
            if number in self._head_taps:
                out = values.to(torch.float32, copy=number < last)  # a ReLU that follows would change it
                for its, positions in zip(passed, out.split(counts), strict=True):
                    its.layers.update((part, reductions[part](positions)) for part in self._head_taps[number])

    def _first(self, maps: Sequence[Tensor]) -> Tensor:
        """fc6 of all windows of these maps, before its ReLU."""
        if self._window_layer is not None:
            return self._window_layer(maps)
        return self._classifier[0](torch.cat([windows(one) for one in maps]))

    def _uploaded(self, values: Tensor) -> Tensor:
        """On the net's device; to a GPU from pinned memory, while it still computes what it was given before."""
        if not self._cuda:
            return values.to(self.device)
        with current(self.device):
            return values.pin_memory().to(self.device, non_blocking=True)

    def _shapes_cost(self) -> bool:
        """Whether a new shape costs time: with AMX, oneDNN generates long kernels for each (17 ms for net D)."""
        return self.device.type == "cpu" and self.precision in ("bf16", "int8") and has_tiles()

    def _pass_pixels(self) -> int:
        """Most pixels of a pass: on a GPU by its free memory, down to a power of two so that runs agree on it."""
        if self._few_shapes:
            return 1  # one picture: each number of pictures would be another shape
        per_pixel = _values_per_pixel(self._net.spec, self._net.width) * self._dtype.itemsize
        if not self._cuda:
            return CACHE_BYTES // per_pixel
        free, _ = torch.cuda.mem_get_info(self.device)
        pixels = free // 4 // per_pixel
        return min(GPU_BATCH_PIXELS, 1 << max(0, pixels.bit_length() - 1))


def _maxima_of(net: VGG, *, head: bool) -> dict[str, float]:
    """Raises UsageError for a net that has not been calibrated on all its layers."""
    if net.input_maxima is None or not is_calibrated(net, head=head):
        raise UsageError(
            "`precision=int8` needs a net calibrated on images, as extract and evaluate do: take another one here"
        )
    return net.input_maxima


def lengths(spec: NetSpec, width: float, layers: Sequence[str], pool: Pooling = "avg") -> tuple[int, ...]:
    """Length of each layer's vector: its channels, or with pooling "none" the whole map of a 224x224 crop.

    "pool5:max" has a pooling of its own. "scores", whose length depends on the classes, is not among the layers.
    """
    return tuple(_length(spec, width, *with_pooling(layer, pool)) for layer in layers)


def _length(spec: NetSpec, width: float, layer: str, pooling: Pooling) -> int:
    channels, side = layer_shape(spec, layer, width)
    return channels * side**2 if pooling == "none" else channels


def _gem(values: Tensor) -> Tensor:
    """(P, D) -> (D,): the cube root of the mean cube, each channel by its maximum first so that no cube overflows."""
    most = values.amax(0).clamp(min=torch.finfo(values.dtype).tiny)
    return most * (values / most).pow(GEM_POWER).mean(0).pow(1 / GEM_POWER)


_REDUCTIONS: dict[Pooling, Reduce] = {
    "avg": lambda values: values.mean(0),
    "max": lambda values: values.amax(0),
    "gem": _gem,
    "none": lambda values: values.T.flatten(),  # C, H, W
}


def _copied(net: VGG, dtype: torch.dtype, layout: torch.memory_format) -> VGG:
    """The net in a number format and a memory format; tensors that have both already are shared with it."""

    def tensor(value: Tensor) -> Tensor:
        value = value.to(dtype)
        return value.contiguous(memory_format=layout) if value.ndim == 4 else value

    with torch.device("meta"):
        copied = VGG(net.net, width=net.width, num_classes=net.num_classes, top=net.has_top)
    copied.load_state_dict({name: tensor(value) for name, value in net.state_dict().items()}, assign=True)
    return copied


def _size(picture: Picture) -> Size:
    height, width = picture.shape[:2]
    return height, width


def _canvas(pictures: Sequence[Picture], rooms: Sequence[Size]) -> Tensor:
    """(N, H, W, 3) uint8: each picture in the top left corner of the smallest canvas that holds all their rooms."""
    height, width = (max(room[axis] for room in rooms) for axis in (0, 1))
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
