"""The user's own images: paths, folders, tar files and lists, as samples whose ids are the paths as given."""

# A path stays the string, and the bytes, that the user gave: pathlib would tidy it.
# ruff: noqa: PTH112, PTH116, PTH122

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from vggfeat.datasets.sample import Dataset, Sample
from vggfeat.datasets.tars import is_tar, members
from vggfeat.errors import DatasetError, UsageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""What counts as an image inside a folder; a file named by itself may have any name."""

_BOM = b"\xef\xbb\xbf"

NAME = "images"
"""The data set name of images that carry no labels."""

ARGUMENTS = "arguments"

Images = Dataset | str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

Place = tuple[str, int]
"""Where an entry was given: a source ("stdin", a file's name, ARGUMENTS) and a line or position from 1."""


def as_dataset(images: Images) -> Dataset:
    """What a function takes as its images, as a data set: one already, a path, or several paths (see `from_paths`).

    Raises UsageError for pictures in memory, which have no path to be their id.
    """
    if isinstance(images, Dataset):
        return images
    if hasattr(images, "columns"):
        raise UsageError("a table is no list of images: pass its column of paths, such as table['path']")
    one = isinstance(images, str | os.PathLike) or not isinstance(images, Iterable)
    return from_paths([_path(image) for image in ([images] if one else images)])  # type: ignore[union-attr]


def _path(image: object) -> str:
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    raise UsageError(
        f"{type(image).__name__} is no path: images are paths of files, folders or tar files; "
        "vggfeat.VGGFeatures describes pictures in memory"
    )


def from_paths(paths: Iterable[str]) -> Dataset:
    """The images that a user names one by one, in the order given.

    A folder stands for the images below it, a tar file (plain or gzipped) for those in it, and `{000..099}` for the
    numbers where no shell has written them out. An image in a tar file has the id `<tar file>/<name in it>`; what a
    damaged tar file has lost is one more sample, with the tar file's name as its id and the reason.

    Raises UsageError for a path that does not exist, DatasetError for a folder or tar file without images and a path
    that is given twice.
    """
    return _dataset(_named(paths))


def from_list(source: str | os.PathLike[str] | BinaryIO, *, nul: bool = False) -> Dataset:
    """The images of a list: one `path` or `id<TAB>path` a line, in the list's order; a tar file stands for its images.

    Lists are read as bytes: LF or CRLF ends a line, blank lines are skipped, names that are no UTF-8 survive. Whether
    the files exist is left to the reader of the images, which costs a missing one its own row alone.

    Args:
        source: a file, or a binary stream such as sys.stdin.buffer.
        nul: the entries end with NUL in place of a line break, as `find -print0` writes them.

    Raises DatasetError for a list that cannot be read, a line that makes no sense and an id that occurs twice.
    """
    if not isinstance(source, str | os.PathLike):
        return _dataset(_listed("stdin", source, nul))
    try:
        with Path(source).open("rb") as stream:
            return _dataset(_listed(os.fspath(source), stream, nul))
    except OSError as error:
        raise DatasetError(f"{os.fspath(source)}: this list cannot be read: {error.strerror}") from error


def _dataset(entries: Iterable[tuple[Sample, Place]]) -> Dataset:
    """The samples, their ids checked to be unique."""
    samples: list[Sample] = []
    seen: dict[str, Place] = {}
    for sample, place in entries:
        first = seen.setdefault(sample.id, place)
        if first is not place:
            source = "" if place[0] == ARGUMENTS else f"{place[0]}, "
            unit = "arguments" if place[0] == ARGUMENTS else "lines"
            raise DatasetError(
                f"{source}{unit} {first[1]} and {place[1]}: {sample.id!r} is given twice; ids must be unique"
            )
        samples.append(sample)
    return Dataset(NAME, tuple(samples), exif=True)


def images_under(folder: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Paths of the images below a folder, depth first, in byte order of the names; hidden names are left out.

    Links are followed, but not into a folder that holds them, as with `find -L`; `above` has the (device, inode) of
    the folders already entered. Raises DatasetError for a folder that cannot be read.
    """
    try:
        status = os.stat(folder)
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise DatasetError(f"{folder}: this folder cannot be read: {error.strerror}") from error
    key = (status.st_dev, status.st_ino)
    if key in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        # os.path.isdir answers no for a link that leads nowhere or to itself, where entry.is_dir would raise.
        if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
            yield from images_under(entry.path, above | {key})
        elif is_image(entry.name):
            yield entry.path


def _named(paths: Iterable[str]) -> Iterator[tuple[Sample, Place]]:
    for position, given in enumerate(paths, start=1):
        for path in expanded(given):
            if not os.path.lexists(path):
                raise UsageError(f"{path}: no such file or folder")
            for sample in _samples(path):
                yield sample, (ARGUMENTS, position)


def _samples(path: str) -> Iterator[Sample]:
    """The images that a path stands for."""
    if os.path.isdir(path):
        images = list(images_under(path))
        if not images:
            raise DatasetError(f"{path}: no images in this folder or below it ({_suffixes()})")
        yield from (Sample(image, image) for image in images)
    elif is_tar(path):
        yield from images_in_tar(path)
    else:
        yield Sample(path, path)


def images_in_tar(path: str) -> Iterator[Sample]:
    """The images of a tar file, in its order, hidden names left out. Raises DatasetError where there are none."""
    count = 0
    for member in members(path):
        name = member.name.rpartition("/")[2]
        if not member.error and (name.startswith(".") or not is_image(name)):
            continue
        count += 1
        yield Sample(f"{path}/{member.name}" if member.name else path, path, span=member.span, error=member.error)
    if not count:
        raise DatasetError(f"{path}: no images in this tar file ({_suffixes()})")


_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def expanded(path: str) -> Iterator[str]:
    """`data-{000..099}.tar` -> the hundred names, as a shell writes them; a path that exists stands for itself."""
    found = _RANGE.search(path)
    if found is None or os.path.lexists(path):
        yield path
        return
    first, last = found.groups()
    padded = any(len(number) > 1 and number.startswith("0") for number in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    for number in range(int(first), int(last) + step, step):
        yield from expanded(f"{path[: found.start()]}{number:0{width}}{path[found.end() :]}")


def is_image(name: str) -> bool:
    """Whether a file's name ends as an image's does."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _suffixes() -> str:
    return " ".join(sorted(IMAGE_SUFFIXES))


def _listed(source: str, stream: BinaryIO, nul: bool) -> Iterator[tuple[Sample, Place]]:
    for number, entry in _lines(stream, nul):
        sample = _sample(entry, (source, number))
        if b"\t" not in entry and is_tar(sample.path):
            for member in images_in_tar(sample.path):
                yield member, (source, number)
        else:
            yield sample, (source, number)


def _lines(stream: BinaryIO, nul: bool) -> Iterator[tuple[int, bytes]]:
    """Numbered entries that are not blank, their line ends (LF or CRLF, or NUL) taken off."""
    if nul:
        entries: Iterable[bytes] = stream.read().split(b"\0")
    else:
        entries = (line.removesuffix(b"\n").removesuffix(b"\r") for line in stream)
    for number, entry in enumerate(entries, start=1):
        text = entry.removeprefix(_BOM) if number == 1 else entry
        if text.strip():
            yield number, text


def _sample(entry: bytes, place: Place) -> Sample:
    """`path` or `id<TAB>path`, read as bytes so that names which are no UTF-8 survive."""
    if b"\0" in entry:
        raise DatasetError(f"{_where(place)}: a NUL byte; for a list separated by NUL bytes give `nul`")
    given_id, tab, path = entry.partition(b"\t")
    if not tab:
        path = given_id
    if not given_id.strip() or not path.strip():
        raise DatasetError(f"{_where(place)}: expected a path or id<TAB>path, found {os.fsdecode(entry)!r}")
    return Sample(id=os.fsdecode(given_id), path=os.fsdecode(path))


def _where(place: Place) -> str:
    return f"{place[0]}, line {place[1]}"


def labelled_tree(root: str) -> Iterator[tuple[str, str, str]]:
    """(class, id, path) of each image of a `<class>/*.jpg` tree, the id being the path below the root.

    Classes and images are in byte order of their names; images deeper inside a class belong to it too.
    """
    for path in images_under(root):
        below = os.path.relpath(path, root).replace(os.sep, "/")
        class_name, slash, _ = below.partition("/")
        if slash:
            yield class_name, below, path
