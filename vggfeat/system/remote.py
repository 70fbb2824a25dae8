"""Files by URL, through fsspec: http and https, s3, gs and others, each where its package is installed.

Bytes are asked for in ranges, each with a few tries, so a connection that is lost costs time, not the file.
"""

from __future__ import annotations

import errno
import functools
import inspect
import io
import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from vggfeat.system.numbers import number_of

T = TypeVar("T")

TRIES = 4
"""Attempts at a range."""

WAIT = 0.5
"""Seconds before the second attempt; each later one waits twice as long."""

CONNECT, ANSWER = 30, 60
"""Seconds until an http server accepts a connection, and until it sends something."""

BLOCK = 1 << 20
"""Bytes asked for at once while a file is read from the start."""

EXTRAS = {
    "http": "pip install 'vggfeat[url]'",
    "https": "pip install 'vggfeat[url]'",
    "s3": "pip install 'vggfeat[s3]'",
}
"""What to install for a protocol."""

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def is_url(path: str) -> bool:
    """Whether a path is a URL such as `https://host/data.tar` or `s3://bucket/data.tar`."""
    return _URL.match(path) is not None


def path_of(url: str) -> str:
    """A URL's host and path, without the query that signed links have."""
    return re.split(r"[?#]", url.partition("://")[2], maxsplit=1)[0]


class ProtocolError(OSError):
    """A URL's protocol cannot be read here, however often it is tried."""


def read_range(url: str, start: int, length: int) -> bytes:
    """Bytes of a file, fewer where it ends. Raises OSError in the system's or the server's words."""
    stop = min(start + length, size_of(url))
    if stop <= start:
        return b""
    return _tried(url, lambda: _whole_range(url, start, stop))


def read_all(url: str) -> bytes:
    """A whole file. Raises OSError."""
    content: bytes = _tried(url, lambda: _asked(url, "cat_file"))
    return content


def exists(url: str) -> bool:
    """Whether there is such a file. Raises OSError if nothing answers."""
    try:
        size_of(url)
    except FileNotFoundError:
        return False
    return True


@functools.lru_cache(maxsize=4096)
def size_of(url: str) -> int:
    """Bytes of a file. Raises OSError, also for a server that does not tell."""
    size = _tried(url, lambda: _asked(url, "info").get("size"))
    if size is None:
        raise OSError("the server does not tell its size")
    return int(size)


def _asked(url: str, method: str) -> Any:
    """What the file system answers about a file, or its content."""
    files, path = _opened(url)
    return getattr(files, method)(path)


def _whole_range(url: str, start: int, stop: int) -> bytes:
    files, path = _opened(url)
    content: bytes = files.cat_file(path, start=start, end=stop)
    if len(content) == stop - start:
        return content
    if len(content) != size_of(url):
        raise OSError(f"{len(content)} of {number_of(stop - start, 'byte')} came")
    return content[start:stop]  # a server without ranges sends everything


def unreadable(url: str) -> str:
    """Why such a URL cannot be read here, as far as its name alone tells; "" where a server has to be asked."""
    try:
        _known(url)
    except ProtocolError as error:
        return str(error)
    return ""


def _opened(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it; fsspec keeps one per server and thread."""
    import fsspec

    protocol, options = _known(url)
    if "::" in url:  # part of a name, where `url_to_fs` would read a chain of file systems
        return fsspec.filesystem(protocol, **options), url
    try:
        files, path = fsspec.core.url_to_fs(url, **options)
    except TypeError:  # an argument that no URL has
        raise ProtocolError(f"fsspec cannot open {protocol}:// by a URL alone") from None
    return files, path


def _known(url: str) -> tuple[str, dict[str, Any]]:
    """A URL's protocol and what fsspec is told about it. Raises ProtocolError for one that cannot be read here."""
    import fsspec

    protocol = url.partition("://")[0].lower()
    options: dict[str, Any] = {}
    try:
        if protocol in ("http", "https"):
            import aiohttp

            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=ANSWER)
            options["client_kwargs"] = {"timeout": timeout}
        kind = fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        install = EXTRAS.get(protocol, _words(error))
        raise ProtocolError(f"{protocol}:// needs a package that is not installed ({install})") from None
    except ValueError:  # fsspec's word for an unknown protocol
        raise ProtocolError(f"{protocol}:// is not a protocol that fsspec knows") from None
    if "::" not in url and _needs_host(kind) and not _host(url):  # fsspec would fail halfway, in several tracebacks
        raise ProtocolError(f"{protocol}:// needs a host: {protocol}://host/path")
    return protocol, options


