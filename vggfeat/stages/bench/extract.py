"""How fast this machine extracts, against its own matrix products and against a plain torchvision loop."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from vggfeat.datasets import images
from vggfeat.datasets.listing import from_paths
from vggfeat.inference.blocks import fill
from vggfeat.inference.calibration import calibrate
from vggfeat.inference.extractor import Extractor
from vggfeat.inference.settings import DescriptorSettings
from vggfeat.nets.catalog import INPUT_SIDE
from vggfeat.nets.networks import VGG
from vggfeat.nets.weights import load_net
from vggfeat.results import Result
from vggfeat.stages.bench.problems import Measured
from vggfeat.stages.bench.yardsticks import (
    SIZES,
    TORCHVISION_NAMES,
    flops,
    machine,
    make_photos,
    matrix_rate,
    torchvision_net,
)
from vggfeat.store import DescriptorWriter, read_descriptors
from vggfeat.system.bars import Progress
from vggfeat.system.devices import resolve_precision

ROUNDS = 3
"""Runs of everything that is timed: the medians count, because other work slows a machine now and then."""


@dataclass(frozen=True)
class ExtractRow(Result):
    """The speed up to one layer in one number format: medians of the runs."""

    layer: Measured
    precision: str
    images_per_second: float
    tflops: float
    """10^12 multiplications and additions a second, of the nets alone."""
    matrix_tflops: float
    """Of products of large matrices in the same format."""
    share_of_matrix_rate: float
    times_plain_torchvision: float | None = None
    """None for a net that torchvision does not have."""
    least_cosine_to_plain: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain data, without the plain loop's figures where there is no such loop."""
        return {name: value for name, value in super().as_json().items() if value is not None}


@dataclass(frozen=True)
class ExtractBench(Result):
    """How fast a machine extracts."""

    net: str
    width: float
    scales: tuple[int, ...]
    flip: bool
    images: int
    """Images a run."""
    rounds: int
    machine: dict[str, Any]
    plain_torchvision_images_per_second: dict[Measured, float]
    """By layer; empty for a net that torchvision does not have."""
    loader_images_per_second: float
    """Of decoding and rescaling alone, on one core."""
    runs: tuple[ExtractRow, ...]
    """One for each layer and precision."""

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return super().as_json() | {"scales": list(self.scales), "runs": [row.as_json() for row in self.runs]}


def bench_extract(
    net: str = "D",
    *,
    scales: Sequence[int] = (256,),
    layers: Sequence[Measured] = ("fc7",),
    precisions: Sequence[str] = ("auto",),
    number: int = 24,
    plain: int = 6,
    paths: Sequence[str] = (),
    width: float = 1.0,
    device: str | None = None,
    rounds: int = ROUNDS,
    progress: Progress | None = None,
) -> ExtractBench:
    """Images/s from JPEG files to an HDF5 file, flips included.

    Beside them stand a plain loop (torchvision's module, NCHW, fp32, one image at a time) and the machine's own matrix
    products.

    Args:
        net: a net of Table 1, with random weights.
        scales: smallest sides Q; all of them for each image.
        layers: layers to extract, each in runs of its own.
        precisions: number formats to try.
        number: images a run. plain: how many of them the slower plain loop takes.
        paths: images to use in place of photographs that scikit-learn ships, cut to the sizes of SIZES.
        width: factor on the net's channels.
        rounds: runs of everything that is timed; the medians count.
        progress: called with (runs done, runs, 0).
    """
    tick = progress or (lambda done, total, failed: None)
    with tempfile.TemporaryDirectory(prefix="vggfeat-bench-") as folder:
        files = (list(paths) or make_photos(Path(folder), number))[:number]
        model = load_net(net, None, width=width, device=device)
        place = next(model.parameters()).device
        formats = list(dict.fromkeys(resolve_precision(precision, place) for precision in precisions))
        wanted = list(dict.fromkeys(layers))
        plain_layers = wanted if net in TORCHVISION_NAMES else []
        yardsticks = {layer: _PlainLoop(model, files[:plain], scales, layer) for layer in plain_layers}
        for _ in range(rounds):  # before an extractor changes how the process allocates, which speeds it up too
            for yardstick in yardsticks.values():
                yardstick.measure()
        runs = [
            _Extraction(model, layer, precision, files, scales, Path(folder))
            for layer in wanted
            for precision in formats
        ]
        for done in range(rounds):
            tick(done, rounds, 0)
            for run in runs:
                run.measure()
        tick(rounds, rounds, 0)
        return ExtractBench(
            net=net,
            width=width,
            scales=tuple(scales),
            flip=True,
            images=len(files),
            rounds=rounds,
            machine=machine(place),
            plain_torchvision_images_per_second={layer: loop.rate for layer, loop in yardsticks.items()},
            loader_images_per_second=_loader_rate(files, scales),
            runs=tuple(run.figures(yardsticks.get(run.layer)) for run in runs),
        )


