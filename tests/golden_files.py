"""Writes the files in tests/golden, once a format version: `python tests/golden_files.py`. Never write a version anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from making import clusters, settings, write_descriptors

from vggfeat.classifiers.model_file import Model, write_model
from vggfeat.classifiers.protocols.splits import Split, write_splits
from vggfeat.nets.networks import VGG, glorot_, write_checkpoint
from vggfeat.training.state import RunState, last_content

FOLDER = Path(__file__).parent / "golden"


def write() -> None:
    dataset, values = clusters([3, 3], dim=4)
    write_descriptors(FOLDER / "descriptors-v1.h5", dataset, values, failed=[1], pending=[5], keep_scales=True)
    rng = np.random.default_rng(0)
    model = Model(
        rng.random((2, 4), dtype=np.float32),
        rng.random(2, dtype=np.float32),
        np.ones(2),
        ("a", "b"),
        False,
        (settings(scales=[256]),),
        {"dataset": "folder", "mean": 0.5},
    )
    write_model(FOLDER / "model-v1.h5", model)
    net = glorot_(VGG("A", width=1 / 4096, num_classes=2, class_names=("a", "b")), seed=3)
    net.save(FOLDER / "checkpoint-v1.pt")
    write_checkpoint(FOLDER / "last-v1.pt", last_content(net, RunState(step=7, epoch=1)))
    write_splits(FOLDER / "splits-v1.json", "folder", [Split(("a",), ("b",), ("c",), seed=0)])


if __name__ == "__main__":
    write()
