"""A labelled data set of the user's own: a `<class>/*.jpg` tree, or a CSV of path,label."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path

from vggfeat.datasets.listing import labelled_tree
from vggfeat.datasets.sample import Dataset, Sample
from vggfeat.errors import DatasetError

SUBSETS = ("train", "val", "test")
SEPARATOR = ";"
"""Between the labels of one image in a CSV; a file with it anywhere is multi-label."""


def load_folder(data_root: str | Path) -> Dataset:
    """A tree of class folders, or a CSV file with the columns path, label and, if wanted, subset.

    Raises DatasetError for a tree without classes or images and for a CSV line that makes no sense, naming it.
    """
    root = Path(data_root)
    if root.is_dir():
        return _tree(root)
    if not root.exists():
        raise DatasetError(
            f"{root}: no such folder or CSV file; `data` names a <class>/*.jpg tree or a CSV of path,label"
        )
    return _table(root)


def _tree(root: Path) -> Dataset:
    """Ids are the paths below the root; a class is a folder of the root, its images may lie deeper."""
    found = list(labelled_tree(os.fspath(root)))
    class_names = tuple(dict.fromkeys(name for name, _, _ in found))
    if not found:
        raise DatasetError(f"{root}: no images in class folders; a labelled data set is a <class>/*.jpg tree")
    index = {name: label for label, name in enumerate(class_names)}
    samples = tuple(Sample(id, path, index[name]) for name, id, path in found)
    return Dataset("folder", samples, class_names, exif=True)


def _table(file: Path) -> Dataset:
    """Ids are the paths as the CSV has them, relative ones meant from the CSV's own folder."""
    rows = _rows(file)
    multi = any(SEPARATOR in label for _, _, label, _ in rows)
    labels = [[name.strip() for name in label.split(SEPARATOR) if name.strip()] for _, _, label, _ in rows]
    class_names = tuple(sorted({name for names in labels for name in names}, key=os.fsencode))
    if not class_names:
        raise DatasetError(f"{file}: no labels; the columns are path,label")
    samples = []
    for (line, path, _, subset), names in zip(rows, labels, strict=True):
        if not multi and not names:
            raise DatasetError(f"{file}, line {line}: no label for {path!r}")
        value = tuple(1 if name in names else -1 for name in class_names) if multi else class_names.index(names[0])
        samples.append(Sample(path, str(file.parent / path), value, subset=subset))
    return Dataset("folder", tuple(samples), class_names, exif=True)


def _rows(file: Path) -> list[tuple[int, str, str, str]]:
    """(line number, path, label, subset) of each row; a header `path,label[,subset]` and blank rows left out."""
    try:
        # Bytes that are no UTF-8 stay as surrogate escapes: they are a file name's own.
        text = file.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read: {error.strerror}") from error
    if "\0" in text:
        raise DatasetError(
            f"{file}: not a text file; a labelled data set is a <class>/*.jpg tree or a CSV of path,label"
        )
    reader = csv.reader(io.StringIO(text, newline=""))
    rows: list[tuple[int, str, str, str]] = []
    seen: dict[str, int] = {}
    for row in _parsed(file, reader):
        line = reader.line_num
        if not any(cell.strip() for cell in row):
            continue
        if line == 1 and [cell.strip().lower() for cell in row] in (["path", "label"], ["path", "label", "subset"]):
            continue
        if not 2 <= len(row) <= 3 or not row[0]:
            raise DatasetError(
                f"{file}, line {line}: expected path,label or path,label,subset, found {','.join(row)!r}"
            )
        path, label, subset = row[0], row[1].strip(), (row[2].strip() if len(row) == 3 else "")
        if subset and subset not in SUBSETS:
            raise DatasetError(f"{file}, line {line}: subset {subset!r} is none of {', '.join(SUBSETS)}")
        if path in seen:
            raise DatasetError(f"{file}, lines {seen[path]} and {line}: {path!r} is given twice; ids must be unique")
        seen[path] = line
        rows.append((line, path, label, subset))
    if not rows:
        raise DatasetError(f"{file}: no rows; the columns are path,label")
    return rows


def _parsed(file: Path, reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """The rows, what the parser refuses made ours: a cell beyond all measure."""
    try:
        yield from reader
    except csv.Error as error:
        raise DatasetError(f"{file}: no CSV of path,label: {error}") from error
