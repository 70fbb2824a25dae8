"""Users' own images: paths, folders, tar files and lists, as samples whose ids are the paths as given."""

# A path stays the user's string and bytes; pathlib would normalise it.
# ruff: noqa: PTH112, PTH116, PTH122

from __future__ import annotations

import functools
import io
import logging
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from vggfeat.datasets.origin import Origin
from vggfeat.datasets.sample import Dataset, Sample
from vggfeat.datasets.tars import is_tar, members
from vggfeat.errors import DatasetError, UsageError
from vggfeat.system.files import is_file
from vggfeat.system.numbers import number_of
from vggfeat.system.remote import exists, is_url, read_all, unreadable
from vggfeat.system.text import name_bytes

log = logging.getLogger(__name__)

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp")
_OTHERS = (".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif")
IMAGE_SUFFIXES = frozenset({*_JPEG, *_OTHERS})
"""What counts as an image inside a folder or tar file; a file named by itself may have any name."""

_RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".raw")
_RARE = (".jp2", ".j2k", ".jpx", ".jxl", ".psd", ".svg", ".eps", ".pdf", ".tga", ".ppm", ".pgm", ".pbm", ".exr", ".ico")
_CONVERTIBLE = frozenset({*_RAW, *_RARE})
"""Pictures that are not read here."""

TABLE = "this is a table, not a list of paths (`dataset=folder` takes a table as its `data`)"
"""What a list or a path that is a table is refused for."""

COLUMNS = {
    **dict.fromkeys(("path", "file", "filename", "file_name", "filepath", "file_path"), "path"),
    **dict.fromkeys(("image", "image_path", "image_name", "img"), "path"),
    **dict.fromkeys(["label", "labels", "class", "class_name", "category", "target"], "label"),
    **dict.fromkeys(("subset", "split", "part", "set"), "subset"),
}
"""Names of columns in a table's header -> what they hold."""

_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_GZIP = b"\x1f\x8b"

NAME = "images"
"""The data set name of the user's own images that are named one by one."""

ARGUMENTS = "arguments"

NAMED = 1000
"""Up to this many missing files are named in an error."""

Place = tuple[str, int]
"""Where an entry was given: a source ("stdin", a file's name, ARGUMENTS) and a line or position from 1."""


def from_paths(paths: Iterable[str]) -> Dataset:
    """The images that a user names one by one, in the order given.

    A folder stands for the images below it, a tar file (plain or gzipped) for those in it, and `{000..099}` for the
    numbers where no shell has expanded them. Tar files and pictures may be URLs (`https://..`, `s3://..`). An image in
    a tar file has the id `<tar file>/<name in it>`; the loss of a damaged tar file is one more sample, with the tar
    file's name as its id and the reason. A warning counts the files of folders and tar files that are left out because
    of their names.

    Raises UsageError for paths that do not exist, naming all of them, for URLs that nothing here can read, whatever
    lies there, and for ranges of over 1,000,000 names;
    DatasetError for a folder or tar file without images and a path that is given twice.
    """
    left_out, given = LeftOut(), tuple(paths)
    dataset = _dataset(_named(given, left_out))
    left_out.warn()
    return replace(dataset, origin=Origin(paths=given))


