"""Writing a file whole or not at all; checks for names of any kind."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vggfeat.errors import VggfeatError


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to `path` if the block succeeds and removed otherwise.

    Raises VggfeatError, naming `path`, if the folder cannot be written or `path` is itself a folder.
    """
    target = Path(path)
    temporary = _beside(target)
    try:
        yield temporary
        # mkstemp makes private files; a result is as readable as any other file of the user's.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise VggfeatError(f"{target}: cannot write: {error.strerror or error}") from error
        raise


def check_writable(*paths: str | Path | None) -> None:
    """Raises what `replacing` would raise for these paths, so that a run fails before its work and not after it."""
    for path in paths:
        if path is not None:
            _beside(Path(path)).unlink(missing_ok=True)  # another process may have tidied up


def _beside(target: Path) -> Path:
    """A new empty file in target's folder, which is created if missing."""
    if target.is_dir():
        raise VggfeatError(f"{target}: cannot write: it is a folder, name a file in it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except OSError as error:
        raise VggfeatError(f"{target}: cannot write here: {error.strerror}") from error
    os.close(handle)
    return Path(name)


def is_file(name: str | os.PathLike[str]) -> bool:
    """Whether a file of this name exists; False for a name that no system allows, where pathlib raises."""
    return os.path.isfile(name)  # noqa: PTH113


def exists(name: str | os.PathLike[str]) -> bool:
    """Whether anything of this name exists; False for a name that no system allows, where pathlib raises."""
    return os.path.exists(name)  # noqa: PTH110
