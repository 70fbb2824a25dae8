"""A net's layers in 8 bits, for processors that multiply bytes (VNNI): half the time of bf16.

Weights are int8 with a step for each output channel. Maps are uint8 with one step a layer, since none of them is
negative after its ReLU: 255 stands for the largest value that calibration images had there (`input_maxima`). Sums are
exact, in 32 bits. The first convolution, whose input is signed and which is a hundredth of the work, and the class
scores stay in float32, and so do the maps that someone asked for.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from vggfeat.nets.inference_form import DoneReLU, larger_of_pairs
from vggfeat.nets.networks import VGG, weighted_layers, windows
from vggfeat.system.devices import has_int8

log = logging.getLogger(__name__)

LEVELS = 255
"""The largest value of a map."""

WEIGHT_LEVELS = 127

TRIED_STEP = 0.5
"""Of the bytes that oneDNN's operators take and give when they are tried: not 1, so that they must heed it."""

TRIED_INPUTS, TRIED_OUTPUTS = 32, 16
"""Channels then: the largest sum, of 9 x 32 products, is below 2^24, so that float32 has it exactly."""

EXACT = ("conv1_1", "fc8")
"""Layers that stay in float32."""


def byte_layers(net: VGG) -> dict[nn.Module, str]:
    """The layers that run in 8 bits, by name: conv1_2 or conv2_1, .., fc7."""
    named = zip(weighted_layers(net), net.spec.weighted_names, strict=False)  # a net may lack the last three
    return {layer: name for layer, name in named if name not in EXACT}


@torch.inference_mode()
def input_maxima(net: VGG, batches: Iterable[Tensor], *, head: bool) -> dict[str, float]:
    """The largest value that reaches each layer in 8 bits, by name, in float32.

    Args:
        net: the net; its parameters are float32.
        batches: preprocessed pictures (N, 3, H, W), on the net's device.
        head: look at the fully-connected layers too.

    Rounded up to three digits (by less than one percent), so that processors that round otherwise agree. Raises
    ValueError without a picture, and where a value is not finite.
    """
    names = byte_layers(net)
    found: dict[str, float] = {}

    def run(layers: nn.Sequential, values: Tensor) -> Tensor:
        for layer in layers:
            if layer in names:
                largest = float(values.amax())
                if not math.isfinite(largest):
                    raise ValueError("the net's activations are not finite")
                found[names[layer]] = max(found.get(names[layer], 0.0), largest)
            values = layer(values)
        return values

    for batch in batches:
        pooled = run(net.features, batch)
        if head:
            run(net.classifier, windows(pooled))
    if not found:
        raise ValueError("none of the images to calibrate it on can be read")
    return {name: _rounded_up(value) for name, value in found.items()}


def is_calibrated(net: VGG, *, head: bool) -> bool:
    """Whether the net has the range of each layer that 8 bits need, those of fc6 and fc7 included for its `head`."""
    needed = [name for name in byte_layers(net).values() if head or not name.startswith("fc")]
    return net.input_maxima is not None and set(needed) <= set(net.input_maxima)


def _rounded_up(value: float) -> float:
    """To three digits; a layer that nothing reached gets a range all the same."""
    if not value > 0:
        return 1.0
    nearest = float(f"{value:.2e}")
    return nearest if nearest >= value else float(f"{value * 1.005:.2e}")


