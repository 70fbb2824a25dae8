"""Tar files of images, read in place: plain ones at any offset, gzipped ones in sequence."""

from __future__ import annotations

import functools
import os
import posixpath
import tarfile
import threading
import zlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vggfeat.errors import DatasetError, ImageError, ReadError
from vggfeat.system.remote import RemoteFile, is_url, path_of, read_range, size_of

_PLAIN = (".tar",)
_GZIPPED = (".tar.gz", ".tgz")
_OTHERS = (".tar.bz2", ".tar.xz", ".tar.zst", ".tbz2", ".txz", ".zip")

_GZIP = b"\x1f\x8b"
_COMPRESSED = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
"""First bytes of other archives, whatever their name."""

_NO_FILES = (b"V", b"N", b"D")
"""GNU's volume label, list of long names and listed folder: headers that leave no file."""
_CONTINUED = b"M"
"""GNU's header of a file that began in another volume."""

_DESCRIBING = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
"""Headers whose content describes the next member: GNU's long names and pax headers."""

_MOST_DESCRIBING = 1 << 20
"""Limit on the bytes of such a header, far above any name: tarfile reads them into memory, whatever it claims."""

CHUNK = 1 << 14
"""Compressed bytes read at once: at most as many before a damage are lost with it."""

MOST_BYTES = 1 << 30
"""Limit on a member's bytes, far above any picture: one that claims more is not read into memory."""

WINDOW = 16 << 20
"""Bytes kept behind the position in a gzipped tar file: decoding threads ask for members nearly in order."""


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file inside a tar file, or one that cannot be read."""

    name: str
    """Its path inside; `inner.tar/name` in a tar file inside it; "" for the archive itself."""
    span: tuple[int, int] | None
    """(offset, length) in the archive's bytes, uncompressed; None where it cannot be read."""
    error: str = ""
    """Why it cannot be read."""
    target: str | None = None
    """The member that a hard link names; only before `members` has resolved it."""
    kept: bool = True
    """Whether unpacking leaves a file of its own here; otherwise it only replaces what had that name."""


def is_tar(path: str) -> bool:
    """Whether a file is named as a tar file. Raises DatasetError for an archive that is not read here."""
    name = (path_of(path) if is_url(path) else path).lower()
    if name.endswith(_OTHERS):
        unpack = "unpack it" if name.endswith(".zip") else "uncompress it"
        raise DatasetError(f"{path}: tar files are read, plain or with gzip: {unpack}")
    return name.endswith(_PLAIN + _GZIPPED)


def members(path: str) -> Iterator[Member]:
    """The regular files that `tar x` would leave, of tar files inside too, in the archive's order; nothing is unpacked.

    Of several members of one name the last counts. A hard link is the file that it names. Archives that follow the
    first (`cat a.tar b.tar`) are read too, as by a GNU tar that ignores zeros. A damaged or cut archive gives what lies
    before the damage, then a member of the archive's own name with the reason; a file that cannot be read in place
    becomes a member with an error. The first bytes decide whether the archive is gzipped, as in tar.

    Raises DatasetError if the file cannot be read at all.
    """
    try:
        with _open(path) as stream:
            yield from _surviving(_archives(stream, "", 0))
    except OSError as error:
        raise DatasetError(f"{path}: this tar file cannot be read: {(error.strerror or str(error)).lower()}") from error


def read_member(path: str, offset: int, length: int) -> bytes:
    """The bytes of a member.

    Raises ImageError if the tar file ends too early or claims more bytes than a picture has, ReadError if it cannot be
    read.
    """
    if length > MOST_BYTES:
        raise ImageError(f"claims {length} bytes, more than any picture has")
    if is_url(path):
        content = _read_remote(path, offset, length)
        if len(content) < length:
            raise ImageError(f"{path} ends inside of it")
        return content
    try:
        with open(path, "rb") as stream:  # noqa: PTH123 - for each picture: pathlib would cost time
            if stream.read(len(_GZIP)) == _GZIP:
                status = os.fstat(stream.fileno())
                content = _sequence(path, status.st_size, status.st_mtime_ns).read(offset, length)
            else:
                room = max(0, stream.seek(0, os.SEEK_END) - offset)  # a header may claim more than any memory holds
                stream.seek(offset)
                content = stream.read(min(length, room))
    except OSError as error:
        raise ReadError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if len(content) < length:
        raise ImageError(f"{path} ends inside of it")
    return content


def _read_remote(url: str, offset: int, length: int) -> bytes:
    try:
        if _is_gzipped(url):
            return _sequence(url, size_of(url), 0).read(offset, length)
        return read_range(url, offset, length)
    except OSError as error:
        raise ReadError(f"{url}: {error.strerror or error}") from None


@functools.lru_cache(maxsize=4096)
def _is_gzipped(url: str) -> bool:
    return read_range(url, 0, len(_GZIP)) == _GZIP


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

    def _proc_member(self, tarfile_: tarfile.TarFile) -> Any:
        """Where tarfile reads what a header describes; its source names this method for subclasses to override."""
        if self.type in _DESCRIBING and not 0 <= self.size <= _MOST_DESCRIBING:
            raise tarfile.ReadError(f"a name or pax header claims {self.size} bytes")
        return super()._proc_member(tarfile_)  # type: ignore[misc]