class LeftOut:
    """Files that are passed over because they are not named as images, counted by suffix."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._places: dict[str, None] = {}

    def add(self, place: str, name: str) -> None:
        """Counts a file; `place` is the folder or tar file that the user named."""
        self._counts[os.path.splitext(name)[1].lower()] += 1
        self._places[place] = None

    def warn(self) -> None:
        """Logs what was left out, and what to do about it, in one line."""
        if not self._counts:
            return
        kinds = [f"{count} {suffix or 'without a suffix'}" for suffix, count in self._counts.most_common(8)]
        kinds += ["..."] if len(self._counts) > 8 else []
        advice = []
        if pictures := sorted(_CONVERTIBLE & set(self._counts)):
            advice.append(f"convert {', '.join(pictures)} to PNG or JPEG")
        if self._counts[""]:
            advice.append("give pictures without a suffix in a list")
        if archives := sorted({".tar", ".tgz", ".gz"} & set(self._counts)):
            names = ", ".join(archives)
            nested = any(map(is_tar, self._places))
            advice.append(f"unpack the {names} files" if nested else f"name the {names} files themselves")
        log.warning(
            "%s: left out %s not named as an image: %s%s",
            " and ".join(list(self._places)[:2]) + (" and others" if len(self._places) > 2 else ""),
            number_of(self._counts.total(), "file"),
            ", ".join(kinds),
            f" ({'; '.join(advice)})" if advice else "",
        )


def from_list(source: str | os.PathLike[str] | BinaryIO, *, nul: bool = False, only_lines: bool = False) -> Dataset:
    """The images of a list: one path or id<TAB>path a line, in the list's order; a tar file stands for its images.

    Lists are read as bytes: LF or CRLF ends a line, blank lines are skipped, names outside UTF-8 are kept. A missing
    file costs its own row when it is read.

    Args:
        source: a file or URL, or a binary stream such as sys.stdin.buffer.
        nul: each entry is a path, whole, whatever it holds, and ends with NUL, as `find -print0` writes them.
        only_lines: the user cannot choose `nul` here, so no error offers it.

    Raises DatasetError for a list that cannot be read, a line that makes no sense (a URL that nothing here can read,
    whatever lies there, is one), one that could be id<TAB>path but is also the name of a file, and an id that occurs
    twice.
    """
    if not isinstance(source, str | os.PathLike):
        return _dataset(_listed("stdin", source, nul, only_lines))
    try:
        with _opened(os.fspath(source)) as stream:
            dataset = _dataset(_listed(os.fspath(source), stream, nul, only_lines))
        return replace(dataset, origin=Origin(list_file=os.fspath(source), nul=nul) if _lasts(source) else None)
    except OSError as error:
        raise DatasetError(f"{os.fspath(source)}: this list cannot be read: {error.strerror or error}") from error


def _lasts(source: str | os.PathLike[str]) -> bool:
    """Whether a list can be read again by its name: a pipe such as /dev/fd/63, of `<(find ..)`, is gone."""
    name = os.fspath(source)
    return is_url(name) or (Path(name).is_file() and not name.startswith(("/dev/", "/proc/")))


def _opened(source: str) -> BinaryIO:
    return io.BytesIO(read_all(source)) if is_url(source) else Path(source).open("rb")


def _unreadable(path: str) -> str:
    """Why a path cannot be read here, if its name alone tells that: only a URL's does. "" otherwise."""
    return unreadable(path) if is_url(path) else ""


def _missing(path: str) -> bool:
    """Whether a path or the tar file of a URL is missing; a picture by URL shows it when it is read."""
    if not is_url(path):
        return not os.path.lexists(path)
    try:
        return is_tar(path) and not exists(path)
    except OSError as error:
        raise DatasetError(f"{path}: this tar file cannot be read: {error.strerror or error}") from error


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


def images_under(
    folder: str, left_out: LeftOut | None = None, above: tuple[tuple[int, int], ...] = (), top: str = ""
) -> Iterator[str]:
    """Paths of the images below a folder, depth first, in byte order of the names; hidden names are skipped.

    Links are followed, except into a folder that holds them, as with `find -L`; `above` has the (device, inode) of
    the folders already entered, `top` the first one. Other files are counted in `left_out`.

    Raises DatasetError for a folder that cannot be read.
    """
    try:
        status = os.stat(folder)
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: name_bytes(entry.name))
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
            yield from images_under(entry.path, left_out, (*above, key), top or folder)
        elif is_image(entry.name):
            yield entry.path
        elif left_out is not None:
            left_out.add(top or folder, entry.name)


def _named(paths: Iterable[str], left_out: LeftOut) -> Iterator[tuple[Sample, Place]]:
    named = [(position, path) for position, given in enumerate(paths, start=1) for path in expanded(given)]
    if len(named) == 1 and named[0][1].lower().endswith(".csv"):  # among others it may be a stray file
        raise DatasetError(f"{named[0][1]}: {TABLE}")
    for _, path in named:
        if refused := _unreadable(path):
            raise UsageError(f"{path}: {refused}")
    missing = [path for _, path in named if _missing(path)]
    if missing:
        raise UsageError(f"{_all_of(missing)}: no such file or folder")
    for position, path in named:
        for sample in _samples(path, left_out):
            yield sample, (ARGUMENTS, position)


