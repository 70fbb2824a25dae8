"""A user's labelled data set: a `<class>/*.jpg` tree, one split into `train/` and `val/`, or a CSV of path,label."""

from __future__ import annotations

import csv
import io
import logging
import os
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from vggfeat.datasets.checks import checked
from vggfeat.datasets.listing import COLUMNS, NAME, LeftOut, from_paths, images_under, is_image, labelled_tree
from vggfeat.datasets.origin import Origin
from vggfeat.datasets.sample import SUBSETS, Dataset, Sample
from vggfeat.errors import DatasetError, UsageError
from vggfeat.system.files import exists
from vggfeat.system.numbers import number_of
from vggfeat.system.text import name_bytes, name_of

Images = Dataset | str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

log = logging.getLogger(__name__)

_PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Names of a split's folders, and of subsets in a CSV -> subset."""

SEPARATOR = ";"
"""Between the labels of one image in a CSV; a file with it anywhere is multi-label."""

STRAY = 10
"""A tree of classes has at most one image in this many outside of its class folders; with more it may be anything."""


def load_folder(data_root: str | Path) -> Dataset:
    """A tree of class folders, or a CSV file with the columns path, label and optionally subset.

    A root with `train/` beside `val/`, `valid/`, `validation/` or `test/`, each with class folders, is one data set
    whose samples have these subsets; its classes are those of `train/`. A warning counts files that are left out.

    Raises DatasetError for a tree without classes or images, a class that `train/` lacks, and for a CSV line that makes
    no sense, naming it.
    """
    root = Path(data_root)
    if root.is_dir():
        left_out = LeftOut()
        dataset = _parts(root, left_out) or _tree(root, left_out)
        left_out.warn()
        return dataset
    if not root.exists():
        raise DatasetError(
            f"{root}: no such folder or CSV file; `data` names a <class>/*.jpg tree or a CSV of path,label"
        )
    return _table(root)


def _tree(root: Path, left_out: LeftOut, quiet: bool = False) -> Dataset:
    """Ids are the paths below the root; a class is a folder of the root, its images may lie deeper."""
    found = list(labelled_tree(os.fspath(root), left_out))
    class_names = tuple(dict.fromkeys(name for name, _, _ in found if name))
    if not class_names:
        raise DatasetError(f"{root}: no images in class folders; a labelled data set is a <class>/*.jpg tree")
    stray = [id for name, id, _ in found if not name]
    if not quiet:
        _warn_of_stray(root, stray)
    index = {name: label for label, name in enumerate(class_names)}
    samples = tuple(Sample(id, path, index[name]) for name, id, path in found if name)
    return Dataset("folder", samples, class_names, exif=True)


def _warn_of_stray(root: str | Path, stray: Sequence[str]) -> None:
    """Logs which images of a labelled data set are left out, in one line."""
    if stray:
        number = number_of(len(stray), "image")
        log.warning("%s: left out %s outside of the class folders, such as %s", root, number, stray[0])


def _parts(root: Path, left_out: LeftOut, quiet: bool = False) -> Dataset | None:
    """The trees of a root that is split into parts; None if its folders are the classes themselves."""
    folders = {name: root / name for name in _PARTS if (root / name).is_dir()}
    if "train" not in folders or len(folders) < 2 or not all(map(_has_classes, folders.values())):
        return None
    twice = [name for name in folders if _PARTS[name] == "val"]
    if len(twice) > 1:
        raise DatasetError(f"{root}: {' and '.join(twice)} are both its validation part; keep one")
    trees = {name: _tree(folder, left_out, quiet) for name, folder in folders.items()}
    class_names = trees["train"].class_names
    for name, tree in trees.items():
        strange = next((one for one in tree.class_names if one not in class_names), None)
        if strange is not None:
            raise DatasetError(f"{folders[name]}: class {strange!r} is not among the classes of {folders['train']}")
    beside = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name not in folders)
    beside = [name for name in beside if not name.startswith(".") and any(images_under(os.fspath(root / name)))]
    if beside and not quiet:
        log.warning("%s: left out %s, which is not part of the split", root, ", ".join(beside))
    if not quiet:
        _warn_of_stray(root, _images_in(root))
    samples = [
        replace(
            sample,
            id=f"{name}/{sample.id}",
            labels=class_names.index(tree.class_names[sample.labels]),  # type: ignore[index]  # single-label
            subset=_PARTS[name],
        )
        for name, tree in trees.items()
        for sample in tree.samples
    ]
    return Dataset("folder", tuple(samples), class_names, exif=True)


