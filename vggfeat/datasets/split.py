"""The images to train, validate and test on: a data set's own parts, or a part held out by a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from vggfeat.datasets import load_dataset
from vggfeat.datasets.origin import Origin
from vggfeat.datasets.sample import Dataset, Sample
from vggfeat.errors import DatasetError, UsageError, unknown_name
from vggfeat.system.arguments import with_checked_arguments
from vggfeat.system.numbers import number_of
from vggfeat.system.text import name_bytes
from vggfeat.system.values import real, whole


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
    origin: Origin | None = field(default=None, compare=False)
    """None for samples that a program made."""

    def __repr__(self) -> str:
        parts = f"{number_of(len(self.train), 'image')} to train on, {len(self.val)} to validate with"
        return f"<TrainingSet {self.name}: {parts}, {number_of(len(self.class_names), 'class')}>"


def data_digest(dataset: TrainingSet) -> str:
    """A hash of the images' ids, labels and order and of the class names."""
    digest = hashlib.sha256(name_bytes("\n".join(dataset.class_names)))
    for part in (dataset.train, dataset.val):
        for sample in part:
            digest.update(name_bytes(f"\n{sample.id}\t{sample.labels}"))
    return digest.hexdigest()


@with_checked_arguments
def load_training_set(
    name: str, data: str | Path, *, fraction: float = 0.1, seed: int = 0, boxes: bool = False
) -> TrainingSet:
    """A single-label data set, split for training.

    Args:
        name: as `load_dataset` takes it.
        data: the data root; for "folder" the tree of classes, or a folder that holds `train/` and `val/`.
        fraction: without a validation part, the share (rounded, at least one image) of each class with two or more
            images that is held out.
        seed: draws these images.
        boxes: for localisation; images without a bounding box are left out.

    Raises DatasetError for data that are missing or too few, UsageError for a multi-label data set, for localisation
    on one without boxes, and for a fraction that is not between 0 and 1.
    """
    root, seed = Path(data), whole("seed", seed, 0)
    if not 0 < real("fraction", fraction) < 1:
        raise UsageError(f"the fraction {fraction!r} to hold out is not between 0 and 1")
    dataset = _located(name, data) if boxes else load_dataset(name, data)
    if any(not isinstance(sample.labels, int) for sample in dataset.samples):
        raise UsageError(f"{name} has several labels an image; training takes data sets with one class an image")
    if len(dataset.class_names) < 2:
        raise DatasetError(
            f"{root}: {number_of(len(dataset.class_names), 'class')}; a classifier is trained on two or more"
        )
    val = tuple(sample for sample in dataset.samples if sample.subset == "val")
    train = tuple(sample for sample in dataset.samples if sample.subset in ("train", ""))
    held_out = not val
    if held_out:
        train, val = _hold_out(train, fraction, seed)
    if not train or not val:
        raise DatasetError(
            f"{root}: {number_of(len(train), 'image')} to train on and {len(val)} to validate with: each needs some"
        )
    return TrainingSet(dataset.name, train, val, dataset.class_names, dataset.exif, held_out, dataset.origin)


def _located(name: str, data: str | Path) -> Dataset:
    """The images with a bounding box."""
    if name != "ilsvrc2012":
        raise UsageError(f"{name} has no bounding boxes; localisation is trained on ilsvrc2012")
    dataset = load_dataset(name, data, boxes=True)
    return replace(dataset, samples=tuple(sample for sample in dataset.samples if sample.boxes))


Subset = Literal["val", "test", "train", "all"]
SUBSETS: tuple[Subset, ...] = get_args(Subset)


def load_evaluation_set(name: str, data: str | Path, subset: Subset = "val") -> Dataset:
    """A data set to test a classifier on; `evaluation_part` then selects the part.

    Raises DatasetError for data that are missing, UsageError for a multi-label data set.
    """
    if name == "ilsvrc2012":
        return load_dataset(name, data, parts=None if subset == "all" else (subset,))
    dataset = load_dataset(name, data)
    if any(isinstance(sample.labels, tuple) for sample in dataset.samples):
        raise UsageError(f"{name} has several labels an image; top-1 and top-5 errors take one class an image")
    return dataset


