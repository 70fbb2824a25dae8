"""Checks of a data set that a program made: what the readers of lists and trees see to by themselves."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

from vggfeat.datasets.sample import SUBSETS, Dataset, Sample
from vggfeat.errors import UsageError


def checked(dataset: Dataset) -> Dataset:
    """The data set, with paths as text and labels as Python's integers.

    Raises UsageError for the first sample that makes no sense, before hours of work end in a file that cannot be read:
    an id that occurs twice, a label that no class has, another subset than the readers know.
    """
    names = list(dataset.class_names)
    odd = [name for name in (dataset.name, *names) if not isinstance(name, str)]
    if odd:
        raise UsageError(f"{odd[0]!r} is not a text: name the data set, and its classes, by texts")
    if not hasattr(dataset.samples, "__len__"):
        raise UsageError(f"the samples are a {type(dataset.samples).__name__}: give a tuple of them")
    twice = _first_repeated(names)
    if twice is not None:
        raise UsageError(f"the class {twice!r} occurs twice among the class names")
    samples = tuple(_checked(row, sample, len(names)) for row, sample in enumerate(dataset.samples))
    twice = _first_repeated([sample.id for sample in samples])
    if twice is not None:
        raise UsageError(f"the id {twice!r} occurs twice: ids tell the images apart")
    several = {isinstance(sample.labels, tuple) for sample in samples if sample.labels is not None}
    if len(several) > 1:
        raise UsageError("some samples have one class and others a label for each class: give all the same")
    changed = any(a is not b for a, b in zip(samples, dataset.samples, strict=True))
    return replace(dataset, samples=samples) if changed else dataset


def _first_repeated(names: Sequence[str]) -> str | None:
    if len(set(names)) == len(names):
        return None
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def _checked(row: int, sample: Any, classes: int) -> Sample:
    if not isinstance(sample, Sample):
        raise UsageError(f"sample {row} is a {type(sample).__name__}: give vggfeat.Sample(id=.., path=..)")
    if not isinstance(sample.id, str) or not sample.id or "\0" in sample.id:
        raise UsageError(f"sample {row} has the id {sample.id!r}: give a text without NUL")
    if not isinstance(sample.path, str | os.PathLike):
        raise UsageError(f"{sample.id!r}: {type(sample.path).__name__} is not a path")
    if sample.subset not in ("", *SUBSETS):
        raise UsageError(f"{sample.id!r} is in the subset {sample.subset!r}: give 'train', 'val', 'test' or ''")
    _check_boxes(sample)
    labels = _labels(sample, classes)
    path = os.fspath(sample.path)
    if path is sample.path and (labels is sample.labels or type(labels) is type(sample.labels) is int):
        return sample
    return replace(sample, path=path, labels=labels)


def _labels(sample: Sample, classes: int) -> int | tuple[int, ...] | None:
    """A sample's labels as integers. numpy's would be kept in the 8 bits of labels by class, which hold few classes."""
    labels: Any = sample.labels
    if labels is None:
        return None
    if _is_whole(labels):
        if not 0 <= labels < classes:
            raise UsageError(f"{sample.id!r} has the label {labels}: classes are counted from 0 to {classes - 1}")
        return int(labels)
    if not isinstance(labels, Iterable) or isinstance(labels, str):
        raise UsageError(f"{sample.id!r} has the label {labels!r}: give the number of a class, or one label for each")
    several = labels if type(labels) is tuple and all(type(one) is int for one in labels) else tuple(labels)
    if len(several) != classes or not all(_is_whole(one) and one in (-1, 0, 1) for one in several):
        raise UsageError(
            f"{sample.id!r} has the labels {several!r}: give 1, 0 (difficult) or -1 for each of the {classes} classes"
        )
    return several if several is labels else tuple(map(int, several))


def _check_boxes(sample: Sample) -> None:
    """Raises UsageError for a box that is not four finite numbers: it would end a run in its middle."""
    boxes = sample.boxes if sample.box is None else [sample.box, *sample.boxes]
    for box in boxes:
        try:
            plain = len(box) == 4 and all(isinstance(side, Real) and math.isfinite(side) for side in box)
        except TypeError:
            plain = False
        if not plain:
            raise UsageError(f"{sample.id!r} has the box {box!r}: give (xmin, ymin, xmax, ymax) in pixels")


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
