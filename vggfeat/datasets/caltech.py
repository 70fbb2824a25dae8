"""Caltech-101 and Caltech-256: `<class>/<file>.jpg`, one class an image, without subsets (Appendix B)."""

from __future__ import annotations

import os
from pathlib import Path

from vggfeat.datasets.sample import Dataset, Sample
from vggfeat.errors import DatasetError
from vggfeat.system.numbers import number_of
from vggfeat.system.text import name_bytes


def load_caltech101(data_root: str | Path) -> Dataset:
    """Caltech-101 in `caltech101/101_ObjectCategories`: 102 classes, BACKGROUND_Google among them."""
    return _load("caltech101", Path(data_root, "caltech101", "101_ObjectCategories"), classes=102)


def load_caltech256(data_root: str | Path) -> Dataset:
    """Caltech-256 in `caltech256/256_ObjectCategories`: 257 classes, 257.clutter among them."""
    return _load("caltech256", Path(data_root, "caltech256", "256_ObjectCategories"), classes=257)


def _load(name: str, root: Path, classes: int) -> Dataset:
    """Ids are `class/file.jpg`; classes and files in byte order of their names; other files than .jpg are left out."""
    if not root.is_dir():
        raise DatasetError(
            f"no {name} at {root} (`data` names the folder that holds {name}/)", advice="download", dataset=name
        )
    class_names = tuple(name for name, folder in _entries(root) if folder)
    if len(class_names) != classes:
        raise DatasetError(
            f"{root} holds {number_of(len(class_names), 'class folder')}, {name} has {classes} "
            "(`dataset=folder` reads a part)",
            advice="download",
            dataset=name,
        )
    samples = []
    for label, class_name in enumerate(class_names):
        files = [file for file, folder in _entries(root / class_name) if file.lower().endswith(".jpg") and not folder]
        if not files:
            raise DatasetError(f"{root / class_name} holds no images", advice="download", dataset=name)
        samples += [Sample(f"{class_name}/{file}", str(root / class_name / file), label) for file in files]
    return Dataset(name, tuple(samples), class_names)


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """(name, whether it is a folder) of what lies in a folder, in byte order, hidden names left out."""
    try:
        with os.scandir(folder) as found:
            entries = [(entry.name, entry.is_dir()) for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise DatasetError(f"{folder}: this folder cannot be read: {error.strerror}") from error
    return sorted(entries, key=lambda entry: name_bytes(entry[0]))
