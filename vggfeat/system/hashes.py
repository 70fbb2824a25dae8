"""Hashes of files, and their comparison with published ones."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

from vggfeat.errors import DownloadError, VggfeatError


def digests(path: str | Path, *algorithms: str) -> dict[str, str]:
    """The file's hashes, hexadecimal, in one pass over it."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    try:
        with Path(path).open("rb") as stream:
            while chunk := stream.read(1 << 20):
                for found in hashes.values():
                    found.update(chunk)
    except OSError as error:
        raise VggfeatError(f"{path}: cannot be read: {error.strerror or error}") from error
    return {name: found.hexdigest() for name, found in hashes.items()}


def digests_ahead(path: str | Path, *algorithms: str) -> Future[dict[str, str]]:
    """The same in a thread, while the caller reads the file; if that fails, nothing waits for the thread."""
    future: Future[dict[str, str]] = Future()

    def work() -> None:
        try:
            future.set_result(digests(path, *algorithms))
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    return future


def algorithm(digest: str) -> str:
    """The hash function's name in `algorithm:hex`."""
    return digest.partition(":")[0].removesuffix("-prefix")


def matches(digest: str, found: str) -> bool:
    """Whether a hexadecimal hash is the published one."""
    kind, _, published = digest.partition(":")
    return found.startswith(published) if kind.endswith("-prefix") else found == published


def check_digest(what: str | Path, digest: str, found: str, advice: str = "") -> None:
    """Raises DownloadError, naming both hashes, if the one found for `what` is not the published one."""
    if not matches(digest, found):
        got = f"{algorithm(digest)}:{found}"
        raise DownloadError(f"{what}: not the published file: expected {digest}, got {got}{advice}")
