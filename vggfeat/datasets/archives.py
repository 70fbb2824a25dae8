"""The archives in which the benchmark sets are published, and their way onto the disk. Imports no torch."""

from __future__ import annotations

import errno
import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vggfeat.errors import DatasetError
from vggfeat.system.hashes import algorithm, check_digest, digests

MOST_BYTES = 16 << 30
"""No published set is near this size unpacked: an archive may not fill the disk."""


@dataclass(frozen=True)
class Archive:
    """A file to fetch."""

    url: str
    digest: str
    """`algorithm:hex`."""
    inner: str = ""
    """Name of the tar file inside a zip file that holds the images, where they are packed twice."""
    inner_digest: str = ""

    @property
    def filename(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Published:
    """A benchmark set: what to fetch, and what comes of it."""

    archives: tuple[Archive, ...]
    folder: str
    """Where it lies below the data root."""
    top: str
    """The same folder's path inside the archives."""
    proofs: tuple[str, ...] = ()
    """Files of that folder, one of each archive: a set unpacked by hand may lack a part."""


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
"""What Python's own readers raise on a damaged archive; encrypted zip files are RuntimeErrors."""


def unpack(file: Path, archive: Archive, folder: Path) -> None:
    """Unpacks an archive's files below a folder, none of them outside it.

    Raises:
        DatasetError: the archive is damaged, lacks its inner file, or holds something that no data set needs: a
            name that leads out of the folder, a link, a device, more bytes than any published set.
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
        # Of the archive's own bytes: gzip and bzip2 give no number, and a forged zip file a place that is none.
        if error.errno in (None, errno.EINVAL):
            raise DatasetError(f"{file}: cannot be unpacked: {error}") from error
        raise


def _take_out(file: Path, name: str, target: Path) -> None:
    """Writes one file out of a zip file, wherever it lies in there."""
    with zipfile.ZipFile(file) as outer:
        entries = [entry for entry in outer.infolist() if entry.filename.rpartition("/")[2] == name]
        if not entries:
            raise DatasetError(f"{file}: has no {name} in it")
        _bounded(file, entries[0].file_size)
        with outer.open(entries[0]) as source, target.open("wb") as stream:
            _copy(source, stream)


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    shutil.copyfileobj(source, target, 1 << 20)


def _unpack_tar(file: Path, folder: Path) -> None:
    total = 0
    with tarfile.open(file) as archive:
        for member in archive:
            if not (member.isfile() or member.isdir()):
                raise DatasetError(f"{file}: {member.name!r} is a link or a device; a data set has files and folders")
            total += member.size
            _bounded(file, total)
            archive.extract(member, folder, filter="data")


def _bounded(file: Path, size: int) -> None:
    if size > MOST_BYTES:
        raise DatasetError(f"{file}: claims {size} bytes or more, which no published set has")