def _surviving(found: Iterable[Member]) -> list[Member]:
    """The files that are there once everything is unpacked, each in the place of the last member of its name."""
    there: dict[str, Member] = {}
    inside: dict[str, list[str]] = {}
    for member in found:
        place = posixpath.normpath(member.name.lstrip("/")) if member.name else ""
        if not member.error:
            there.pop(place, None)
            for former in inside.pop(place, ()):  # of a tar file that comes again
                there.pop(former, None)
        if not member.kept:
            continue
        if member.target is not None:
            target = there.get(posixpath.normpath(member.target.lstrip("/")))
            error = "" if target else f"a hard link to {member.target}, which is not in this tar file"
            member = replace(target or member, name=member.name, target=None, error=target.error if target else error)
        there[f"{place}\0" if member.error else place] = member  # the archive itself may also have lost something
        outer = place.rpartition(".tar/")[0]
        if outer:
            inside.setdefault(f"{outer}.tar", []).append(place)
    return list(there.values())


def _archives(stream: Any, inside: str, start: int) -> Iterator[Member]:
    """The members of an archive at `start` of the whole, and of archives behind it; their names are below `inside`.

    `tar x` ends at the first archive, but nobody appends one in order to lose it. Other bytes behind the end are not
    an archive's.
    """
    at: int | None = stream.tell()
    while at is not None:
        at = yield from _members(stream, inside, start)
        at = None if at is None else _next_archive(stream, at)


def _next_archive(stream: Any, position: int) -> int | None:
    """Goes to the next header after the end mark at `position`; None if only zeros or other data follow."""
    stream.seek(position)
    while block := stream.read(tarfile.BLOCKSIZE):
        if block.strip(b"\0"):
            try:
                tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
            except tarfile.HeaderError:
                return None
            stream.seek(position)
            return position
        position += len(block)
    return None


def _members(stream: Any, inside: str, start: int) -> Generator[Member, None, int | None]:
    """The members of one archive, from the stream's position; returns where its end mark is, None if damaged."""
    last = ""
    try:
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header) as tar:
            for header in tar:
                name = inside + header.name.removeprefix("./")
                span = (start + header.offset_data, header.size)
                if header.isdir() or header.type in _NO_FILES:
                    continue
                if header.isfile() and name.lower().endswith(_PLAIN):
                    yield Member(name, None, kept=False)
                    yield from _archives(tar.extractfile(header), f"{name}/", span[0])
                else:
                    yield _member(header, name, span, inside)
                last = name if header.isfile() else last
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
            return tar.offset
    except (tarfile.TarError, RecursionError) as error:
        # tarfile calls itself for each name header in front of a member: hundreds of them are damage.
        reason = getattr(stream, "damage", "") or _compression(stream) or str(error)
        where = f"damaged after {last}" if last else "no readable tar file"
        yield Member(inside.removesuffix("/"), None, f"{where}: {reason}; what follows is lost")
        return None


def _member(header: tarfile.TarInfo, name: str, span: tuple[int, int], inside: str) -> Member:
    """What a header other than a folder's leaves when unpacked."""
    if header.islnk():
        return Member(name, None, target=inside + header.linkname.removeprefix("./"))
    if header.issparse():
        return Member(name, None, "stored as a sparse file: unpack the tar file")
    if header.type == _CONTINUED:
        return Member(name, None, "begun in another volume of the tar file: join them and unpack it")
    if header.isfile() or header.type not in tarfile.SUPPORTED_TYPES:
        return Member(name, span)  # tar unpacks what it does not know as a regular file
    return Member(name, None, kept=False)  # a symbolic link, a device


def _compression(stream: Any) -> str:
    """How an archive is compressed that cannot be read; "" if it is not."""
    if isinstance(stream, _Inflated):
        return ""
    stream.seek(0)
    head = stream.read(8)
    return next((f"it is compressed with {name}" for start, name in _COMPRESSED.items() if head.startswith(start)), "")


def _open(path: str) -> Any:
    stream = _bytes_of(path)
    head = stream.read(8)
    stream.seek(0)
    if head.startswith(_GZIP):
        stream.close()
        return _Inflated(path)
    return stream


def _bytes_of(path: str) -> Any:
    """A file or URL as a stream, which the caller closes."""
    return RemoteFile(path) if is_url(path) else Path(path).open("rb")


class _Inflated:
    """The content of a gzip file as a stream that goes forward, and back within what was read last.

    Python's gzip drops data at a damage; this stream gives everything before it, then ends with the reason in `damage`.
    """

    def __init__(self, path: str) -> None:
        self._file = _bytes_of(path)
        self._engine = zlib.decompressobj(wbits=31)
        self._ready = bytearray()
        self._position = 0
        self._last = b""
        self._ended = False
        self.damage = ""

    def read(self, size: int) -> bytes:
        """The next `size` bytes, or fewer at the end."""
        while len(self._ready) < size and not self._ended:
            self._inflate()
        out = bytes(self._ready[:size])
        del self._ready[:size]
        self._last = out or self._last
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
        """Goes to a position, at most back to where the last read began."""
        back = self._position - position
        if whence != os.SEEK_SET or back > len(self._last):
            raise OSError("a gzip stream only goes forward")
        if back > 0:
            self._ready[:0] = self._last[-back:]
            self._last, self._position = b"", position
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
    """Parts of a gzip file; cheap if each begins after the last one or at most WINDOW before it."""

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
