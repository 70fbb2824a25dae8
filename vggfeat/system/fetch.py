"""Files by HTTP: resumed, counted, hashed, and in place only when they are what was published."""

from __future__ import annotations

import contextlib
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from vggfeat._version import __version__
from vggfeat.errors import DownloadError, VggfeatError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Progress = Callable[[int, int | None], None]
"""Called with the bytes done and the bytes in all, None where the server does not say."""

ATTEMPTS = 5
"""Tries in a row that bring nothing (less than `STEP_FORWARD` bytes) before a server counts as unreachable."""

STEP_FORWARD = 1 << 20

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""

MOST_BYTES = 4 << 30
"""No file of the catalogs is near this size: a server may not fill the disk."""

MAX_REDIRECTS = 5

_CHUNK = 1 << 18

# URLError is an OSError; ValueError comes of a host name that cannot be encoded.
_NETWORK_ERRORS = (OSError, http.client.HTTPException, ValueError)


class _BrokenError(Exception):
    """A fault of the connection or the server that may be gone at the next try."""


class _RestartError(Exception):
    """What is there of the file cannot be continued."""


def fetch(
    url: str,
    target: str | Path,
    *,
    digest: str,
    size: int | None = None,
    progress: Progress | None = None,
    offline: bool = False,
    pause: Callable[[int], None] = lambda failures: time.sleep(min(0.5 * 2**failures, 30.0)),
) -> Path:
    """The file of that URL at `target`, fetched unless it is there already; either way its hash is right.

    What has come so far lies in `<target>.part` and is continued by the next call. Of two processes that fetch
    the same file, the second waits for the first and then finds the file; that is what the lock on the .part
    file is for (a second copy of half a gigabyte would be the alternative).

    Args:
        url: of http or https; so must be all that it redirects to.
        target: where the file is to lie; its folder is made.
        digest: `algorithm:hex` of md5, sha1, sha256, sha384, sha512, or `sha256-prefix:hex`.
        size: bytes, where published.
        progress: called with (bytes done, bytes in all or None).
        offline: forbids the network.
        pause: waits before the next try, given the number of failures so far.

    Raises:
        DownloadError: the file cannot be had from there, or is not what was published.
        VggfeatError: it cannot be written here.
    """
    target = Path(target)
    _http_only(url)
    try:
        if target.exists():
            return _verified(target, digest)
        if offline:
            raise DownloadError(
                f"{target} is not there and fetching is forbidden (offline); put {url} there by hand ({digest})"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        # Where files cannot be locked each process has its own part, which no later one continues.
        name = target.with_name(f"{target.name}.part" if fcntl else f"{target.name}.{os.getpid()}.part")
        with locked(name, target.exists) as stream:
            if stream is None:  # another process has just fetched it
                return _verified(target, digest)
            _Fetching(url, name, stream, digest, size, progress, pause).run()
            release(stream)
            name.replace(target)
    except OSError as error:
        raise VggfeatError(f"{error.filename or target}: cannot write: {error.strerror or error}") from error
    return target


def offline_asked(offline: bool | None = None) -> bool:
    """Whether fetching is forbidden: as said, or else as the variable VGGFEAT_OFFLINE says."""
    if offline is not None:
        return offline
    return os.environ.get("VGGFEAT_OFFLINE", "").strip().casefold() not in ("", "0", "false", "no", "off")


# --- hashes ---


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


def algorithm(digest: str) -> str:
    """The hash function's name in `algorithm:hex`."""
    return digest.partition(":")[0].removesuffix("-prefix")


def check_digest(what: str | Path, digest: str, found: str, advice: str = "") -> None:
    """Raises DownloadError, naming both, where the hash found of `what` is not the published one."""
    kind, _, published = digest.partition(":")
    if not (found.startswith(published) if kind.endswith("-prefix") else found == published):
        got = f"{algorithm(digest)}:{found}"
        raise DownloadError(f"{what}: not the published file: expected {digest}, got {got}{advice}")


def _verified(target: Path, digest: str) -> Path:
    """A file that was there before. It may be the user's own, so a wrong one is named and not removed."""
    check_digest(target, digest, digests(target, algorithm(digest))[algorithm(digest)], "; remove it to fetch it anew")
    return target


# --- one download ---


@contextlib.contextmanager
def locked(name: Path, settled: Callable[[], bool]) -> Iterator[BinaryIO | None]:
    """The file of that name, made where it is missing, open and locked against other processes.

    Waits for the process that holds it. Yields None, and leaves no file, once `settled()` says that there is
    nothing left to do. Where files cannot be locked (Windows) it is open alone.
    """
    while True:
        with name.open("ab+") as stream:
            if fcntl:
                fcntl.flock(stream, fcntl.LOCK_EX)
                # Whoever held the lock may have renamed or removed the file that we have waited for.
                if not name.exists() or not os.path.samestat(name.stat(), os.fstat(stream.fileno())):
                    continue
            if not settled():
                yield stream
                return
            release(stream)
            name.unlink()
        yield None
        return


def release(stream: BinaryIO) -> None:
    """Windows renames and removes no open file; elsewhere the file stays open, for the lock must outlive both."""
    if fcntl is None:
        stream.close()


class _Fetching:
    """One file on its way: what has been written and hashed so far."""

    def __init__(
        self,
        url: str,
        name: Path,
        stream: BinaryIO,
        digest: str,
        size: int | None,
        progress: Progress | None,
        pause: Callable[[int], None],
    ) -> None:
        self.url, self.name, self.stream = url, name, stream
        self.digest, self.size, self.progress, self.pause = digest, size, progress, pause
        self.opener = _opener()
        self.hash: Any = None
        self.done = 0

    def run(self) -> None:
        """Brings the .part file to its end and checks it. A failure leaves it only if it can be continued."""
        self._take_up()
        try:
            self._bring()
            self._check()
        except BaseException:
            if not self.done:
                release(self.stream)
                self.name.unlink()
            raise

    def _check(self) -> None:
        self.stream.flush()
        os.fsync(self.stream.fileno())
        try:
            check_digest(self.url, self.digest, self.hash.hexdigest())
        except DownloadError:
            self._restart()
            raise

    def _bring(self) -> None:
        """Asks until the whole file is here."""
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
                failures = 1 if self.done - before >= STEP_FORWARD else failures + 1
                reason = str(error)
            if not complete:
                if failures >= ATTEMPTS:
                    raise DownloadError(f"{self.url}: {reason}; given up after {ATTEMPTS} tries")
                self.pause(failures)

    def _take_up(self) -> None:
        """Hashes what an earlier call left."""
        self.hash = hashlib.new(algorithm(self.digest), usedforsecurity=False)
        self.stream.seek(0)
        while chunk := self.stream.read(1 << 20):
            self.hash.update(chunk)
        self.done = self.stream.tell()
        if self.done > (self.size or MOST_BYTES):
            self._restart()

    def _restart(self) -> None:
        self.stream.truncate(0)
        self.done = 0
        self.hash = hashlib.new(algorithm(self.digest), usedforsecurity=False)

    def _attempt(self) -> bool:
        """One request; whether it brought the file to its end. Raises _BrokenError, _RestartError, DownloadError."""
        headers = {"User-Agent": f"vggfeat/{__version__}", "Accept-Encoding": "identity"}
        if self.done:
            headers["Range"] = f"bytes={self.done}-"
        try:
            response = self.opener.open(urllib.request.Request(self.url, headers=headers), timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            return self._refused(error)
        except _NETWORK_ERRORS as error:
            raise self._fault(error) from error
        with response:
            total = self._total(response)
            self._copy(response, total)
        if total is not None and self.done < total:
            raise _BrokenError(f"the connection ended after {self.done} of {total} bytes")
        return True

    def _total(self, response: Any) -> int | None:
        """Length of the whole file as the response has it; the stream stands where the body begins.

        Raises _RestartError or DownloadError where the response does not go on where we are.
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
        elif self.done:  # it does not know ranges: the whole file is coming
            self._restart()
        if total is not None:
            if self.size is not None and total != self.size:
                raise DownloadError(f"{self.url}: announces {total} bytes where {self.size} were published")
            if total > MOST_BYTES:
                raise DownloadError(f"{self.url}: announces {total} bytes; no published file is that large")
        return total

    def _copy(self, response: Any, total: int | None) -> None:
        limit = self.size or total or MOST_BYTES
        while True:
            try:  # apart from the writing, whose OSErrors are this machine's
                chunk = response.read1(_CHUNK)  # what has come, so that nothing of it is lost
            except _NETWORK_ERRORS as error:
                raise self._fault(error) from error
            if not chunk:
                return
            if self.done + len(chunk) > limit:
                self._restart()
                raise DownloadError(f"{self.url}: sends more than the {limit} bytes of the file")
            self.stream.write(chunk)
            self.hash.update(chunk)
            self.done += len(chunk)
            if self.progress is not None:
                self.progress(self.done, self.size or total)

    def _refused(self, error: urllib.error.HTTPError) -> bool:
        """What an HTTP error means: True where the part is the whole file already."""
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
        """The exception for a connection that failed: final where another try cannot help."""
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, TimeoutError):
            return _BrokenError(f"no answer within {TIMEOUT:.0f} s")
        text = (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).rstrip(".")
        if isinstance(cause, socket.gaierror | ssl.SSLCertVerificationError | ValueError):
            return DownloadError(f"{self.url}: {text}")
        return _BrokenError(text)


# --- http and https alone ---


def _http_only(url: str, source: str | None = None) -> None:
    try:
        scheme = urllib.parse.urlsplit(url).scheme
    except ValueError as error:
        raise DownloadError(f"{url}: no address: {error}") from error
    if scheme not in ("http", "https"):
        what = f"{source}: redirects to {url}" if source else url
        raise DownloadError(f"{what}: only http and https addresses are fetched")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, and none out of the web."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 2

    def http_error_302(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> Any:
        """As the base class does, for http and https alone."""
        place = headers.get("location") or headers.get("uri")
        if place:
            _http_only(urllib.parse.urljoin(req.full_url, place), req.full_url)
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https, through the proxies that the environment names. (urllib's default knows file: too.)"""
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
