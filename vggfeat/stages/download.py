"""Published weights into the cache, benchmark sets into the data root. Imports no torch."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggfeat.datasets.archives import PUBLISHED, Published, unpack
from vggfeat.errors import DatasetError, DownloadError, VggfeatError, unknown_name
from vggfeat.nets.cache import published_file
from vggfeat.results import Result
from vggfeat.system.bars import Fetching
from vggfeat.system.fetch import fetch, offline_asked
from vggfeat.system.locking import locked, release, remove


@dataclass(frozen=True)
class DownloadedWeights(Result):
    """Published weights in the cache."""

    path: Path
    net: str
    source: str
    url: str
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """Every field under its name."""
        return super().as_json() | {"path": str(self.path)}


def download_weights(
    net: str, source: str | None = None, *, offline: bool | None = None, progress: Fetching | None = None
) -> DownloadedWeights:
    """Fetches the published weights of a net into the cache, unless they are there.

    Raises UsageError for a net without published weights, DownloadError if they cannot be fetched.
    """
    file = published_file(net, source or "published", offline=offline, progress=progress)
    return DownloadedWeights(file.path, file.row.net, file.row.source, file.row.url, file.sha256)


def download_dataset(
    name: str, data: str | Path = "data", *, offline: bool | None = None, progress: Fetching | None = None
) -> Path:
    """Fetches and unpacks a benchmark set below the data root, unless it is there; returns its folder.

    The folder appears whole: the set is unpacked beside its place, then renamed, and the archives are removed. An
    interrupted download is continued by the next call; a second process waits for the first.

    Raises:
        UsageError: a set that cannot be fetched.
        DownloadError: the archives cannot be fetched, or are not the published ones.
        DatasetError: an archive is damaged, or the folder holds only a part of the set.
        VggfeatError: the data root cannot be written.
    """
    if name not in PUBLISHED:
        raise unknown_name("data set to download", name, PUBLISHED)
    published = PUBLISHED[name]
    folder = Path(data) / published.folder
    work = folder.with_name(f".{folder.name}.part")
    lock = folder.with_name(f".{folder.name}.lock")
    if folder.exists() and not (work.exists() or lock.exists()):
        return _complete(folder, published)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock, folder.exists) as stream:
            if stream is not None:
                _fill(folder, published, work, offline_asked(offline), progress)
                release(stream)
                remove(lock)
            else:
                shutil.rmtree(work, ignore_errors=True)  # a killed call can leave it beside the finished folder
    except OSError as error:
        raise VggfeatError(f"{error.filename or folder}: cannot write: {error.strerror or error}") from error
    return _complete(folder, published)


def _fill(folder: Path, published: Published, work: Path, offline: bool, progress: Fetching | None) -> None:
    """Fetches and unpacks in the folder `work`, then renames the result to `folder`."""
    unpacked = work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)  # left by an interrupted call
    for archive in published.archives:
        target = work / archive.filename
        try:
            file = fetch(archive.url, target, digest=archive.digest, progress=progress, offline=offline)
        except DownloadError as error:
            missing = [one for one in published.archives if not (work / one.filename).exists()]
            by_hand = ", ".join(f"put {one.url} ({one.digest}) at {work / one.filename}" for one in missing)
            if offline and len(missing) > 1:
                raise DownloadError(f"fetching is forbidden (offline): {by_hand} and run this again") from None
            if offline:  # its message says where to put the file
                raise
            raise DownloadError(f"{error}; without a network, {by_hand} and run this again") from None
        unpack(file, archive, unpacked)
    found = unpacked / published.top
    if not found.is_dir():
        raise DatasetError(f"{published.archives[0].url}: holds no folder {published.top}")
    _complete(found, published)
    found.rename(folder)
    shutil.rmtree(work)


def _complete(folder: Path, published: Published) -> Path:
    """The folder. Raises DatasetError if a part of the set is missing in it."""
    for proof in published.proofs:
        if not (folder / proof).exists():
            raise DatasetError(f"{folder}: incomplete, {proof} is missing; remove the folder to fetch the set anew")
    return folder