def _has_classes(folder: Path) -> bool:
    """Whether a folder has folders with images: it is a part of a split, not a class."""
    folders = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    return any(any(images_under(os.fspath(entry))) for entry in folders)


def _images_in(folder: Path) -> list[str]:
    """The names of the images that lie in a folder itself."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file() and is_image(entry.name))
    return [name for name in names if not name.startswith(".")]


def as_dataset(images: Images, *, labelled: bool = False) -> Dataset:
    """What a function takes as its images, as a data set: one already, a path, or several paths.

    Args:
        images: as the function was given them.
        labelled: one folder that is a tree of classes brings its labels (see `class_tree`), without the few images
            outside of its classes; by default every image below a folder counts.

    Raises UsageError for pictures in memory, which have no path to be their id.
    """
    if isinstance(images, Dataset):
        return checked(images)
    if hasattr(images, "columns"):
        raise UsageError("a table is not a list of images: pass its column of paths, such as table['path']")
    one = isinstance(images, str | os.PathLike) or not isinstance(images, Iterable)
    paths = [_path(image) for image in ([images] if one else images)]  # type: ignore[union-attr]
    return own_images(paths) if labelled else from_paths(paths)


def _path(image: object) -> str:
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    raise UsageError(
        f"{type(image).__name__} is not a path: images are paths of files, folders or tar files; "
        "vggfeat.VGGFeatures describes pictures in memory"
    )


def own_images(paths: Sequence[str]) -> Dataset:
    """The images that a user names, as `from_paths`; one folder that is clearly a tree of classes brings its labels."""
    if len(paths) == 1 and os.path.isdir(paths[0]) and (dataset := class_tree(paths[0])) is not None:  # noqa: PTH112
        return replace(dataset, origin=Origin(paths=tuple(paths)))
    if len(paths) > 1 and any(_has_class_folders(path) for path in paths):
        log.warning("no labels are taken from several paths: one folder that is a tree of classes brings its labels")
    return from_paths(paths)


def _has_class_folders(root: str) -> bool:
    """Whether a path is a folder that has pictures in two folders or more: perhaps a tree of classes."""
    try:
        with os.scandir(root) as entries:
            folders = [entry.path for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        return sum(any(map(is_image, os.listdir(folder))) for folder in folders) > 1  # noqa: PTH208
    except (OSError, ValueError):  # no folder, or not to be read, which its own reader tells
        return False


def class_tree(root: str) -> Dataset | None:
    """The labelled images of a folder that is clearly a tree of classes, with their paths as ids; None otherwise.

    Clearly: two or more classes, and hardly an image outside of them (`STRAY`). Those few are left out, as by
    `load_folder`. Where they are many, the caller takes all images, without labels, so that no row is lost. A warning
    says either. The images are in the order of `listing.images_under`.
    """
    left_out = LeftOut()
    try:
        split = _parts(Path(root), LeftOut(), quiet=True)
    except DatasetError as error:  # no split that can be used
        log.warning("%s: no labels are taken: %s", root, error)
        return None
    known = {} if split is None else {sample.id: sample for sample in split.samples}
    samples, names = [], dict[str, int]() if split is None else dict[str, int].fromkeys(split.class_names, 0)
    stray = []
    for path in images_under(root, left_out):
        below = os.path.relpath(path, root).replace(os.sep, "/")
        class_name, slash, _ = below.partition("/")
        if split is None and slash:
            samples.append(Sample(path, path, names.setdefault(class_name, len(names))))
        elif below in known:
            samples.append(replace(known[below], id=path, path=path))
        else:
            stray.append(below)
    if len(names) < 2:
        return None
    total = len(samples) + len(stray)
    if len(stray) * STRAY > total:
        log.warning(
            "%s: no labels are taken, because %d of %d images lie outside of the class folders; "
            "`data=%s` leaves these out",
            root,
            len(stray),
            total,
            root,
        )
        return None
    left_out.warn()
    _warn_of_stray(root, stray)
    return Dataset(NAME, tuple(samples), tuple(names), exif=True)


def _table(file: Path) -> Dataset:
    """Ids are the paths as in the CSV; relative ones start at the CSV's folder."""
    rows = _rows(file)
    multi = any(SEPARATOR in label for _, _, label, _ in rows)
    labels = [[name.strip() for name in label.split(SEPARATOR) if name.strip()] for _, _, label, _ in rows]
    class_names = tuple(sorted({name for names in labels for name in names}, key=name_bytes))
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
    """(line number, path, label, subset) of each row; a header and blank rows left out."""
    reader = csv.reader(io.StringIO(_text(file), newline=""))
    rows: list[tuple[int, str, str, str]] = []
    seen: dict[str, int] = {}
    order: tuple[str, ...] = ("path", "label", "subset")
    for row in _parsed(file, reader):
        line = reader.line_num
        if not any(cell.strip() for cell in row):
            continue
        if not rows and line == 1 and (header := _header(row)):
            order = header
            continue
        if not 2 <= len(row) <= 3:
            raise DatasetError(
                f"{file}, line {line}: expected path,label or path,label,subset, found {','.join(row)!r}"
            )
        cells = dict(zip(order, row, strict=False))
        path, label, subset = (cells.get(name, "") for name in ("path", "label", "subset"))
        label, subset = label.strip(), _PARTS.get(subset.strip(), subset.strip())
        if not path:
            raise DatasetError(
                f"{file}, line {line}: expected path,label or path,label,subset, found {','.join(row)!r}"
            )
        if subset and subset not in SUBSETS:
            raise DatasetError(f"{file}, line {line}: subset {subset!r} is none of {', '.join(SUBSETS)}")
        if path in seen:
            raise DatasetError(f"{file}, lines {seen[path]} and {line}: {path!r} is given twice; ids must be unique")
        seen[path] = line
        rows.append((line, path, label, subset))
    if not rows:
        raise DatasetError(f"{file}: no rows; the columns are path,label")
    _refuse_unknown_header(file, rows)
    return rows


