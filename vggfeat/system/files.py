"""Writing a file whole or not at all; checks for names of any kind."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from vggfeat.errors import InUseError, UsageError, VggfeatError

E = TypeVar("E", bound=VggfeatError)

PATIENCE, PAUSE = 1.0, 0.2
"""Seconds for which a file is tried again, and those between: virus scanners on Windows open new files for a moment."""

WINDOWS_LONGEST = 260
"""Characters of a path, its end mark included, that Windows allows unless long paths are switched on."""


@contextlib.contextmanager
def replacing(path: str | Path, patience: float = PATIENCE) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to `path` if the block succeeds and removed otherwise.

    Windows cannot replace a file that is open in another program: after `patience` seconds the result stays under a
    name beside `path`.

    A link stays, and what it points to is replaced.

    Raises InUseError if Windows still refuses after `patience` seconds, and VggfeatError, naming `path`, if the folder
    cannot be written or `path` is itself a folder, or a device or pipe, which the file would take the place of.
    """
    target = _target(path)
    temporary = _beside(target)
    try:
        yield temporary
        _patiently(lambda: _flush(temporary), patience)
        _rename(temporary, target, patience)
    except BaseException as error:
        if not (isinstance(error, InUseError) and error.kept == temporary):
            discard(temporary)
        if isinstance(error, OSError):
            raise VggfeatError(f"{target}: cannot write: {error.strerror or error}") from error
        raise


def discard(path: Path) -> None:
    """Removes a file that is of no use, if the system allows it: Windows removes no open file."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _patiently(act: Callable[[], object], patience: float) -> None:
    """Acts, and again for `patience` seconds where that is refused. Raises the last PermissionError."""
    for _ in range(round(patience / PAUSE)):
        try:
            act()
            return
        except PermissionError:
            time.sleep(PAUSE)
    act()


def _flush(temporary: Path) -> None:
    """Puts a finished file on the disk, as readable as any other file of the user's: mkstemp makes private ones."""
    with temporary.open("r+b") as stream:  # Windows flushes no file that is open for reading alone
        os.fsync(stream.fileno())
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)


def _rename(temporary: Path, target: Path, patience: float) -> None:
    """Renames a finished file to its own name, or to a free one beside it where the system refuses that."""
    try:
        _patiently(lambda: temporary.replace(target), patience)
    except PermissionError as error:
        if not target.exists():
            raise
        kept = target.with_name(f"{target.stem}.{temporary.stem[-8:]}{target.suffix}")  # tempfile's random part
        try:
            temporary.replace(kept)
        except PermissionError:  # the new file itself is open
            kept = temporary
        raise InUseError(target, kept) from error


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
            discard(_beside(_target(path)))


def check_creatable(path: Path) -> None:
    """Raises what `check_writable` would, as far as it can be told without making a missing folder."""
    if exists(path):
        check_writable(path)
    folder = followed(path).parent
    above = next((one for one in (folder, *folder.absolute().parents) if exists(one)), folder)
    if not above.is_dir():
        reason = errno.ENOTDIR
    elif hasattr(os, "statvfs") and os.statvfs(above).f_flag & os.ST_RDONLY:
        reason = errno.EROFS
    elif not os.access(above, os.W_OK):
        reason = errno.EACCES
    else:
        return
    raise VggfeatError(f"{path}: cannot write here: {os.strerror(reason)}")


def check_replaceable(path: str | Path | None, own: Callable[[Path], bool], what: str) -> None:
    """Raises what `replacing` would, and VggfeatError for a file that is not `what` a run writes there.

    A run may replace what an earlier one wrote, but not, by a slip of the pen, its own input or a picture. `own` tells
    by the content; an empty file is nobody's loss.
    """
    if path is None:
        return
    check_writable(path)
    if is_file(path) and os.path.getsize(path) and not own(Path(path)):  # noqa: PTH202
        raise VggfeatError(f"{path} exists and is not {what}, so it is not replaced: name another file")


def written_at(path: str | Path | None) -> int | None:
    """When a file was last written, in nanoseconds; None without one."""
    return None if path is None or not is_file(path) else os.stat(path).st_mtime_ns  # noqa: PTH116


def check_apart(**outputs: str | Path | None) -> None:
    """Raises UsageError for two outputs, by their parameters, that are one file: the second would replace the first."""
    given = [(name, path) for name, path in outputs.items() if path is not None]
    for at, (name, path) in enumerate(given):
        for other, its in given[:at]:
            if same_file(path, its):
                raise UsageError(f"`{other}` and `{name}` are the same file, {path}: name another one")


def followed(path: str | Path) -> Path:
    """What a link points to, whether or not it exists; any other path itself, and a link in a circle."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)  # noqa: PTH114


def _target(path: str | Path) -> Path:
    """What a path means, links followed. Raises VggfeatError for a device or a pipe: `/dev/stdout` is a link to one."""
    if exists(path) and not is_file(path) and not Path(path).is_dir():
        raise VggfeatError(f"{path}: cannot write: it is a device or a pipe, name a file")
    return followed(path)


def _beside(target: Path) -> Path:
    """A new empty file in target's folder, which is created if missing."""
    if target.is_dir():
        raise VggfeatError(f"{target}: cannot write: it is a folder, name a file in it")
    if "-" in (str(target), str(target.parent)):
        raise VggfeatError("-: cannot write to the standard output: name a file or a folder")
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


def folder_error(kind: type[E], folder: Path, suffixes: tuple[str, ...], wanted: str, advice: str = "describe") -> E:
    """The error for a folder in place of a file, which says what to name: a file in it or, by `advice`, what else."""
    names = [entry.name for entry in folder.iterdir() if entry.suffix in suffixes]
    names.sort(key=lambda name: (".shard-" in name, name))  # a part is named only where there is no whole
    if names:
        return kind(f"{folder} is a folder: name a file in it, such as {folder / names[0]}")
    return kind(f"{folder} is a folder without {wanted}", advice=advice, folder=folder)


def is_file(name: str | os.PathLike[str]) -> bool:
    """Whether a file of this name exists; False for a name that no system allows, where pathlib raises."""
    return os.path.isfile(name)  # noqa: PTH113


def no_file(path: str | os.PathLike[str]) -> str:
    """Why a path that is no file is none."""
    return "not a regular file" if exists(path) else "no such file"


def exists(name: str | os.PathLike[str]) -> bool:
    """Whether anything of this name exists; False for a name that no system allows, where pathlib raises."""
    return os.path.exists(name)  # noqa: PTH110
