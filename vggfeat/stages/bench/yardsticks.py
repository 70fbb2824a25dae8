"""What speeds are measured against: the machine's own matrix products, work counted by hand, torchvision's module."""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vggfeat.datasets import images
from vggfeat.inference.dense import DTYPES
from vggfeat.nets.catalog import INPUT_SIDE, Conv, NetSpec, scaled
from vggfeat.nets.int8 import LEVELS, Int8Linear, to_bytes
from vggfeat.nets.networks import VGG
from vggfeat.stages.bench.problems import Measured
from vggfeat.system.devices import has_bf16, has_int8, tf32

TORCHVISION_NAMES = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}
SIZES = ((500, 375), (375, 500), (640, 427), (300, 200), (480, 360), (512, 512))
"""Widths and heights of the synthetic set: those of photographs on the web."""


def make_photos(folder: Path, number: int) -> list[str]:
    """Photographs that scikit-learn ships, cut and rescaled to the sizes of SIZES, as JPEG files."""
    from sklearn.datasets import load_sample_images

    sources = load_sample_images().images
    rng = np.random.default_rng(0)
    paths = []
    for i in range(number):
        width, height = SIZES[i % len(SIZES)]
        source = sources[i % len(sources)]
        top, left = (int(rng.integers(0, side // 4)) for side in source.shape[:2])
        path = folder / f"{i:04}.jpg"
        images.write_jpeg(path, source[top:, left:], (width, height))
        paths.append(str(path))
    return paths


def torchvision_net(model: VGG) -> Any:
    """torchvision's own module of a net among TORCHVISION_NAMES: the same width, values and device, in NCHW."""
    from torchvision.models import vgg  # the yardstick alone

    sides = [layer if isinstance(layer, str) else scaled(layer.channels, model.width) for layer in model.spec.layers]
    with torch.device("meta"):
        net = vgg.VGG(vgg.make_layers(sides), init_weights=False)
        for place, layer in enumerate(model.classifier):
            if isinstance(layer, nn.Linear):  # torchvision knows one width alone
                net.classifier[place] = nn.Linear(layer.in_features, layer.out_features)
    net = net.to_empty(device=next(model.parameters()).device)
    net.load_state_dict(model.state_dict())
    return net


def matrix_rate(precision: str, device: torch.device, side: int | None = None) -> float:
    """FLOP/s of products of square matrices in that number format: the median of five."""
    side = side or (8192 if device.type == "cuda" else 4096)
    a = torch.rand(side, side, device=device).to(DTYPES[precision])
    b: Callable[[Tensor], Tensor] = a.matmul
    if precision == "int8":
        a, b = to_bytes(a, 1 / LEVELS), Int8Linear(nn.Linear(side, side), 1 / LEVELS, 1.0)
    seconds = []
    with tf32(device, precision == "tf32"):
        for _ in range(6):
            start = time.perf_counter()
            b(a)
            synchronize(device)
            seconds.append(time.perf_counter() - start)
    return 2 * side**3 / statistics.median(seconds[1:])


def flops(spec: NetSpec, width: int, height: int, factor: float = 1.0, layer: Measured = "fc7") -> int:
    """Multiplications and additions of one dense run up to `layer` on a picture of width x height pixels."""
    trunk, channels, width, height = _trunk(spec, width, height, factor)
    if layer == "pool5":
        return trunk
    hidden = scaled(4096, factor)
    positions = (width - 6) * (height - 6)
    return trunk + 2 * positions * (channels * 49 * hidden + hidden * hidden)


def training_flops(spec: NetSpec, factor: float, classes: int) -> int:
    """Multiplications and additions of one image's part in an update: forward, and backward to weights and inputs.

    Backward is twice forward, but for the first convolution, whose input needs no gradient.
    """
    forward = flops(spec, INPUT_SIDE, INPUT_SIDE, factor) + 2 * scaled(4096, factor) * classes
    first = spec.convs[0]
    return 3 * forward - 2 * INPUT_SIDE**2 * 3 * scaled(first.channels, factor) * first.kernel**2


def _trunk(spec: NetSpec, width: int, height: int, factor: float) -> tuple[int, int, int, int]:
    """(operations, channels, width, height) of the convolutions and of the map that they end with."""
    total, channels = 0, 3
    for layer in spec.layers:
        if layer == "M":
            width, height = -(-width // 2), -(-height // 2)
        elif isinstance(layer, Conv):
            out = scaled(layer.channels, factor)
            total += 2 * width * height * channels * out * layer.kernel**2
            channels = out
    return total, channels, width, height


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def processor() -> str:
    """The CPU's name and what it calculates with: "AMD EPYC (AVX512, bf16, int8)"."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    name = found[1].strip() if found else platform.processor() or platform.machine()
    able = [torch.backends.cpu.get_cpu_capability()]
    able += [precision for precision, has in (("bf16", has_bf16()), ("int8", has_int8())) if has]
    return f"{name} ({', '.join(able)})"


def machine(device: torch.device) -> dict[str, Any]:
    """What a figure was measured on, as plain data."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {"device": str(device), "name": name, "threads": torch.get_num_threads(), "torch": torch.__version__}