Records = Sequence[Mapping[str, Any]]
"""The training records of nets' checkpoints."""


def evaluation_part(dataset: Dataset, subset: Subset, records: Records) -> Dataset:
    """The images of a part; without a validation part, those that the training of every net held out.

    Args:
        dataset: from `load_evaluation_set`.
        subset: the part; "all" is every image.
        records: of the nets to evaluate.

    Raises UsageError where the part is empty, DatasetError where a net was trained on a different set of images.
    """
    if subset not in SUBSETS:
        raise unknown_name("subset", subset, SUBSETS)
    if subset == "all":
        return dataset
    chosen = tuple(sample for sample in dataset.samples if sample.subset == subset)
    if not chosen and subset == "val":
        chosen = _as_held_out(dataset, records)
    if not chosen:
        raise UsageError(f"{dataset.name} has no {subset} images here: `subset=all` takes all of its images")
    return replace(dataset, samples=chosen)


def own_part(dataset: Dataset, subset: Subset, records: Records) -> Dataset:
    """`evaluation_part` of a Dataset that a program made: where its samples name no subsets and no net was trained on
    it, "val" is every image.
    """
    named = any(sample.subset for sample in dataset.samples)
    if subset == "val" and not named and not _as_held_out(dataset, records):
        return dataset
    return evaluation_part(dataset, subset, records)


def _as_held_out(dataset: Dataset, records: Records) -> tuple[Sample, ...]:
    """The images that training on this data set held out, of every net whose record tells; empty where none does."""
    parts = [part for part in (_held_out(dataset, record) for record in records) if part]
    if not parts:
        return ()
    common = set.intersection(*({sample.id for sample in part} for part in parts))
    if not common:
        raise UsageError(
            f"the nets' training held out different images of {dataset.name}, none by all of them: `subset=all` takes "
            "them all"
        )
    return tuple(sample for sample in parts[0] if sample.id in common)


def _held_out(dataset: Dataset, record: Mapping[str, Any]) -> tuple[Sample, ...]:
    """The images that a net's training on this data set held out; empty where its record does not tell."""
    recipe = record.get("recipe", {})
    if record.get("dataset") != dataset.name or not {"data", "seed"} <= set(recipe):
        return ()
    train = tuple(sample for sample in dataset.samples if sample.subset in ("train", ""))
    kept, held_out = _hold_out(train, recipe["data"]["validation_fraction"], recipe["seed"])
    there = (record["train_images"], record["validation_images"])
    if (len(kept), len(held_out)) != there:
        here = number_of(len(train), "image")
        raise DatasetError(
            f"the net was trained on {number_of(there[0], 'image')} of {dataset.name}, with {there[1]} held out; here "
            f"{'is' if len(train) == 1 else 'are'} {here}, so the ones it has not seen are unknown: `subset=all` takes "
            "them all"
        )
    same = data_digest(TrainingSet(dataset.name, kept, held_out, dataset.class_names, dataset.exif, held_out=True))
    if record.get("images_sha256", same) != same:  # older checkpoints do not tell
        raise DatasetError(
            f"the net was trained on other images of {dataset.name} than these (some have another name or class), so "
            "the ones it has not seen are unknown: `subset=all` takes them all"
        )
    return held_out


def _hold_out(samples: tuple[Sample, ...], fraction: float, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """(the samples kept, the samples held out), both in the list's order."""
    labels = np.array([sample.labels for sample in samples])
    random = np.random.default_rng(seed)
    drawn: set[int] = set()
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        drawn.update(random.permutation(rows)[:count].tolist())
    kept = tuple(sample for row, sample in enumerate(samples) if row not in drawn)
    return kept, tuple(samples[row] for row in sorted(drawn))