def int8_form(
    layers: nn.Sequential, names: Mapping[nn.Module, str], maxima: Mapping[str, float], taps: Collection[int]
) -> nn.Sequential:
    """The same layers in the same places, in 8 bits, with the weights of now.

    Args:
        layers: convolutional or fully-connected layers in float32.
        names: what `byte_layers` gives.
        maxima: what `input_maxima` found.
        taps: places of modules whose output someone reads: their maps come out as float32, as does the last.
    """
    places = [place for place, module in enumerate(layers) if module in names]
    steps = {place: maxima[names[layers[place]]] / LEVELS for place in places}
    modules: list[nn.Module] = []
    in_bytes = False
    for place, module in enumerate(layers):
        if place in steps:
            following = next((other for other in places if other > place), None)
            in_bytes = following is not None and not any(place <= tap < following for tap in taps)
            out_step = steps[following] if in_bytes and following is not None else None
            modules.append(_in_bytes(module, steps[place], out_step))
        elif isinstance(module, nn.MaxPool2d):
            modules.append(ByteMaxPool2d(2, 2, ceil_mode=True))
        else:
            modules.append(DoneReLU() if in_bytes and isinstance(module, nn.ReLU) else module)
    return nn.Sequential(*modules)


def _in_bytes(module: nn.Module, step: float, out_step: float | None) -> nn.Module:
    if isinstance(module, nn.Conv2d):
        return Int8Conv2d(module, step, out_step)
    assert isinstance(module, nn.Linear)
    return Int8Linear(module, step, out_step)


def to_bytes(values: Tensor, step: float) -> Tensor:
    """Values, which change, as uint8 in these steps: none below 0 counts, and what is beyond 255 steps becomes 255."""
    return values if values.dtype == torch.uint8 else values.mul_(1 / step).round_().clamp_(0, LEVELS).to(torch.uint8)


def weights_in_bytes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 weights, steps of the output channels), symmetric: (K, ..), (K,)."""
    rows = weight.detach().float().flatten(1)
    steps = (rows.abs().amax(1) / WEIGHT_LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
    return (rows / steps[:, None]).round_().to(torch.int8).view(weight.shape), steps


class _Int8(nn.Module):
    """What a convolution and a product have in common.

    Args:
        layer: the layer in float32.
        step: of its input.
        out_step: of its output, which then is uint8 with its ReLU done; None: float32 values before the ReLU.
        native: whether oneDNN multiplies; None: where it is right.
    """

    def __init__(
        self, layer: nn.Conv2d | nn.Linear, step: float, out_step: float | None, *, native: bool | None = None
    ) -> None:
        super().__init__()
        assert layer.bias is not None
        self._step, self._out_step = step, out_step
        self._native = uses_operators() if native is None else native
        self._bias = layer.bias.detach().float()
        weight, self._steps = weights_in_bytes(layer.weight)
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        # Without VNNI the same integers multiply as float32: equal to the order of rounding, and slower than float32.
        self._weight = self._packed(weight) if self._native else weight.float()

    def forward(self, x: Tensor) -> Tensor:  # changes x, as an in-place ReLU does
        x = to_bytes(x, self._step)
        if self._native:
            return self._multiplied(x)
        sums = self._summed(x.float())
        scale = (self._steps * self._step).view(-1, *[1] * (sums.dim() - 2))
        values = sums * scale + self._bias.view(scale.shape)
        return values if self._out_step is None else to_bytes(values, self._out_step)

    def _output(self) -> tuple[float, int, torch.dtype]:
        """Scale, zero point and type of the output, as the operators take them."""
        return (1.0, 0, torch.float32) if self._out_step is None else (self._out_step, 0, torch.uint8)

    def _packed(self, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def _multiplied(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _summed(self, x: Tensor) -> Tensor:
        raise NotImplementedError


@functools.cache
def uses_operators() -> bool:
    """Whether oneDNN multiplies: on a processor with VNNI, where its sums are right.

    torch calls these operators itself (torch.compile, torchao), but does not document them.
    """
    if not has_int8():
        return False
    try:
        right = all(
            _sums_are_right(kind, out_step) for kind in (Int8Conv2d, Int8Linear) for out_step in (None, TRIED_STEP)
        )
    except (RuntimeError, TypeError, AttributeError) as error:
        log.info("oneDNN's operators for 8 bits: %s", error)
        right = False
    if not right:
        log.warning("this torch does not multiply bytes as expected: `precision=int8` takes float32 for it, and longer")
    return right


@torch.inference_mode()
def _sums_are_right(kind: type[Int8Conv2d] | type[Int8Linear], out_step: float | None) -> bool:
    """Whether an operator's values equal those of whole numbers in float32, where all of these are exact."""
    layer: Any  # without random values: torch's generator stays as it is
    if kind is Int8Conv2d:
        layer = skip_init(nn.Conv2d, TRIED_INPUTS, TRIED_OUTPUTS, 3, padding=1, dtype=torch.float32)
        shape: tuple[int, ...] = (3, TRIED_INPUTS, 3, 3)
    else:
        layer = skip_init(nn.Linear, TRIED_INPUTS, TRIED_OUTPUTS, dtype=torch.float32)
        shape = (3, TRIED_INPUTS)
    x = (torch.arange(math.prod(shape)) * 91 % (LEVELS + 1)).to(torch.uint8).view(shape)
    x[0] = LEVELS  # pairs of products that overflow 16 bits
    x[1] = x[1] > 240  # few, so that sums fit into a byte
    weight = torch.arange(layer.weight.numel()).view(layer.weight.shape) * 37 % LEVELS - WEIGHT_LEVELS
    weight[0] = WEIGHT_LEVELS
    weight.flatten(1)[:, 0] = WEIGHT_LEVELS  # each channel's largest, so that its step is the factor below
    factors = torch.arange(TRIED_OUTPUTS, dtype=torch.float32) % 2 + 1
    layer.weight.copy_(weight * factors.view(-1, *[1] * (weight.dim() - 1)))
    layer.bias.copy_(torch.arange(TRIED_OUTPUTS, dtype=torch.float32) - 4)
    ours, exact = (kind(layer, TRIED_STEP, out_step, native=native)(x.clone()) for native in (True, False))
    return ours.dtype == exact.dtype and torch.allclose(ours.float(), exact.float(), rtol=1e-6, atol=0)


