"""What a classifier is trained and validated on: a data set's own parts, or a part held out by a seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vggfeat.datasets import load_dataset
from vggfeat.datasets.sample import Dataset, Sample
from vggfeat.errors import DatasetError, UsageError


@dataclass(frozen=True)
class TrainingSet:
    """Two disjoint lists of single-label samples."""

    name: str
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    class_names: tuple[str, ...]
    exif: bool
    held_out: bool
    """Whether the validation part was drawn from the training images."""


def load_training_set(name: str, data: str | Path, *, fraction: float = 0.1, seed: int = 0) -> TrainingSet:
    """A single-label data set, split for training.

    For "folder", `data` may hold `train/` and `val/`, each a `<class>/*.jpg` tree. Where there is no validation part,
    the fraction (rounded, at least one image) of each class with two or more images is held out, drawn by the seed.

    Raises DatasetError for data that are missing or useless for training, UsageError for a multi-label data set.
    """
    root = Path(data)
    if name == "folder" and (root / "train").is_dir() and (root / "val").is_dir():
        dataset = _two_trees(root)
    else:
        dataset = load_dataset(name, data)
    if any(not isinstance(sample.labels, int) for sample in dataset.samples):
        raise UsageError(f"{name} has several labels an image; training takes data sets with one class an image")
    if len(dataset.class_names) < 2:
        raise DatasetError(f"{root}: {len(dataset.class_names)} class; a classifier is trained on two or more")
    val = tuple(sample for sample in dataset.samples if sample.subset == "val")
    train = tuple(sample for sample in dataset.samples if sample.subset in ("train", ""))
    held_out = not val
    if held_out:
        train, val = _hold_out(train, fraction, seed)
    if not train or not val:
        raise DatasetError(f"{root}: {len(train)} images to train on and {len(val)} to validate with: each needs some")
    return TrainingSet(dataset.name, train, val, dataset.class_names, dataset.exif, held_out)


def _two_trees(root: Path) -> Dataset:
    train, val = (load_dataset("folder", root / part) for part in ("train", "val"))
    strange = sorted(set(val.class_names) - set(train.class_names))
    if strange:
        raise DatasetError(f"{root / 'val'}: class {strange[0]!r} is not among the classes of {root / 'train'}")
    samples = [
        Sample(f"{part}/{sample.id}", sample.path, train.class_names.index(names[sample.labels]), subset=part)  # type: ignore[index]
        for part, tree, names in (("train", train, train.class_names), ("val", val, val.class_names))
        for sample in tree.samples
    ]
    return Dataset("folder", tuple(samples), train.class_names, train.exif)


def _hold_out(samples: tuple[Sample, ...], fraction: float, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """The samples without and with the ones drawn; both keep the list's order."""
    labels = np.array([sample.labels for sample in samples])
    random = np.random.default_rng(seed)
    drawn: set[int] = set()
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        drawn.update(random.permutation(rows)[:count].tolist())
    kept = tuple(sample for row, sample in enumerate(samples) if row not in drawn)
    return kept, tuple(samples[row] for row in sorted(drawn))
