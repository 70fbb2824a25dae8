"""Data sets on disk as lists of samples: one file a data set, and the registry of names."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from vggfeat.datasets.origin import Origin
from vggfeat.datasets.sample import Dataset, Sample
from vggfeat.errors import unknown_name

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


def load_dataset(name: str, data_root: str | Path, **options: Any) -> Dataset:
    """Reads a data set from disk: its samples with labels, boxes and subsets, and its classes.

    Args:
        name: one of NAMES.
        data_root: the folder that holds `caltech101/`, `VOCdevkit/` and so on; for "folder" the `<class>/*.jpg`
            tree itself, or a CSV of path,label.
        options: passed to the data set's own reader.

    Raises UsageError for an unknown name, DatasetError if the data are missing or not laid out as expected.
    """
    if name not in _READERS:
        raise unknown_name("data set", name, NAMES)
    module, function = _READERS[name]
    dataset: Dataset = getattr(importlib.import_module(f"vggfeat.datasets.{module}"), function)(data_root, **options)
    return replace(dataset, origin=Origin(data=str(data_root)))
