"""Published weights into the cache, benchmark sets into the data root. Imports no torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from vggfeat.datasets.archives import PUBLISHED, Published, unpack
from vggfeat.errors import DatasetError, VggfeatError, unknown_name
from vggfeat.nets.cache import CachedFile, published_file
from vggfeat.system.fetch import Progress, fetch, locked, offline_asked, release


def download_weights(
    net: str, source: str | None = None, *, offline: bool | None = None, progress: Progress | None = None
) -> CachedFile:
    """The published weights of a net in the cache, fetched unless they are there; `path` is where.

    Raises UsageError where none are published, DownloadError where they cannot be had.
    """
    return published_file(net, source or "published", offline=offline, progress=progress)


def download_dataset(
    name: str, data: str | Path = "data", *, offline: bool | None = None, progress: Progress | None = None
) -> Path:
    """A benchmark set below the data root, fetched and unpacked unless it is there; returns its folder.

    The folder appears whole: it is unpacked beside its place and renamed, and the archives are removed then. What
    an interrupted call has fetched is continued by the next one; a second process waits for the first.

    Raises:
        UsageError: a set that cannot be fetched.
        DownloadError: the archives cannot be had, or are not the published ones.
        DatasetError: an archive is damaged, or a part of the set is there already.
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
                lock.unlink()
            else:
                shutil.rmtree(work, ignore_errors=True)  # of a call that was killed after it had made the folder
    except OSError as error:
        raise VggfeatError(f"{error.filename or folder}: cannot write: {error.strerror or error}") from error
    return _complete(folder, published)


def _fill(folder: Path, published: Published, work: Path, offline: bool, progress: Progress | None) -> None:
    """Fetches and unpacks in the folder `work`, then gives the result its name."""
    unpacked = work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)  # of a call that was interrupted
    for archive in published.archives:
        file = fetch(archive.url, work / archive.filename, digest=archive.digest, progress=progress, offline=offline)
        unpack(file, archive, unpacked)
    found = unpacked / published.top
    if not found.is_dir():
        raise DatasetError(f"{published.archives[0].url}: holds no folder {published.top}")
    _complete(found, published)
    found.rename(folder)
    shutil.rmtree(work)


def _complete(folder: Path, published: Published) -> Path:
    """The folder, if no part of the set is missing in it."""
    for proof in published.proofs:
        if not (folder / proof).exists():
            raise DatasetError(f"{folder}: incomplete, {proof} is missing; remove the folder to fetch the set anew")
    return folder
