"""The classes of several nets and a data set, brought into one order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vggfeat.datasets import Dataset, Sample
from vggfeat.errors import DatasetError, UsageError
from vggfeat.system.numbers import number_of

if TYPE_CHECKING:
    from vggfeat.nets.networks import VGG


def places(wanted: Sequence[str], names: Sequence[str]) -> tuple[NDArray[np.intp], str | None]:
    """Positions of the wanted classes in `names`: (K,), and None; or an empty array and the first that is missing."""
    place = {name: position for position, name in enumerate(names)}
    lacking = next((name for name in wanted if name not in place), None)
    return np.array([] if lacking is not None else [place[name] for name in wanted], dtype=np.intp), lacking


def aligned(images: Dataset, nets: Sequence[VGG]) -> tuple[Dataset, list[NDArray[np.intp]]]:
    """The data set with the K classes that the nets score, and for each net which of its outputs is each of them.

    The data set's classes come first, in its order, so that its labels stay; then those that only the nets know. A
    net that names its outputs must have every class; one that does not has the data set's classes in their order (for
    ILSVRC that of the sorted wnids, as all published nets have them).

    Raises DatasetError, naming the net and the first class that it lacks, and UsageError for a net without
    fully-connected layers.
    """
    named = [name for net in nets for name in net.class_names]
    class_names = tuple(dict.fromkeys((*images.class_names, *named)))
    columns = []
    for net in nets:
        what = f"net {net.net} ({net.weights_name})"
        net.need("scores")
        if net.class_names and len(net.class_names) != net.num_classes:
            outputs, names = number_of(net.num_classes, "output"), number_of(len(net.class_names), "class name")
            raise UsageError(f"{what} has {outputs} and {names}: name those of its last layer")
        if net.class_names:
            its_columns, lacking = places(class_names, net.class_names)
            if lacking is not None:
                source = images.name if lacking in images.class_names else "another net"
                raise DatasetError(f"{what} has no class {lacking!r}, which {source} has")
            columns.append(its_columns)
        elif net.num_classes == len(class_names) == len(images.class_names):
            columns.append(np.arange(net.num_classes))
        else:
            there = f"{images.name} has {len(class_names)}" if class_names else f"{images.name} names none here either"
            raise DatasetError(f"{what} scores {number_of(net.num_classes, 'class')} without naming them, and {there}")
    return replace(images, class_names=class_names), columns


def columns_of(wanted: Sequence[str], names: Sequence[str], of: str) -> NDArray[np.intp]:
    """Which of a net's classes each wanted one is: (K,). Raises UsageError where the two sets of classes differ."""
    if set(wanted) != set(names):
        odd = min(set(wanted) ^ set(names))
        raise UsageError(
            f"{of} has {number_of(len(names), 'class')}, the first localisation net {len(wanted)}: "
            f"{odd!r} is in one alone"
        )
    return places(wanted, names)[0]


def relabelled(dataset: Dataset, class_names: Sequence[str]) -> tuple[Sample, ...]:
    """The samples with their classes' places in a net's `class_names` as labels.

    Raises DatasetError for a class that the net lacks.
    """
    labels, lacking = places(dataset.class_names, class_names)
    if lacking is not None:
        raise DatasetError(f"the localisation net has no class {lacking!r}, which {dataset.name} has")
    return tuple(
        sample if sample.labels is None else replace(sample, labels=int(labels[sample.labels]))
        for sample in dataset.samples
    )


def class_numbers(class_names: Sequence[str], numbers: Mapping[str, int]) -> NDArray[np.int64]:
    """ILSVRC2012_ID of each class: (K,), from IDs by wnid. Raises DatasetError for a class that has no ID."""
    strange = next((name for name in class_names if name not in numbers), None)
    if strange is not None:
        raise DatasetError(f"class {strange!r} has no ILSVRC2012_ID, so no submission can name it")
    return np.array([numbers[name] for name in class_names], dtype=np.int64)