@functools.cache
def _needs_host(kind: type) -> bool:
    """Whether a file system is opened for a host, as ftp's is."""
    host = inspect.signature(kind.__init__).parameters.get("host")  # type: ignore[misc]  # whatever class it is
    return host is not None and host.default is host.empty


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # a bracket without its twin
        return None


def _tried(url: str, act: Callable[[], T]) -> T:
    """What `act` returns, after a few attempts."""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(WAIT * 2 ** (attempt - 1))
        try:
            return act()
        except PermissionError:
            raise PermissionError(errno.EACCES, "permission denied") from None
        except ProtocolError:
            raise
        except Exception as error:  # the protocols' libraries have no common base
            if _is_missing(url, error):
                raise FileNotFoundError(errno.ENOENT, "no such file") from None
            last = error
    raise OSError(f"{_words(last)}, {TRIES} times") from None


def _is_missing(url: str, error: Exception) -> bool:
    """Whether a file does not exist. fsspec says so of http servers that do not answer too; the cause tells them."""
    if not isinstance(error, FileNotFoundError):
        return False
    cause = error.__cause__
    return not url.lower().startswith("http") or cause is None or getattr(cause, "status", None) in (404, 410)


def _words(error: Exception) -> str:
    """An error in one line; some libraries' errors have no text."""
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    words = (str(error).splitlines() or [""])[0] or type(error).__name__
    unconnected = _UNCONNECTED.fullmatch(words)
    return words if unconnected is None else f"{unconnected[1]}{_reason(error, unconnected[2])}"


_UNCONNECTED = re.compile(r"(Cannot connect to .*?) ssl:.*? \[(.*)\]")
"""aiohttp's words for a server that does not answer: where, and why in the terms of asyncio or OpenSSL."""


def _reason(error: Exception, words: str) -> str:
    """Why there is no connection, in the system's words."""
    certificate = getattr(getattr(error, "certificate_error", None), "verify_message", "")
    if certificate:
        return f": certificate refused: {certificate}"
    number = getattr(getattr(error, "os_error", None), "errno", None) or 0
    if number > 0:
        return f": {os.strerror(number)}"
    return "" if words == "None" else f": {words}"  # several addresses of a host, each with a reason


class RemoteFile(io.RawIOBase):
    """A file by URL as a stream of bytes that can seek; it holds one block."""

    def __init__(self, url: str, block: int = BLOCK) -> None:
        self._url, self._size, self._block = url, size_of(url), block
        self._position, self._start, self._held = 0, 0, b""
        self._lock = threading.Lock()

    def read(self, size: int = -1, /) -> bytes:
        """The next `size` bytes, or fewer at the end. Raises OSError; the position then stays, for another attempt."""
        with self._lock:
            stop = self._size if size < 0 else min(self._position + size, self._size)
            parts, at = [], self._position
            while at < stop:
                if not self._start <= at < self._start + len(self._held):
                    self._start, self._held = at, read_range(self._url, at, self._block)
                part = self._held[at - self._start : stop - self._start]
                parts.append(part)
                at += len(part)
            self._position = max(at, self._position)
            return b"".join(parts)

    def seek(self, position: int, whence: int = os.SEEK_SET, /) -> int:
        """Goes to a position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + position
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True
