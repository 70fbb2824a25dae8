"""How fast this machine extracts, against its own matrix products and against a plain torchvision loop."""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from vggfeat import images
from vggfeat.catalog import INPUT_SIDE, Conv, NetSpec, scaled
from vggfeat.datasets.listing import from_paths
from vggfeat.dense import DTYPES
from vggfeat.devices import resolve_device, resolve_precision
from vggfeat.extractor import DescriptorSettings, Extractor
from vggfeat.networks import VGG
from vggfeat.pipeline import fill
from vggfeat.store import DescriptorWriter, read_descriptors
from vggfeat.weights import load_net

TORCHVISION_NAMES = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}
SIZES = ((500, 375), (375, 500), (640, 427), (300, 200), (480, 360), (512, 512))
"""Widths and heights of the made-up set: those of photographs on the web."""


def bench_extract(
    net: str = "D",
    *,
    scales: Sequence[int] = (256,),
    precisions: Sequence[str] = ("auto",),
    number: int = 24,
    plain: int = 6,
    paths: Sequence[str] = (),
    device: str | None = None,
    progress: Callable[[int, int, int], None] | None = None,
) -> dict[str, Any]:
    """Images/s from JPEG files to an HDF5 file, flips included.

    Args:
        net: a net of Table 1, with random weights.
        scales: smallest sides Q; all of them for each image.
        precisions: number formats to try.
        number: images a run, `plain` of them for the slower plain loop. paths: images to use in place of photographs
            that scikit-learn ships, cut to the sizes of SIZES.
        progress: called with (runs done, runs, 0).

    Returns:
        Plain data: per precision images/s, its FLOP/s and their share of the machine's matrix rate; the plain loop's
        images/s (torchvision's module, NCHW, fp32, one image at a time) and the ratios to it; cosine to its result.
    """
    tick = progress or (lambda done, total, failed: None)
    with tempfile.TemporaryDirectory(prefix="vggfeat-bench-") as folder:
        files = list(paths) or make_photos(Path(folder), number)
        files = files[:number]
        rows = []
        model = load_net(net, None, device=device)
        reference = _plain_loop(model, files[:plain], scales) if net in TORCHVISION_NAMES else None
        tick(1, len(precisions) + 1, 0)
        for done, precision in enumerate(precisions, start=2):
            model.precision = resolve_precision(precision, resolve_device(device))
            rows.append(_measured(model, files, scales, Path(folder) / f"{precision}.h5", reference))
            tick(done, len(precisions) + 1, 0)
        loader = _loader_rate(files, scales)
    return {
        "net": net,
        "scales": list(scales),
        "flip": True,
        "images": len(files),
        "machine": _machine(model),
        "plain_torchvision_images_per_second": reference[0] if reference else None,
        "loader_images_per_second": loader,
        "runs": rows,
    }


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


def _measured(
    model: VGG, files: list[str], scales: Sequence[int], output: Path, reference: tuple[float, NDArray[Any]] | None
) -> dict[str, Any]:
    """One run from files to HDF5, after a warm-up of one image of each size."""
    dataset = from_paths(files)
    extractor = Extractor([model], DescriptorSettings(scales=tuple(scales)), workers=torch.get_num_threads())
    extractor.describe(dataset.samples[: len(SIZES)])
    start = time.perf_counter()
    with DescriptorWriter(
        output, dataset, extractor.provenance(), dim=extractor.dim, layer_dims=extractor.layer_dims
    ) as writer:
        fill(writer, extractor)
    seconds = time.perf_counter() - start
    extractor.close()
    work = sum(2 * flops(model.spec, *_size(path, Q), model.width) for path in files for Q in scales)
    peak = matrix_rate(model.precision, next(model.parameters()).device)
    rate = len(files) / seconds
    row: dict[str, Any] = {
        "precision": model.precision,
        "images_per_second": rate,
        "tflops": work / seconds / 1e12,
        "matrix_tflops": peak / 1e12,
        "share_of_matrix_rate": work / seconds / peak,
    }
    if reference:
        expected = reference[1]
        described = read_descriptors(output).read(range(len(expected)))
        row["times_plain_torchvision"] = rate / reference[0]
        row["least_cosine_to_plain"] = float((described * expected).sum(1).min())
    return row