class _Extraction:
    """Extraction of one layer in one precision, and matrix products in the same."""

    def __init__(
        self, model: VGG, layer: Measured, precision: str, files: list[str], scales: Sequence[int], folder: Path
    ) -> None:
        self.layer = layer
        self._output = folder / f"{layer}-{precision}.h5"
        self._dataset = from_paths(files)
        self._model, self._precision = model, precision
        model.precision = precision
        self._settings = DescriptorSettings(scales=tuple(scales), layers=(layer,))
        calibrate([model], self._dataset.samples, scales, head=self._settings.has_head)
        self._extractor = Extractor([model], self._settings, workers=torch.get_num_threads())
        self._provenance = self._extractor.provenance()  # hashes random weights, which is no part of the speed
        self._extractor.describe(self._dataset.samples[: len(SIZES)])  # one image of each size, to warm up
        self._rates: list[float] = []
        self._matrix_rates: list[float] = []

    def measure(self) -> None:
        """One run from files to HDF5."""
        extractor = self._extractor
        start = time.perf_counter()
        with DescriptorWriter(
            self._output,
            self._dataset,
            self._provenance,
            dim=extractor.dim,
            layer_dims=extractor.layer_dims,
            overwrite=True,
        ) as writer:
            fill(writer, extractor)
        self._rates.append(len(self._dataset.samples) / (time.perf_counter() - start))
        self._matrix_rates.append(matrix_rate(self._precision, next(self._model.parameters()).device))

    def figures(self, yardstick: _PlainLoop | None) -> ExtractRow:
        """The medians."""
        self._extractor.close()
        files = [sample.path for sample in self._dataset.samples]
        model = self._model
        work = sum(
            2 * flops(model.spec, *_size(path, Q), model.width, self.layer)
            for path in files
            for Q in self._settings.scales
        )
        rate, peak = statistics.median(self._rates), statistics.median(self._matrix_rates)
        speed = rate * work / len(files)
        times = cosine = None
        if yardstick is not None:
            expected = yardstick.descriptors
            described = read_descriptors(self._output).read(range(len(expected)))
            times, cosine = rate / yardstick.rate, float((described * expected).sum(1).min())
        return ExtractRow(self.layer, self._precision, rate, speed / 1e12, peak / 1e12, speed / peak, times, cosine)


class _PlainLoop:
    """The usual loop with torchvision up to one layer: NCHW, fp32, one image at a time."""

    def __init__(self, model: VGG, files: list[str], scales: Sequence[int], layer: Measured) -> None:
        self._files, self._scales, self._layer = files, scales, layer
        self._device = next(model.parameters()).device
        self._net = torchvision_net(model).eval()
        for module in self._net.modules():
            if isinstance(module, torch.nn.MaxPool2d):
                module.ceil_mode = True  # the same descriptor, with no border dropped
        self._mean = torch.tensor(model.preprocessing.mean, device=self._device).view(3, 1, 1)
        self._rates: list[float] = []
        self.descriptors = self._describe(files[0])[None]  # to warm up

    @property
    def rate(self) -> float:
        """Images/s."""
        return statistics.median(self._rates)

    def measure(self) -> None:
        """One run from files to descriptors (n, D)."""
        start = time.perf_counter()
        self.descriptors = np.stack([self._describe(path) for path in self._files])
        self._rates.append(len(self._files) / (time.perf_counter() - start))

    @torch.inference_mode()
    def _describe(self, path: str) -> NDArray[np.float32]:
        picture = images.decode(path)
        per_scale = []
        for Q in self._scales:
            x = torch.from_numpy(images.rescale(picture, Q).copy()).permute(2, 0, 1).to(self._device).float()
            x = (x - self._mean)[None].contiguous()
            views = [self._pooled(view) for view in (x, x.flip(3))]
            per_scale.append((views[0] + views[1]) / 2)
        stacked = torch.cat(per_scale)
        return (stacked / stacked.norm()).cpu().numpy()

    def _pooled(self, x: torch.Tensor) -> torch.Tensor:
        y = self._net.features(x)
        if self._layer == "pool5":
            return y.mean((2, 3))[0]
        fc6, fc7 = self._net.classifier[0], self._net.classifier[3]
        y = F.relu(F.conv2d(y, fc6.weight.view(fc6.out_features, -1, 7, 7), fc6.bias))
        y = F.relu(F.conv2d(y, fc7.weight[:, :, None, None], fc7.bias))
        return y.mean((2, 3))[0]


def _loader_rate(files: list[str], scales: Sequence[int]) -> float:
    """Images/s of decoding and rescaling alone, on one core."""
    start = time.perf_counter()
    for path in files:
        picture = images.decode(path)
        for Q in scales:
            images.rescale(picture, Q)
    return len(files) / (time.perf_counter() - start)


def _size(path: str, Q: int) -> tuple[int, int]:
    picture = images.decode(path)
    return images.rescaled_size(picture.width, picture.height, max(Q, INPUT_SIDE))
