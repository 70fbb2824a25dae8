"""Downloads over HTTP: resumed, counted and hashed; a file appears only if its hash is the published one."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from vggfeat._version import __version__
from vggfeat.errors import DownloadError, VggfeatError
from vggfeat.system.bars import Fetching
from vggfeat.system.hashes import algorithm, check_digest, digests
from vggfeat.system.locking import locked, moves_open_files, release
from vggfeat.system.numbers import number_of

ATTEMPTS = 5
"""Failed tries in a row after which a server counts as unreachable."""

PROGRESS_BYTES = 1 << 20
"""A try that brings this many bytes does not count as failed, even if the connection then breaks."""

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""

MAX_BYTES = 4 << 30
"""Larger downloads are refused, so that no server fills the disk; every published file is far smaller."""

MAX_REDIRECTS = 5

_CHUNK = 1 << 18

# URLError is an OSError; a host name that cannot be encoded raises ValueError.
_NETWORK_ERRORS = (OSError, http.client.HTTPException, ValueError)


class _BrokenError(Exception):
    """The connection or the server failed; another try may succeed."""


class _RestartError(Exception):
    """The server cannot continue the part that is here."""


class _WrongContentError(DownloadError):
    """What came is not the published file."""


def fetch(
    url: str,
    target: str | Path,
    *,
    digest: str,
    size: int | None = None,
    progress: Fetching | None = None,
    offline: bool = False,
    pause: Callable[[int], None] = lambda failures: time.sleep(min(0.5 * 2**failures, 30.0)),
    timeout: float = TIMEOUT,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Fetches a file to `target` unless it is there already; in both cases its hash is checked.

    The bytes received so far lie in `<target>.part`; the next call continues them. If a continued file turns out wrong
    it is fetched once more from the start. If two processes fetch the same file the second one waits for the lock on
    the .part file and then finds the finished file, which spares a second download of half a gigabyte.

    Args:
        url: http or https; redirects must stay in these schemes.
        target: path of the file; missing folders are created.
        digest: `algorithm:hex` for md5, sha1, sha256, sha384 or sha512, or `sha256-prefix:hex`.
        size: bytes, where published.
        progress: called with (bytes done, bytes in all or None).
        offline: forbids the network.
        pause: waits before the next try, given the number of failures so far.
        timeout: seconds without a byte after which a connection counts as broken.
        max_bytes: larger files are refused.

    Raises:
        DownloadError: the server does not deliver the file, or it is not the published one.
        VggfeatError: the file cannot be written.
    """
    target = Path(target)
    _http_only(url)
    try:
        if target.exists():
            return _verified(target, digest)
        if offline:
            raise DownloadError(
                f"{target} is missing and fetching is forbidden (offline); put {url} there by hand ({digest})"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        # A part file that others have open cannot be renamed on Windows: there each process has its own, and no later
        # one continues it.
        name = target.with_name(f"{target.name}.part" if moves_open_files() else f"{target.name}.{os.getpid()}.part")
        with locked(name, target.exists) as stream:
            if stream is None:  # another process has just fetched it
                return _verified(target, digest)
            _Download(url, name, stream, digest, size, progress, pause, timeout, max_bytes).run()
            release(stream)
            name.replace(target)
    except OSError as error:
        raise VggfeatError(f"{error.filename or target}: cannot write: {error.strerror or error}") from error
    return target


def offline_asked(offline: bool | None = None) -> bool:
    """Whether fetching is forbidden: by the argument, or if that is None by the variable VGGFEAT_OFFLINE."""
    if offline is not None:
        return offline
    return os.environ.get("VGGFEAT_OFFLINE", "").strip().casefold() not in ("", "0", "false", "no", "off")


def _verified(target: Path, digest: str) -> Path:
    """An existing file, once its hash is right. It may be the user's own, so a wrong one is named and not removed."""
    check_digest(target, digest, digests(target, algorithm(digest))[algorithm(digest)], "; remove it to fetch it anew")
    return target


class _Download:
    """A file in transfer: the bytes written and hashed so far."""

    def __init__(
        self,
        url: str,
        name: Path,
        stream: BinaryIO,
        digest: str,
        size: int | None,
        progress: Fetching | None,
        pause: Callable[[int], None],
        timeout: float,
        max_bytes: int,
    ) -> None:
        self.url, self.name, self.stream = url, name, stream
        self.digest, self.size, self.progress, self.pause = digest, size, progress, pause
        self.timeout, self.max_bytes = timeout, max_bytes
        self.opener = _opener()
        self.hash: Any = None
        self.done = 0
        self.continued = False
        """Whether any bytes were asked for, or taken, as the continuation of a part."""

    def run(self) -> None:
        """Completes the .part file and checks it. After a failure the part stays only if it can be continued."""
        self._take_up()
        try:
            try:
                self._complete()
            except _WrongContentError:
                if not self.continued:
                    raise
                # The part may be another file's, or a server may have sent a slice as if it were the whole file.
                self._restart()
                self._complete()
        except BaseException:
            if not self.done:
                release(self.stream)
                self.name.unlink()
            raise

    def _complete(self) -> None:
        self._receive()
        self.stream.flush()
        os.fsync(self.stream.fileno())
        try:
            check_digest(self.url, self.digest, self.hash.hexdigest())
        except DownloadError as error:
            self._restart()
            raise _WrongContentError(str(error)) from None

    def _receive(self) -> None:
        """Sends requests until the whole file is here."""
        failures = 0
        complete = self.done == self.size
        while not complete:
            before = self.done
            try:
                complete = self._attempt()
            except _RestartError:
                self._restart()
                failures += 1
                reason = "the server cannot continue the part that is here"
            except _BrokenError as error:
                failures = 1 if self.done - before >= PROGRESS_BYTES else failures + 1
                reason = str(error)
            if not complete:
                if failures >= ATTEMPTS:
                    raise DownloadError(f"{self.url}: {reason}; given up after {ATTEMPTS} tries")
                self.pause(failures)

    def _take_up(self) -> None:
        """Hashes the bytes that an earlier call left."""
        self.hash = hashlib.new(algorithm(self.digest), usedforsecurity=False)
        self.stream.seek(0)
        while chunk := self.stream.read(1 << 20):
            self.hash.update(chunk)
        self.done = self.stream.tell()
        if self.done > (self.size or self.max_bytes):
            self._restart()
        self.continued = self.done > 0

    def _restart(self) -> None:
        self.stream.truncate(0)
        self.done = 0
        self.hash = hashlib.new(algorithm(self.digest), usedforsecurity=False)

    def _attempt(self) -> bool:
        """One request; returns whether it completed the file. Raises _BrokenError, _RestartError or DownloadError."""
        headers = {"User-Agent": f"vggfeat/{__version__}", "Accept-Encoding": "identity"}
        if self.done:
            headers["Range"] = f"bytes={self.done}-"
            self.continued = True
        try:
            response = self.opener.open(urllib.request.Request(self.url, headers=headers), timeout=self.timeout)
        except urllib.error.HTTPError as error:
            return self._refused(error)
        except _NETWORK_ERRORS as error:
            raise self._fault(error) from error
        with response:
            total = self._total(response)
            self._copy(response, total)
        if total is not None and self.done < total:
            raise _BrokenError(f"the connection ended after {self.done} of {number_of(total, 'byte')}")
        return True

    def _total(self, response: Any) -> int | None:
        """Length of the whole file according to the response, if any; makes the stream ready for the body.

        Raises _RestartError or DownloadError where the response does not continue the part.
        """
        length = response.headers.get("Content-Length")
        total = int(length) if length is not None and length.isdecimal() else None
        if response.status == 206:
            place = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
            if place is None or int(place[1]) != self.done:
                raise _RestartError
            total = int(place[2]) if place[2] != "*" else None if total is None else self.done + total
        elif response.status != 200:
            raise DownloadError(f"{self.url}: the server answers {response.status}")
        elif self.done:  # the server ignores ranges and sends the whole file
            self._restart()
        if total is not None:
            if self.size is not None and total != self.size:
                raise _WrongContentError(
                    f"{self.url}: announces {number_of(total, 'byte')} where {self.size} were published"
                )
            if total > self.max_bytes:
                raise DownloadError(
                    f"{self.url}: announces {number_of(total, 'byte')}; no published file is that large"
                )
        return total

    def _copy(self, response: Any, total: int | None) -> None:
        limit = self.size or total or self.max_bytes
        while True:
            try:  # the writing stays outside: its OSErrors are this machine's
                chunk = response.read1(_CHUNK)  # whatever has arrived, so that a broken connection loses nothing
            except _NETWORK_ERRORS as error:
                raise self._fault(error) from error
            if not chunk:
                return
            if self.done + len(chunk) > limit:
                self._restart()
                raise _WrongContentError(f"{self.url}: sends more than the {limit} bytes of the file")
            self.stream.write(chunk)
            self.hash.update(chunk)
            self.done += len(chunk)
            if self.progress is not None:
                self.progress(self.done, self.size or total)

    def _refused(self, error: urllib.error.HTTPError) -> bool:
        """True if an HTTP error means that the part is already the whole file; otherwise raises."""
        error.close()
        if error.code == 416 and self.done:
            total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", "").strip())
            if total is not None and int(total[1]) == self.done:
                return True
            raise _RestartError
        if 300 <= error.code < 400:
            raise DownloadError(f"{self.url}: redirects without end") from error
        if error.code >= 500 or error.code in (408, 429):
            raise _BrokenError(f"the server answers {error.code} {error.reason}") from error
        raise DownloadError(f"{self.url}: the server answers {error.code} {error.reason}") from error

    def _fault(self, error: Exception) -> Exception:
        """The exception for a failed connection: DownloadError where another try cannot help."""
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, TimeoutError):
            return _BrokenError(f"no answer within {self.timeout:g} s")
        text = (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).rstrip(".")
        if isinstance(cause, socket.gaierror | ssl.SSLCertVerificationError | ValueError):
            return DownloadError(f"{self.url}: {text}")
        return _BrokenError(text)


def _http_only(url: str, source: str | None = None) -> None:
    try:
        scheme = urllib.parse.urlsplit(url).scheme
    except ValueError as error:
        raise DownloadError(f"{url}: no address: {error}") from error
    if scheme not in ("http", "https"):
        what = f"{source}: redirects to {url}" if source else url
        raise DownloadError(f"{what}: only http and https addresses are fetched")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, only to http and https."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 2

    def http_error_302(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> Any:
        """Follows the redirect if it leads to http or https. Raises DownloadError otherwise."""
        place = headers.get("location") or headers.get("uri")
        if place:
            _http_only(urllib.parse.urljoin(req.full_url, place), req.full_url)
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https through the environment's proxies; urllib's default opener would also open file: URLs."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener
