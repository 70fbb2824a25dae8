"""The archives of the published benchmark sets, and unpacking them. Imports no torch."""

from __future__ import annotations

import errno
import lzma
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from vggfeat.errors import DatasetError
from vggfeat.system.hashes import algorithm, check_digest, digests

MOST_BYTES = 16 << 30
"""Limit on unpacked bytes, far above any published set: an archive must not fill the disk."""


@dataclass(frozen=True)
class Archive:
    """A file to fetch."""

    url: str
    digest: str
    """`algorithm:hex`."""
    inner: str = ""
    """Name of the tar file with the images inside a zip file, if they are packed twice."""
    inner_digest: str = ""

    @property
    def filename(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Published:
    """A benchmark set: its archives and the folder that they become."""

    archives: tuple[Archive, ...]
    folder: str
    """Its folder below the data root."""
    top: str
    """The same folder's path inside the archives."""
    proofs: tuple[str, ...] = ()
    """One file of each archive: a set unpacked by hand may lack a part."""


_CALTECH = "https://data.caltech.edu/records/"
_VOC = "https://thor.robots.ox.ac.uk/pascal/VOC/"

PUBLISHED: dict[str, Published] = {
    "caltech101": Published(
        (
            Archive(
                _CALTECH + "mzrjq-6wc02/files/caltech-101.zip",
                "md5:3138e1922a9193bfa496528edbbc45d0",
                "101_ObjectCategories.tar.gz",
                "md5:b224c7392d521a49829488ab0f1120d9",
            ),
        ),
        "caltech101/101_ObjectCategories",
        "101_ObjectCategories",
    ),
    "caltech256": Published(
        (Archive(_CALTECH + "nyy15-4j048/files/256_ObjectCategories.tar", "md5:67b4f42ca05d46448c6bb8ecd2220f6d"),),
        "caltech256/256_ObjectCategories",
        "256_ObjectCategories",
    ),
    "voc2007": Published(
        (
            Archive(_VOC + "voc2007/VOCtrainval_06-Nov-2007.tar", "md5:c52e279531787c972589f7e41ab4ae64"),
            Archive(_VOC + "voc2007/VOCtest_06-Nov-2007.tar", "md5:b6e924de25625d8de591ea690078ad9f"),
        ),
        "VOCdevkit/VOC2007",
        "VOCdevkit/VOC2007",
        ("ImageSets/Main/trainval.txt", "ImageSets/Main/test.txt"),
    ),
    "voc2012": Published(
        (Archive(_VOC + "voc2012/VOCtrainval_11-May-2012.tar", "md5:6cd6e144f989b92b3379bac3b3de84fd"),),
        "VOCdevkit/VOC2012",
        "VOCdevkit/VOC2012",
        ("ImageSets/Main/trainval.txt",),
    ),
}

_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    ValueError,
    struct.error,
)
"""What Python's readers raise for damaged archives; for encrypted zip files, RuntimeError."""


def unpack(file: Path, archive: Archive, folder: Path) -> None:
    """Unpacks an archive below a folder; nothing is written outside of it.

    Raises:
        DatasetError: the archive is damaged, lacks its inner file, or holds what no data set needs: a name that leads
            out of the folder, a link, a device, more bytes than any published set.
        OSError: the disk is full or cannot be written.
    """
    try:
        if not archive.inner:
            _unpack_tar(file, folder)
            return
        inner = file.with_name(archive.inner)
        try:
            _take_out(file, archive.inner, inner)
            kind = algorithm(archive.inner_digest)
            check_digest(f"{file}: {archive.inner}", archive.inner_digest, digests(inner, kind)[kind])
            _unpack_tar(inner, folder)
        finally:
            inner.unlink(missing_ok=True)
    except _DAMAGE as error:
        raise DatasetError(f"{file}: cannot be unpacked: {error}") from error
    except OSError as error:
        # From the archive's bytes: gzip and bzip2 errors have no number, a forged zip offset gives EINVAL.
        if error.errno in (None, errno.EINVAL):
            raise DatasetError(f"{file}: cannot be unpacked: {error}") from error
        raise


def _take_out(file: Path, name: str, target: Path) -> None:
    """Extracts one file of a zip file, in whatever folder it lies there."""
    with zipfile.ZipFile(file) as outer:
        entries = [entry for entry in outer.infolist() if entry.filename.rpartition("/")[2] == name]
        if not entries:
            raise DatasetError(f"{file}: contains no {name}")
        _bounded(file, entries[0].file_size)
        with outer.open(entries[0]) as source, target.open("wb") as stream:
            shutil.copyfileobj(source, stream, 1 << 20)


def _unpack_tar(file: Path, folder: Path) -> None:
    total = 0
    with tarfile.open(file) as archive:
        for member in archive:
            if not (member.isfile() or member.isdir()):
                raise DatasetError(f"{file}: {member.name!r} is a link or a device; a data set has files and folders")
            total += member.size
            _bounded(file, total)
            target = _inside(file, member.name, folder)
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            source = archive.extractfile(member)
            assert source is not None  # it is a file
            with source, target.open("wb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)


def _inside(file: Path, name: str, folder: Path) -> Path:
    """Where a member belongs, an absolute name too. Raises DatasetError if that is not inside of the folder.

    tarfile's own filter does this, but Python has it from 3.11.4 on, and Debian 12 has 3.11.2.
    """
    root = folder.resolve()
    target = (root / name.lstrip("/" + os.sep)).resolve()
    if not target.is_relative_to(root):
        raise DatasetError(f"{file}: cannot be unpacked: {name!r} would be extracted to {str(target)!r}")
    return target


def _bounded(file: Path, size: int) -> None:
    if size > MOST_BYTES:
        raise DatasetError(f"{file}: claims {size} bytes or more, which no published set has")