def _all_of(names: Sequence[str]) -> str:
    """All names, as a repair needs them, up to a limit that only a slip exceeds."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def _samples(path: str, left_out: LeftOut) -> Iterator[Sample]:
    """The images that a path stands for."""
    if os.path.isdir(path):
        images = list(images_under(path, left_out))
        if not images:
            left_out.warn()
            raise DatasetError(f"{path}: no images in this folder or below it ({_suffixes()})")
        yield from (Sample(image, image) for image in images)
    elif is_tar(path):
        yield from images_in_tar(path, left_out)
    else:
        yield Sample(path, path)


def images_in_tar(path: str, left_out: LeftOut | None = None) -> Iterator[Sample]:
    """The images of a tar file, in its order; names are skipped and left out as in a folder.

    Raises DatasetError if there are no images.
    """
    count = 0
    for member in members(path):
        if any(part.startswith(".") and part not in (".", "..") for part in member.name.split("/")):
            continue
        whole = member.error and not is_image(member.name)  # the archive itself, or one inside, has lost something
        if not is_image(member.name) and not whole:
            if left_out is not None:
                left_out.add(path, member.name)
            continue
        count += 1
        yield Sample(f"{path}/{member.name}" if member.name else path, path, span=member.span, error=member.error)
    if not count:
        if left_out is not None:
            left_out.warn()
        raise DatasetError(f"{path}: no images in this tar file ({_suffixes()})")


_RANGE = re.compile(r"\{(\d{1,99})\.\.(\d{1,99})\}")

_MOST_NAMES = 1_000_000
"""Limit on the names that the ranges of one path stand for: a larger number is a slip, and its list fills memory."""


def expanded(path: str) -> Iterator[str]:
    """`data-{000..099}.tar` -> the hundred names, as a shell expands them; an existing path stands for itself.

    Raises UsageError for more than 1,000,000 names.
    """
    found = _RANGE.search(path)
    if found is None or os.path.lexists(path):
        yield path
        return
    if math.prod(abs(int(last) - int(first)) + 1 for first, last in _RANGE.findall(path)) > _MOST_NAMES:
        raise UsageError(f"{path}: stands for more than {_MOST_NAMES:,} names; give a smaller range")
    first, last = found.groups()
    padded = any(len(number) > 1 and number.startswith("0") for number in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    for number in range(int(first), int(last) + step, step):
        yield from expanded(f"{path[: found.start()]}{number:0{width}}{path[found.end() :]}")


def is_image(name: str) -> bool:
    """Whether a file is named as an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _suffixes() -> str:
    return " ".join(sorted(IMAGE_SUFFIXES))


def _listed(source: str, stream: BinaryIO, nul: bool, only_lines: bool) -> Iterator[tuple[Sample, Place]]:
    left_out, missing = LeftOut(), list[str]()
    tabbed = functools.cache(_names_with_tabs)
    for number, entry in _lines(source, stream, nul):
        place = (source, number)
        sample = _whole(entry, place) if nul else _sample(entry, place, tabbed, only_lines)
        if refused := _unreadable(sample.path):
            raise DatasetError(f"{_where(place)}: {sample.path}: {refused}")
        if (nul or b"\t" not in entry) and is_tar(sample.path):
            if _missing(sample.path):
                missing.append(sample.path)
                continue
            for member in images_in_tar(sample.path, left_out):
                yield member, place
        else:
            yield sample, place
    if missing:
        raise DatasetError(f"{source}: {_all_of(missing)}: no such tar file")
    left_out.warn()