def _text(file: Path) -> str:
    """The file's text; bytes outside UTF-8 are surrogate escapes, since they belong to file names."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read: {error.strerror}") from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DatasetError(f"{file}: a UTF-16 text; save it as UTF-8")
    if b"\0" in content:
        raise DatasetError(
            f"{file}: not a text file; a labelled data set is a <class>/*.jpg tree or a CSV of path,label"
        )
    return name_of(content.removeprefix(BOM_UTF8))


def _header(row: list[str]) -> tuple[str, ...]:
    """What the columns hold, if the row is a header by its names; () otherwise."""
    names = tuple(COLUMNS.get(cell.strip().lower(), "") for cell in row)
    return names if "" not in names and len(set(names)) == len(names) and {"path", "label"} <= set(names) else ()


def _refuse_unknown_header(file: Path, rows: list[tuple[int, str, str, str]]) -> None:
    """Raises DatasetError if the first row names no picture though the others do: its label would become a class."""
    line, path, label, _ = rows[0]
    if is_image(path) or not all(is_image(other) for _, other, _, _ in rows[1:]) or not rows[1:]:
        return
    if not exists(file.parent / path):
        raise DatasetError(
            f"{file}, line {line}: {path!r}, {label!r} look like a header of other names; name the columns path,label "
            "or path,label,subset"
        )


def _parsed(file: Path, reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """The rows; the parser's errors, such as a cell of more than 128 KB, become DatasetErrors."""
    try:
        yield from reader
    except csv.Error as error:
        raise DatasetError(f"{file}: no CSV of path,label: {error}") from error
