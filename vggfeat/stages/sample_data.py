"""Sample data for quickstart: scikit-learn's handwritten digits as PNG files in class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggfeat.datasets.folder import load_folder
from vggfeat.datasets.images import decode, write_png
from vggfeat.store import DescriptorWriter
from vggfeat.store.pooling import Described, normalise

SEEN, NEW = range(5), range(5, 10)
"""Digits that the net learns, and those that it never sees."""

NEW_PER_CLASS = 60
"""Images of each new digit."""

MARGIN = 1
"""Pixels around the 8x8 digit."""


def write_digits(root: Path) -> tuple[Path, Path]:
    """Writes grey PNG files in class folders below `seen/` (digits 0 to 4) and `new/` (5 to 9); returns both folders.

    A random half of each class is dark on light, the other half light on dark. So single pixels say little about the
    digit, and features have to be learnt.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    rng = np.random.default_rng(0)
    folders = root / "seen", root / "new"
    for folder, labels, most in zip(folders, (SEEN, NEW), (None, NEW_PER_CLASS), strict=True):
        for label in labels:
            rows = np.flatnonzero(digits.target == label)[:most]
            (folder / str(label)).mkdir(parents=True)
            inverted = rng.permutation(len(rows)) < len(rows) // 2
            for row, invert in zip(rows, inverted, strict=True):
                write_png(folder / str(label) / f"{row:04}.png", _drawn(digits.images[row], invert))
    return folders


def _drawn(digit: NDArray[np.float64], invert: bool) -> NDArray[np.uint8]:
    """(8, 8) values from 0 to 16 -> grey pixels with a margin."""
    values = np.pad(digit / 16, MARGIN)
    return np.rint(255 * (1 - values if invert else values)).astype(np.uint8)


def write_pixels(folder: Path, output: Path) -> Path:
    """Writes the raw pixels of a folder's images as a descriptor file: a yardstick that needs no net."""
    dataset = load_folder(folder)
    pixels = np.stack([np.asarray(decode(sample.path))[..., 0].ravel() for sample in dataset.samples])
    values = normalise(pixels.astype(np.float32))
    side, dim = int(np.sqrt(values.shape[1])), values.shape[1]
    settings = {
        "nets": [{"net": "pixels", "weights": "none", "weights_sha256": "none", "width": 1.0, "preprocessing": {}}],
        "scales": (side,),
        "aggregate": "stack",
        "flip": False,
        "layer": "pixels",
        "region": "image",
        "exif": True,
        "precision": "fp32",
    }
    with DescriptorWriter(output, dataset, settings, dim=dim, layer_dims=(dim,)) as writer:
        writer.write(range(len(values)), Described(values, values))
    return output
