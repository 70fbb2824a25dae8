"""Trees of pictures for tests, descriptor files, written through the store's own writer, and commands on pages."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vggfeat.datasets import Dataset, Sample
from vggfeat.store import DescriptorWriter
from vggfeat.store.pooling import Described, combine

TINY_RECIPE: dict[str, Any] = {
    "net": "A",
    "width": 1 / 64,
    "precision": "fp32",
    "data.dataset": "folder",
    "sgd.batch_size": 4,
    "augment.S": [224, 256],
}
"""Keys of a recipe that trains in seconds on `striped_tree`."""


def settings(net: str = "D", **changes: Any) -> dict[str, Any]:
    """What an extractor would record of one net."""
    nets = [{"net": net, "weights": "oxford", "weights_sha256": f"sha-{net}", "width": 1.0, "preprocessing": {}}]
    recorded = {
        "nets": nets,
        "scales": (256,),
        "aggregate": "stack",
        "flip": True,
        "layer": "fc7",
        "region": "image",
        "exif": False,
        "precision": "fp32",
    }
    return {**recorded, **changes}


def write_descriptors(
    path: Path,
    dataset: Dataset,
    scales: NDArray[np.floating[Any]],
    *,
    failed: Sequence[int] = (),
    pending: Sequence[int] = (),
    nan: Sequence[int] = (),
    keep_scales: bool = False,
    **recorded: Any,
) -> Path:
    """A descriptor file of activations (N, S, D), aggregated as its settings say; some rows spoilt."""
    made = settings(**recorded)
    per_scale = np.asarray(scales, dtype=np.float32)
    n, s, d = per_scale.shape
    made["scales"] = tuple(256 + 128 * i for i in range(s))
    values = combine([per_scale], made["aggregate"])
    values[list(nan)] = np.nan
    kept = per_scale.reshape(n, -1)
    writer = DescriptorWriter(path, dataset, made, dim=values.shape[1], layer_dims=[d], keep_scales=keep_scales)
    with writer as out:
        for row in range(n):
            if row not in pending:
                failures = {0: "cannot be read"} if row in failed else {}
                out.write(range(row, row + 1), Described(values[row : row + 1], kept[row : row + 1], failures))
    return path


def clusters(
    counts: Sequence[int], dim: int = 12, noise: float = 0.6, seed: int = 0, name: str = "folder"
) -> tuple[Dataset, NDArray[np.float64]]:
    """A single-label data set with so many images a class, and activations (N, 1, D) around a centre each."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    names = tuple(f"class{k:03}" for k in range(len(counts)))
    samples = tuple(Sample(f"{names[k]}/{i:04}.jpg", f"{i}.jpg", int(k)) for i, k in enumerate(labels))
    values = np.abs(rng.standard_normal((len(counts), dim))[labels] + noise * rng.standard_normal((len(labels), dim)))
    return Dataset(name, samples, names), values[:, None, :]


def two_classes(folder: Path, number: int) -> Path:
    """A tree of so many small pictures of noise, by turns in the classes a and b."""
    rng = np.random.default_rng(0)
    for i in range(number):
        path = folder / ("ab"[i % 2]) / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
    return folder


def striped_tree(folder: Path) -> Path:
    """Three classes of five pictures, each class with a colour and stripes that tell it from the others."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("blue", "green", "red")):
        (folder / name).mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 60, (24, 30, 3), dtype=np.uint8)
            pixels[:: label + 1, :, 2 - label] += 180
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def dark_and_light(root: Path, count: int) -> Path:
    """A tree of two classes of noise that differ in brightness, `count` pictures each; returns the root."""
    rng = np.random.default_rng(5)
    for label, level in (("dark", 60), ("light", 190)):
        (root / label).mkdir(parents=True)
        for i in range(count):
            values = np.clip(rng.normal(level, 40, (30, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(values).save(root / label / f"{i}.png")
    return root


def commands_on(page: str) -> list[str]:
    """The command lines that a report page shows, as a user copies them."""
    blocks = re.findall(r"<code>(.*?)</code>", page, re.DOTALL)
    return [line for block in blocks for line in html.unescape(re.sub(r"<[^>]+>", "", block)).split("\n")]