class Int8Conv2d(_Int8):
    """A convolution of stride 1: (N, C, H, W) float32 or uint8 -> (N, K, H, W)."""

    def __init__(self, layer: nn.Conv2d, step: float, out_step: float | None, *, native: bool | None = None) -> None:
        self._padding = [int(side) for side in layer.padding]
        super().__init__(layer, step, out_step, native=native)

    def _packed(self, weight: Tensor) -> Tensor:
        ones = [1, 1]
        packed: Tensor = torch.ops.onednn.qconv_prepack(
            weight, self._steps, self._step, 0, ones, self._padding, ones, 1, None
        )
        return packed

    def _multiplied(self, x: Tensor) -> Tensor:
        ones = [1, 1]
        out: Tensor = torch.ops.onednn.qconv2d_pointwise(
            *(x.contiguous(memory_format=torch.channels_last), self._step, 0, self._weight, self._steps, self._zeros),
            *(self._bias, ones, self._padding, ones, 1, *self._output(), "none", [], ""),
        )
        return out

    def _summed(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self._weight, padding=self._padding)


class Int8Linear(_Int8):
    """A fully-connected layer: (M, C) float32 or uint8 -> (M, K)."""

    def _packed(self, weight: Tensor) -> Tensor:
        packed: Tensor = torch.ops.onednn.qlinear_prepack(weight, None)
        return packed

    def _multiplied(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(x.contiguous(), self._step, 0, self._weight, self._steps, self._zeros, self._bias),
            *(*self._output(), "none", [], ""),
        )
        return out

    def _summed(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight)


class ByteMaxPool2d(nn.MaxPool2d):
    """The nets' 2x2 pooling of stride 2 that rounds up; torch's own takes no large uint8 maps (2.15)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
        if x.dtype != torch.uint8:
            return super().forward(x)
        rows = larger_of_pairs(x.permute(0, 2, 3, 1), 1)
        return larger_of_pairs(rows, 2).permute(0, 3, 1, 2)
