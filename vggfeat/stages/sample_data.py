"""Sample data for quickstart: scikit-learn's handwritten digits as PNG files in class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vggfeat.datasets.folder import load_folder
from vggfeat.datasets.images import decode, write_png
from vggfeat.store import DescriptorWriter
from vggfeat.store.pooling import Described, normalise

PER_CLASS_TRAIN = 90
PER_CLASS_SVM = 80
"""Digits a class for the net, and others for the SVM: of 174 to 183 in the set."""


def write_digits(root: Path) -> tuple[Path, Path]:
    """Writes 8x8 grey PNG files: one tree for training the net, another, of other digits, for the SVM."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    values = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    folders = root / "for-the-net", root / "digits"
    for label in range(10):
        rows = np.flatnonzero(digits.target == label)
        parts = rows[:PER_CLASS_TRAIN], rows[PER_CLASS_TRAIN : PER_CLASS_TRAIN + PER_CLASS_SVM]
        for folder, part in zip(folders, parts, strict=True):
            (folder / str(label)).mkdir(parents=True)
            for row in part:
                write_png(folder / str(label) / f"{row:04}.png", values[row])
    return folders


def write_pixels(folder: Path, output: Path) -> Path:
    """The raw pixels of the SVM's digits as a descriptor file: the yardstick that needs no net at all."""
    dataset = load_folder(folder)
    pixels = np.stack([np.asarray(decode(sample.path))[..., 0].ravel() for sample in dataset.samples])
    values = normalise(pixels.astype(np.float32))
    settings = {
        "nets": [{"net": "pixels", "weights": "none", "weights_sha256": "none", "width": 1.0, "preprocessing": {}}],
        "scales": (8,),
        "aggregate": "stack",
        "flip": False,
        "layer": "pixels",
        "region": "image",
        "exif": True,
        "precision": "fp32",
    }
    with DescriptorWriter(output, dataset, settings, dim=64, layer_dims=(64,)) as writer:
        writer.write(range(len(values)), Described(values, values))
    return output
