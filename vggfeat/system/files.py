"""Writing a file whole or not at all; checks for names of any kind."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from vggfeat.errors import VggfeatError

TRIES, PAUSE = 5, 0.2
"""Attempts to replace a file, and the seconds between them: virus scanners on Windows open a new file for a moment."""

WINDOWS_LONGEST = 260
"""Characters of a path, its end mark included, that Windows allows unless long paths are switched on."""


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to `path` if the block succeeds and removed otherwise.

    Windows cannot replace a file that is open in another program: the result then stays under a name beside `path`.

    Raises VggfeatError, naming `path`, if the folder cannot be written or `path` is itself a folder or in use.
    """
    target = Path(path)
    temporary = _beside(target)
    try:
        yield temporary
        with temporary.open("r+b") as stream:  # Windows flushes no file that is open for reading alone
            os.fsync(stream.fileno())
        # mkstemp makes private files; a result is as readable as any other file of the user's.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        _rename(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise VggfeatError(f"{target}: cannot write: {error.strerror or error}") from error
        raise


def _rename(temporary: Path, target: Path) -> None:
    """Renames a finished file to its own name, or to a free one beside it where the system refuses that."""
    for left in reversed(range(TRIES)):
        try:
            temporary.replace(target)
            return
        except PermissionError:
            if not target.exists():
                raise
            if left:
                time.sleep(PAUSE)
    kept = target.with_name(f"{target.stem}.{temporary.stem[-8:]}{target.suffix}")  # tempfile's random part
    temporary.replace(kept)
    raise VggfeatError(f"{target}: cannot replace it; is it open in another program? The result is in {kept}")


def same_file(a: str | Path, b: str | Path) -> bool:
    """Whether two names mean one file: by the file system, which may ignore case, or by the path if it is missing."""
    a, b = Path(a), Path(b)
    if exists(a) and exists(b):
        return a.samefile(b)
    return a.resolve() == b.resolve()


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
        raise VggfeatError(f"{target}: cannot write here: {_reason(error, target)}") from error
    os.close(handle)
    return Path(name)


def _reason(error: OSError, target: Path) -> str | None:
    """The system's reason; Windows says "No such file or directory" of a path that is too long."""
    length = len(f"{target.absolute()}") + len(". 12345678.part")  # the temporary name's
    if sys.platform == "win32" and length >= WINDOWS_LONGEST:
        return f"the path is too long for Windows, whose limit is {WINDOWS_LONGEST} characters; name a shorter one"
    return error.strerror


def is_file(name: str | os.PathLike[str]) -> bool:
    """Whether a file of this name exists; False for a name that no system allows, where pathlib raises."""
    return os.path.isfile(name)  # noqa: PTH113


def exists(name: str | os.PathLike[str]) -> bool:
    """Whether anything of this name exists; False for a name that no system allows, where pathlib raises."""
    return os.path.exists(name)  # noqa: PTH110
