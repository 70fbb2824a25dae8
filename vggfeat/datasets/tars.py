"""Tar files of images, read where they lie: plain ones at any place, gzipped ones in sequence."""

from __future__ import annotations

import functools
import os
import tarfile
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vggfeat.errors import DatasetError, ImageError, ReadError

_PLAIN = (".tar",)
_GZIPPED = (".tar.gz", ".tgz")
_OTHERS = (".tar.bz2", ".tar.xz", ".tar.zst", ".tbz2", ".txz")

CHUNK = 1 << 14
"""Compressed bytes taken at once. What a damaged gzip file still gives ends at most so far before the damage."""

MOST_BYTES = 1 << 30
"""No picture that may be decoded needs near as many: a member that claims more is not taken into memory."""

WINDOW = 16 << 20
"""Bytes kept of what was passed in a gzipped tar file: decoding threads ask for its members nearly in order."""


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file inside a tar file, or one that is lost."""

    name: str
    """Its path inside; `inner.tar/name` inside of a tar file in it; "" for the archive itself."""
    span: tuple[int, int] | None
    """(offset, length) in the archive's bytes, uncompressed; None where it cannot be read."""
    error: str = ""
    """Why it cannot be read."""


def is_tar(path: str) -> bool:
    """Whether a file's name is a tar file's. Raises DatasetError for a compression that is not read here."""
    name = path.lower()
    if name.endswith(_OTHERS):
        raise DatasetError(f"{path}: tar files are read plain or with gzip: uncompress it")
    return name.endswith(_PLAIN + _GZIPPED)


def members(path: str) -> Iterator[Member]:
    """The regular files of a tar file, and of tar files in it, in its order; it is not unpacked.

    A damaged or cut archive gives what lies before the damage, then a member of the archive's own name with the
    reason. Raises DatasetError where the file cannot be read at all.
    """
    try:
        with _open(path) as stream:
            yield from _members(stream, "", 0)
    except OSError as error:
        raise DatasetError(f"{path}: this tar file cannot be read: {(error.strerror or str(error)).lower()}") from error


def read_member(path: str, offset: int, length: int) -> bytes:
    """The bytes of a member. Raises ImageError where the tar file ends too early or claims more bytes than a
    picture has, ReadError where it has gone.
    """
    if length > MOST_BYTES:
        raise ImageError(f"claims {length} bytes, more than any picture has")
    try:
        if path.lower().endswith(_GZIPPED):
            status = Path(path).stat()
            content = _sequence(path, status.st_size, status.st_mtime_ns).read(offset, length)
        else:
            with open(path, "rb") as stream:  # noqa: PTH123 - as in images.py
                room = max(0, stream.seek(0, os.SEEK_END) - offset)  # a header may claim more than any memory holds
                stream.seek(offset)
                content = stream.read(min(length, room))
    except OSError as error:
        raise ReadError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if len(content) < length:
        raise ImageError(f"{path} ends inside of it")
    return content


class _Header(tarfile.TarInfo):
    """A member's header. tarfile takes a damaged one after the first for the archive's end; here it is an error."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Any:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the end mark, which every tar program writes
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


def _members(stream: Any, inside: str, start: int) -> Iterator[Member]:
    """The members of an archive that lies at `start` of the whole, its names below `inside`."""
    last = ""
    try:
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header) as tar:
            for member in tar:
                name = inside + member.name.removeprefix("./")
                span = (start + member.offset_data, member.size)
                if not member.isfile():
                    continue
                if name.lower().endswith(_PLAIN):
                    yield from _members(tar.extractfile(member), f"{name}/", span[0])
                elif member.issparse():
                    yield Member(name, None, "stored as a sparse file: unpack the tar file")
                else:
                    yield Member(name, span)
                last = name
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
    except tarfile.TarError as error:
        reason = getattr(stream, "damage", "") or str(error)
        where = f"damaged after {last}" if last else "no readable tar file"
        yield Member(inside.removesuffix("/"), None, f"{where}: {reason}; what follows is lost")


def _open(path: str) -> Any:
    return _Inflated(path) if path.lower().endswith(_GZIPPED) else Path(path).open("rb")


class _Inflated:
    """The content of a gzip file as a stream that only goes forward.

    Python's own raises at damage and drops what it had; this one gives all that comes before, then ends with the
    reason in `damage`.
    """

    def __init__(self, path: str) -> None:
        self._file: BinaryIO = Path(path).open("rb")  # noqa: SIM115 - closed by close()
        self._engine = zlib.decompressobj(wbits=31)
        self._ready = bytearray()
        self._position = 0
        self._ended = False
        self.damage = ""

    def read(self, size: int) -> bytes:
        """The next `size` bytes, or fewer at the end."""
        while len(self._ready) < size and not self._ended:
            self._inflate()
        out = bytes(self._ready[:size])
        del self._ready[:size]
        self._position += len(out)
        return out

    def _inflate(self) -> None:
        # A gzip file may be several, one after the other (pigz, bgzip): the rest of one chunk starts the next.
        data = self._file.read(CHUNK)
        if self._engine.eof:
            data = (self._engine.unused_data + data).lstrip(b"\0")
            self._engine = zlib.decompressobj(wbits=31)
            if not data.startswith(b"\x1f\x8b"):
                self._ended = True
                return
        try:
            if data:
                self._ready += self._engine.decompress(data)
            else:
                self._ended, self.damage = True, "the gzip data are cut off"
        except zlib.error as error:
            self._ended, self.damage = True, f"damaged gzip data ({error})"

    def seekable(self) -> bool:
        """Forward, at least: that is all that tarfile does."""
        return True

    def tell(self) -> int:
        """Bytes read so far."""
        return self._position

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        """Goes forward to a position."""
        if whence != os.SEEK_SET or position < self._position:
            raise OSError("a gzip stream only goes forward")
        while self._position < position and self.read(min(WINDOW, position - self._position)):
            pass
        return self._position

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> _Inflated:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Sequence:
    """Parts of a gzip file, cheap where each begins after the last one or at most WINDOW before it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stream = _Inflated(path)
        self._window = bytearray()

    def read(self, offset: int, length: int) -> bytes:
        """(offset, length) of the uncompressed bytes, or fewer where they end."""
        with self._lock:
            if offset < self._stream.tell() - len(self._window):
                self._stream.close()
                self._stream, self._window = _Inflated(self._path), bytearray()
            while (missing := offset + length - self._stream.tell()) > 0:
                piece = self._stream.read(min(missing, 1 << 20))
                if not piece:
                    break
                self._window += piece
                passed = min(len(self._window) - WINDOW, offset - (self._stream.tell() - len(self._window)))
                if passed > WINDOW // 4:  # not at every piece: what stays is moved
                    del self._window[:passed]
            start = offset - (self._stream.tell() - len(self._window))
            return bytes(self._window[start : start + length])


@functools.lru_cache(maxsize=4)
def _sequence(path: str, size: int, modified: int) -> _Sequence:
    """The open file of that name and state; a few, since the images in work may come from two or three."""
    return _Sequence(path)
