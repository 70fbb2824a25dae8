"""Data sets on disk as lists of samples: one file a data set, and the registry of names."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vggfeat.datasets.origin import Origin
from vggfeat.datasets.sample import Dataset, Sample
from vggfeat.errors import UsageError, unknown_name
from vggfeat.system.arguments import with_checked_arguments
from vggfeat.system.values import several

__all__ = ["NAMES", "Dataset", "Sample", "load_dataset"]

_READERS = {
    "caltech101": ("caltech", "load_caltech101"),
    "caltech256": ("caltech", "load_caltech256"),
    "voc2007": ("voc", "load_voc2007"),
    "voc2012": ("voc", "load_voc2012"),
    "voc2012-action": ("voc", "load_voc2012_action"),
    "ilsvrc2012": ("ilsvrc", "load_ilsvrc2012"),
    "folder": ("folder", "load_folder"),
}
"""Data set name -> (module, function), imported on demand."""

NAMES = tuple(_READERS)


@with_checked_arguments
def load_dataset(
    name: str, data_root: str | Path, *, parts: str | Sequence[str] | None = None, boxes: bool = False
) -> Dataset:
    """Reads a data set from disk: its samples with labels, boxes and subsets, and its classes.

    Args:
        name: "caltech101", "caltech256", "voc2007", "voc2012", "voc2012-action", "ilsvrc2012" or "folder".
        data_root: the folder that holds `caltech101/`, `VOCdevkit/` and so on; for "folder" the `<class>/*.jpg`
            tree itself, or a CSV of path,label.
        parts: those of ilsvrc2012 to list, one or several of "train", "val" and "test"; by default "train" and "val".
        boxes: read the bounding boxes of ilsvrc2012 too.

    Raises UsageError for an unknown name and for parts or boxes of another data set, DatasetError if the data are
    missing or not laid out as expected.
    """
    if name not in _READERS:
        raise unknown_name("data set", name, NAMES)
    options = ({} if parts is None else {"parts": several("parts", parts)}) | ({"boxes": True} if boxes else {})
    if options and name != "ilsvrc2012":
        raise UsageError(f"`{next(iter(options))}` goes with ilsvrc2012, not with {name}")
    module, function = _READERS[name]
    dataset: Dataset = getattr(importlib.import_module(f"vggfeat.datasets.{module}"), function)(data_root, **options)
    return replace(dataset, origin=Origin(data=str(data_root)))