def _plain_loop(model: VGG, files: list[str], scales: Sequence[int]) -> tuple[float, NDArray[np.float32]]:
    """(images/s, descriptors) of what one would write with torchvision: NCHW, fp32, one image at a time."""
    import torchvision  # the yardstick alone

    device = next(model.parameters()).device
    net = getattr(torchvision.models, TORCHVISION_NAMES[model.net])(weights=None)
    net.load_state_dict(model.state_dict())
    net = net.to(device).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.MaxPool2d):
            module.ceil_mode = True  # the same descriptor, with no border dropped
    mean = torch.tensor(model.preprocessing.mean, device=device).view(3, 1, 1)
    fc6, fc7 = net.classifier[0], net.classifier[3]

    @torch.inference_mode()
    def describe(path: str) -> NDArray[np.float32]:
        picture = images.decode(path)
        per_scale = []
        for Q in scales:
            x = torch.from_numpy(images.rescale(picture, Q).copy()).permute(2, 0, 1).to(device).float()
            x = (x - mean)[None].contiguous()
            views = []
            for view in (x, x.flip(3)):
                y = net.features(view)
                y = F.relu(F.conv2d(y, fc6.weight.view(fc6.out_features, -1, 7, 7), fc6.bias))
                y = F.relu(F.conv2d(y, fc7.weight[:, :, None, None], fc7.bias))
                views.append(y.mean((2, 3))[0])
            per_scale.append((views[0] + views[1]) / 2)
        stacked = torch.cat(per_scale)
        return (stacked / stacked.norm()).cpu().numpy()

    describe(files[0])
    start = time.perf_counter()
    descriptors = np.stack([describe(path) for path in files])
    return len(files) / (time.perf_counter() - start), descriptors


def _loader_rate(files: list[str], scales: Sequence[int]) -> float:
    """Images/s of decoding and rescaling alone, on one core."""
    start = time.perf_counter()
    for path in files:
        picture = images.decode(path)
        for Q in scales:
            images.rescale(picture, Q)
    return len(files) / (time.perf_counter() - start)


def matrix_rate(precision: str, device: torch.device, side: int | None = None) -> float:
    """FLOP/s of products of square matrices in that number format: the median of five."""
    side = side or (8192 if device.type == "cuda" else 4096)
    a = torch.randn(side, side, device=device).to(DTYPES[precision])
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    torch.backends.cuda.matmul.allow_tf32 = allowed
    return 2 * side**3 / statistics.median(seconds[1:])


def flops(spec: NetSpec, width: int, height: int, factor: float = 1.0) -> int:
    """Multiplications and additions of one dense run up to fc7 on a picture of width x height pixels."""
    total, channels = 0, 3
    for layer in spec.layers:
        if layer == "M":
            width, height = -(-width // 2), -(-height // 2)
        elif isinstance(layer, Conv):
            out = scaled(layer.channels, factor)
            total += 2 * width * height * channels * out * layer.kernel**2
            channels = out
    hidden = scaled(4096, factor)
    positions = (width - 6) * (height - 6)
    return total + 2 * positions * (channels * 49 * hidden + hidden * hidden)


def _size(path: str, Q: int) -> tuple[int, int]:
    picture = images.decode(path)
    return images.rescaled_size(picture.width, picture.height, max(Q, INPUT_SIDE))


def _machine(model: VGG) -> dict[str, Any]:
    device = next(model.parameters()).device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": str(device), "name": name, "threads": torch.get_num_threads(), "torch": torch.__version__}
