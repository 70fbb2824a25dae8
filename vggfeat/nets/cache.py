"""The user's cache of published weights. Imports no torch."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from vggfeat.errors import DownloadError, UsageError
from vggfeat.nets.catalog import NETS, SOURCES, WeightsRow, net_spec, weights_rows
from vggfeat.system.bars import Fetching
from vggfeat.system.fetch import fetch, offline_asked
from vggfeat.system.hashes import algorithm, check_digest, digests

log = logging.getLogger("vggfeat")


@dataclass(frozen=True)
class CachedFile:
    """A published file in the cache, its hash checked."""

    row: WeightsRow
    path: Path
    sha256: str


def cache_folder() -> Path:
    """`VGGFEAT_CACHE`, or else vggfeat's folder in the user's cache folder.

    Raises UsageError where neither is known: in some containers the user has no home folder.
    """
    try:
        return _cache_folder()
    except RuntimeError as error:  # Path.home's
        raise UsageError(
            "this user has no home folder to keep downloaded weights in: set VGGFEAT_CACHE to a folder"
        ) from error


def _cache_folder() -> Path:
    if own := os.environ.get("VGGFEAT_CACHE"):
        return Path(own)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "vggfeat"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "vggfeat"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vggfeat"


def cached_path(row: WeightsRow) -> Path:
    """Path of a published file in the cache, whether it is there or not."""
    return cache_folder() / "weights" / row.filename


def published_file(
    net: str, source: str = "published", *, offline: bool | None = None, progress: Fetching | None = None
) -> CachedFile:
    """The published weights of a net from the cache, or else from their publisher; their hash is checked.

    Raises:
        UsageError: an unknown net or source, or one without published weights.
        DownloadError: they are not in the cache and cannot be fetched; the message says which file to put where.
    """
    rows = check_available(net, source, offline)
    for row in rows:
        if cached_path(row).exists():
            return _hashed(row)
    faults = []
    for row in rows:
        size = f" ({row.size / 1e6:.0f} MB)" if row.size else ""
        # A warning, so that a download of half a gigabyte is announced even without logging set up.
        log.warning("fetching %s%s to %s", row.url, size, cached_path(row))
        try:
            fetch(row.url, cached_path(row), digest=row.digest, size=row.size, progress=progress)
        except DownloadError as error:  # another publisher may have the same weights
            log.warning("%s", error)
            faults.append(str(error))
        else:
            return _hashed(row)
    raise DownloadError(f"{'; '.join(faults)}; without a network, {_by_hand(rows[0])}")


def check_available(
    net: str, source: str, offline: bool | None = None, setting: str = "weights"
) -> tuple[WeightsRow, ...]:
    """The rows of `published_file`; raises its errors for weights that do not exist or must not be fetched.

    `setting`: the parameter that names the weights.
    """
    rows = weights_rows(net, source)
    if not rows:
        raise UsageError(_nothing_published(net, source, setting))
    if offline_asked(offline) and not any(cached_path(row).exists() for row in rows):
        asked = "VGGFEAT_OFFLINE" if offline is None else "`offline` or VGGFEAT_OFFLINE"
        raise DownloadError(
            f"the weights of net {rows[0].net} ({rows[0].source}) are not in the cache, and fetching is forbidden "
            f"({asked}); {_by_hand(rows[0])}"
        )
    return rows


def _hashed(row: WeightsRow) -> CachedFile:
    """The cached file, checked at every load: its sha256 is needed for the record anyway."""
    path = cached_path(row)
    found = digests(path, "sha256", algorithm(row.digest))
    check_digest(path, row.digest, found[algorithm(row.digest)], "; remove it to fetch it anew")
    return CachedFile(row, path, found["sha256"])


def _by_hand(row: WeightsRow) -> str:
    return f"put {row.url} ({row.digest}) at {cached_path(row)}"


def random_by(setting: str) -> str:
    """How random weights are chosen in place of those that a parameter names."""
    return "take `weights=none`" if setting == "weights" else f"leave out `{setting}`"


def _nothing_published(net: str, source: str, setting: str) -> str:
    name = net_spec(net).name
    have = [f"{other} ({', '.join(sources)})" for other in NETS if (sources := _sources(other))]
    which = "weights" if source == "published" else f"{source} weights"
    instead = f"or give a file, or {random_by(setting)} for random ones"
    return f"no {which} of net {name} are published; there are {', '.join(have)}; {instead}"


def _sources(net: str) -> list[str]:
    return [source for source in SOURCES if any(row.source == source for row in weights_rows(net, source))]
