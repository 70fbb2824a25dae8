"""How fast each convolution of a net runs in float32, in each of the ways that inference may take on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from vggfeat.nets import nnpack
from vggfeat.nets.catalog import Conv, net_spec, scaled
from vggfeat.nets.inference_form import Method, has_fast_convolutions, method
from vggfeat.results import Result
from vggfeat.stages.bench.yardsticks import machine
from vggfeat.system.bars import Progress
from vggfeat.system.memory import keep_freed_memory

REPEATS = 5
"""Times each way is measured, in turn with the others; the fastest counts, as other processes only slow it."""


@dataclass(frozen=True)
class LayerRate(Result):
    """One convolution. Rates count the operations of the direct sum, whichever way is taken."""

    layer: str
    channels: int
    out_channels: int
    height: int
    width: int
    gflops: dict[Method, float]
    """10^9 operations per second by way; ways that this machine lacks are left out."""
    chosen: Method
    """The way that inference takes here."""


@dataclass(frozen=True)
class ConvolutionBench(Result):
    """All 3x3 convolutions of a net on one 4:3 picture."""

    net: str
    scale: int
    machine: dict[str, Any]
    layers: tuple[LayerRate, ...]
    times_direct: float
    """Time of the direct sums over the time of the chosen ways, layers together."""

    def as_json(self) -> dict[str, Any]:
        """See Result."""
        return super().as_json() | {"layers": [layer.as_json() for layer in self.layers]}


@torch.inference_mode()
def bench_convolutions(
    net: str = "D",
    *,
    scale: int = 256,
    width: float = 1.0,
    repeats: int = REPEATS,
    progress: Progress | None = None,
) -> ConvolutionBench:
    """Measures the convolutions of a net, one picture of `scale` x 4/3 `scale` pixels, random values.

    Args:
        net: a name of Table 1.
        scale: smallest side Q in pixels.
        width: factor on every layer's channels.
        repeats: times each way is measured.
        progress: called with (layers done, layers, 0).
    """
    spec = net_spec(net)
    keep_freed_memory()  # as extraction does; to map memory anew would take longer than some layers
    layers: list[LayerRate] = []
    channels, height, across = 3, scale, round(scale * 4 / 3)
    names = iter(spec.layer_names)
    for layer in spec.layers:
        if layer == "M":
            next(names)
            height, across = -(-height // 2), -(-across // 2)
        elif isinstance(layer, Conv):
            out, name = scaled(layer.channels, width), next(names)
            if layer.kernel == 3:
                layers.append(_measured(name, channels, out, height, across, repeats))
                if progress is not None:
                    progress(len(layers), sum(conv.kernel == 3 for conv in spec.convs), 0)
            channels = out
    work = [row.channels * row.out_channels * row.height * row.width for row in layers]
    direct = sum(one / row.gflops["direct"] for one, row in zip(work, layers, strict=True))
    chosen = sum(one / row.gflops[row.chosen] for one, row in zip(work, layers, strict=True))
    return ConvolutionBench(spec.name, scale, machine(torch.device("cpu")), tuple(layers), direct / chosen)


def _measured(name: str, channels: int, out: int, height: int, width: int, repeats: int) -> LayerRate:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, channels, height, width, generator=generator)
    weight = torch.randn(out, channels, 3, 3, generator=generator) / (9 * channels) ** 0.5
    bias = torch.zeros(out)
    x_last, weight_last = (one.contiguous(memory_format=torch.channels_last) for one in (x, weight))
    ways: dict[Method, Callable[[], Any]] = {"direct": lambda: F.conv2d(x_last, weight_last, bias, padding=1)}
    if nnpack.is_available():
        filters = nnpack.transformed_filters(weight)
        ways["nnpack"] = lambda: nnpack.convolve(x, filters, bias)
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats + 1):  # the first also warms up
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            best[way] = min(best[way], time.perf_counter() - start)
    operations = 2 * 9 * channels * out * height * width
    chosen = method(channels, out, height * width) if has_fast_convolutions() else "direct"
    rates = {way: round(operations / seconds / 1e9, 1) for way, seconds in best.items()}
    return LayerRate(name, channels, out, height, width, rates, chosen)