def _lines(source: str, stream: BinaryIO, nul: bool) -> Iterator[tuple[int, bytes]]:
    """Numbered entries that are not blank, or with NUL not empty, without their ends (LF or CRLF, or NUL)."""
    if nul:
        entries: Iterable[bytes] = stream.read().split(b"\0")
    else:
        entries = (line.removesuffix(b"\n").removesuffix(b"\r") for line in stream)
    for number, entry in enumerate(entries, start=1):
        text = entry.removeprefix(_BOM) if number == 1 else entry
        if number == 1 and text.startswith(_UTF_16):
            raise DatasetError(f"{source}: a UTF-16 text; save the list as UTF-8")
        if number == 1 and text.startswith(_GZIP):
            raise DatasetError(f"{source}: gzipped; unpack the list")
        if number == 1 and _is_header(text):
            raise DatasetError(f"{source}: {TABLE}")
        if text if nul else text.strip():  # with NUL a blank is a name
            yield number, text


def _is_header(line: bytes) -> bool:
    """Whether a line names the columns of a table of paths and labels."""
    names = line.decode("ascii", "replace").lower().split(",")
    return {"path", "label"} <= {COLUMNS.get(name.strip('" ')) for name in names}


def _whole(entry: bytes, place: Place) -> Sample:
    """A path, whatever it holds."""
    path = _name(entry, place)
    return Sample(id=path, path=path)


def _name(entry: bytes, place: Place) -> str:
    """A name as the system has it: bytes, which are kept, but on Windows UTF-16, which a list holds as UTF-8."""
    if sys.platform != "win32":
        return os.fsdecode(entry)
    try:
        return entry.decode()
    except UnicodeDecodeError:
        raise DatasetError(f"{_where(place)}: not UTF-8; save the list as UTF-8") from None


def _sample(entry: bytes, place: Place, tabbed: Callable[[str], frozenset[str]], only_lines: bool) -> Sample:
    """A line: path or id<TAB>path. `only_lines`: see `from_list`."""
    if b"\0" in entry:
        way = "this list has one path a line" if only_lines else "for a list separated by NUL bytes give `nul`"
        raise DatasetError(f"{_where(place)}: a NUL byte; {way}")
    given_id, tab, path = entry.partition(b"\t")
    if not tab:
        return _whole(entry, place)
    whole, id = _name(entry, place), _name(given_id, place)
    if whole in tabbed(id.rpartition("/")[0] or "."):
        way = "give the list separated by NUL bytes (find -print0) with `nul`"
        way = "write an id and a tab before it" if only_lines else way
        raise DatasetError(f"{_where(place)}: {whole!r} is a file's name, and could be id<TAB>path too; {way}")
    if not given_id.strip() or not path.strip():
        raise DatasetError(f"{_where(place)}: expected a path or id<TAB>path, found {whole!r}")
    sample = Sample(id=id, path=_name(path, place))
    if place[1] == 1 and is_file(id) and _missing(sample.path):  # one line tells: the others are like it
        raise DatasetError(
            f"{_where(place)}: {id!r} is a file and {sample.path!r} is not: in id<TAB>path the path comes last"
        )
    return sample


def _names_with_tabs(folder: str) -> frozenset[str]:
    """What lies in a folder, or below, under a name with a tab, as a list would name it; usually nothing.

    Read once a folder: to ask for each line of a long list whether it names a file would take a share an hour.
    """
    try:
        names = [name for name in os.listdir(folder) if "\t" in name]  # noqa: PTH208
    except OSError:
        return frozenset()
    found = [name if folder == "." else os.path.join(folder, name) for name in names]  # noqa: PTH118
    below = [os.path.join(top, file) for name in found for top, _, files in os.walk(name) for file in files]  # noqa: PTH118
    return frozenset([*found, *below, *(f"./{name}" for name in (*found, *below) if folder == ".")])


def _where(place: Place) -> str:
    return f"{place[0]}, line {place[1]}"


def labelled_tree(root: str, left_out: LeftOut | None = None) -> Iterator[tuple[str, str, str]]:
    """(class, id, path) of each image of a `<class>/*.jpg` tree, the id being the path below the root.

    Classes and images are in byte order of their names; images deeper inside a class belong to it too. An image beside
    the class folders has the class "".
    """
    for path in images_under(root, left_out):
        below = os.path.relpath(path, root).replace(os.sep, "/")
        class_name, slash, _ = below.partition("/")
        yield class_name if slash else "", below, path
