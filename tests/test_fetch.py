"""fetch.py against a local server that behaves, and against one that does not."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from needs import need
from serving import Handler, Server, serving

from vggfeat.errors import DownloadError, VggfeatError
from vggfeat.system.fetch import ATTEMPTS, fetch, offline_asked

CONTENT = bytes(range(256)) * 5000  # 1.28 MB: several chunks
HALF = 600_000


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of this machine's between the tests and their server."""
    for name in list(os.environ):
        if name.casefold().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        running.files["/w.bin"] = CONTENT
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "w.bin"


def digest(content: bytes = CONTENT, kind: str = "sha256") -> str:
    return f"{kind}:{hashlib.new(kind, content).hexdigest()}"


def get(server: Server, target: Path, path: str = "/w.bin", **settings: object) -> Path:
    """fetch with no waiting between its tries."""
    settings = {"digest": digest(), "pause": lambda _: None} | settings
    return fetch(server.url(path), target, **settings)  # type: ignore[arg-type]


def part(target: Path, content: bytes = b"") -> Path:
    """The .part file of a target, with what an earlier call left."""
    path = target.with_name(target.name + ".part")
    if content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return path


def nothing_left(target: Path) -> bool:
    return not target.exists() and not part(target).exists()


# --- files that come ---


def test_a_file_arrives_whole_with_progress_and_no_part_is_left(server: Server, target: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    assert get(server, target, size=len(CONTENT), progress=lambda *now: seen.append(now)) == target
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["w.bin"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("kind", ["md5", "sha1", "sha256", "sha384", "sha512"])
def test_each_published_kind_of_hash_is_checked(server: Server, target: Path, kind: str) -> None:
    get(server, target, digest=digest(kind=kind))
    target.unlink()
    with pytest.raises(DownloadError, match=f"expected {kind}:.*, got {kind}:"):
        get(server, target, digest=digest(b"other", kind))


def test_the_start_of_a_sha256_is_enough_where_no_more_is_published(server: Server, target: Path) -> None:
    full = digest().partition(":")[2]
    get(server, target, digest=f"sha256-prefix:{full[:8]}")
    target.unlink()
    with pytest.raises(DownloadError, match=f"expected sha256-prefix:{full[1:9]}, got sha256:{full}"):
        get(server, target, digest=f"sha256-prefix:{full[1:9]}")


def test_a_file_that_is_there_is_hashed_and_not_asked_for(server: Server, target: Path) -> None:
    get(server, target)
    get(server, target, offline=True)
    assert len(server.requests) == 1


def test_a_wrong_file_that_is_there_is_named_and_kept(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"the user's own")
    with pytest.raises(DownloadError, match=r"w\.bin: not the published file: .*; remove it to fetch it anew$"):
        get(server, target)
    assert target.read_bytes() == b"the user's own"
    assert server.requests == []


def test_a_server_that_announces_no_length_is_read_to_its_end(server: Server, target: Path) -> None:
    server.files["/w.bin"] = lambda handler: handler.reply(200, CONTENT, length=None)
    assert get(server, target).read_bytes() == CONTENT


def test_redirects_are_followed(server: Server, target: Path) -> None:
    server.files["/old"] = lambda handler: handler.reply(301, b"", {"Location": "/older"})
    server.files["/older"] = lambda handler: handler.reply(302, b"", {"Location": server.url("/w.bin")})
    assert get(server, target, "/old").read_bytes() == CONTENT


def test_the_proxy_that_the_environment_names_is_asked(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url(""))
    server.files["http://weights.invalid/w.bin"] = CONTENT
    fetch("http://weights.invalid/w.bin", target, digest=digest(), pause=lambda _: None)
    assert server.requests == [("http://weights.invalid/w.bin", None)]


# --- resumption ---


def test_a_part_is_continued_where_it_ends(server: Server, target: Path) -> None:
    part(target, CONTENT[:HALF])
    assert get(server, target).read_bytes() == CONTENT
    assert server.requests == [("/w.bin", f"bytes={HALF}-")]


def test_a_part_is_continued_across_a_redirect(server: Server, target: Path) -> None:
    part(target, CONTENT[:HALF])
    server.files["/old"] = lambda handler: handler.reply(302, b"", {"Location": "/w.bin"})
    assert get(server, target, "/old").read_bytes() == CONTENT
    assert server.requests[-1] == ("/w.bin", f"bytes={HALF}-")


def test_a_server_without_ranges_starts_the_file_again(server: Server, target: Path) -> None:
    part(target, b"x" * HALF)
    server.files["/w.bin"] = lambda handler: handler.reply(200, CONTENT)
    assert get(server, target).read_bytes() == CONTENT


def test_a_complete_part_is_taken_though_its_range_is_refused(server: Server, target: Path) -> None:
    part(target, CONTENT)
    assert get(server, target).read_bytes() == CONTENT
    assert server.requests == [("/w.bin", f"bytes={len(CONTENT)}-")]


def test_a_complete_part_of_known_size_needs_no_request(server: Server, target: Path) -> None:
    part(target, CONTENT)
    assert get(server, target, size=len(CONTENT)).read_bytes() == CONTENT
    assert server.requests == []


def test_a_part_too_long_starts_again_when_its_range_is_refused(server: Server, target: Path) -> None:
    part(target, CONTENT + b"more")
    assert get(server, target).read_bytes() == CONTENT
    assert server.requests == [("/w.bin", f"bytes={len(CONTENT) + 4}-"), ("/w.bin", None)]


def test_a_range_that_begins_elsewhere_is_not_appended(server: Server, target: Path) -> None:
    def script(handler: Handler) -> None:
        if handler.headers.get("Range"):
            place = {"Content-Range": f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}"}
            handler.reply(206, CONTENT[7:], place)
        else:
            handler.reply(200, CONTENT)

    part(target, CONTENT[:HALF])
    server.files["/w.bin"] = script
    assert get(server, target).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [f"bytes={HALF}-", None]


@pytest.mark.parametrize("size", [None, len(CONTENT)])
@pytest.mark.parametrize("left", [CONTENT[:HALF], b"x" * HALF, CONTENT[:-1] + b"x", b"x"])
@pytest.mark.parametrize("answer", ["range", "slice as a whole", "slice with its place", "slice without a length"])
def test_a_continued_file_that_turns_out_wrong_is_fetched_once_more_from_the_start(
    answer: str, left: bytes, size: int | None, server: Server, target: Path
) -> None:
    """The kind: whatever is wrong with the part, or with a server's answer to a range, a fresh start mends it."""

    def script(handler: Handler) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        if answer == "range" or not asked:
            handler.send_file(CONTENT)
        elif answer == "slice with its place":
            handler.reply(200, CONTENT[start:], {"Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"})
        else:
            handler.reply(200, CONTENT[start:], length=None if answer == "slice without a length" else -1)

    part(target, left)
    server.files["/w.bin"] = script
    assert get(server, target, size=size).read_bytes() == CONTENT
    assert len([asked for _, asked in server.requests if asked is None]) <= 1
    assert not part(target).exists()


def test_a_file_that_is_wrong_after_a_fresh_start_too_is_refused_and_removed(server: Server, target: Path) -> None:
    part(target, b"x" * HALF)
    server.files["/w.bin"] = CONTENT[:-1]
    with pytest.raises(DownloadError, match="not the published file"):
        get(server, target)
    assert [asked for _, asked in server.requests] == [f"bytes={HALF}-", None]
    assert nothing_left(target)


def test_a_truncated_body_is_resumed(server: Server, target: Path) -> None:
    def script(handler: Handler) -> None:
        if handler.headers.get("Range"):
            handler.send_file(CONTENT)
        else:
            handler.reply(200, CONTENT[:HALF], length=len(CONTENT))

    server.files["/w.bin"] = script
    assert get(server, target).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, f"bytes={HALF}-"]


def test_a_truncated_body_that_stays_truncated_is_given_up_and_kept_for_later(server: Server, target: Path) -> None:
    server.files["/w.bin"] = lambda handler: handler.reply(
        206 if handler.headers.get("Range") else 200,
        b"" if handler.headers.get("Range") else CONTENT[:HALF],
        {"Content-Range": f"bytes {HALF}-{len(CONTENT) - 1}/{len(CONTENT)}"},
        length=len(CONTENT) - (HALF if handler.headers.get("Range") else 0),
    )
    waits: list[int] = []
    with pytest.raises(DownloadError) as caught:
        get(server, target, pause=waits.append)
    assert str(caught.value) == (
        f"{server.url('/w.bin')}: the connection ended after {HALF} of {len(CONTENT)} bytes; given up after 5 tries"
    )
    assert waits == [1, 2, 3, 4]
    assert part(target).read_bytes() == CONTENT[:HALF]


def test_a_server_error_is_tried_again(server: Server, target: Path) -> None:
    def script(handler: Handler) -> None:
        if len(server.requests) < 3:
            handler.send_error(503)
        else:
            handler.send_file(CONTENT)

    server.files["/w.bin"] = script
    assert get(server, target).read_bytes() == CONTENT


# --- files that do not ---


def test_a_wrong_hash_removes_the_file_and_names_both(server: Server, target: Path) -> None:
    server.files["/w.bin"] = b"not the weights"
    with pytest.raises(DownloadError) as caught:
        get(server, target)
    assert str(caught.value) == (
        f"{server.url('/w.bin')}: not the published file: expected {digest()}, got {digest(b'not the weights')}"
    )
    assert nothing_left(target)


def test_more_bytes_than_published_are_refused_before_they_come(server: Server, target: Path) -> None:
    with pytest.raises(DownloadError, match=r"announces 1280000 bytes where 1000 were published$"):
        get(server, target, size=1000)
    assert nothing_left(target)


def test_more_bytes_than_published_are_refused_when_unannounced(server: Server, target: Path) -> None:
    server.files["/w.bin"] = lambda handler: handler.reply(200, CONTENT, length=None)
    with pytest.raises(DownloadError, match=r"sends more than the 1000 bytes of the file$"):
        get(server, target, size=1000)
    assert nothing_left(target)


def test_a_server_that_sends_for_ever_is_stopped(server: Server, target: Path) -> None:
    server.files["/w.bin"] = lambda handler: handler.reply(200, CONTENT, length=None)
    with pytest.raises(DownloadError, match=r"sends more than the 100000 bytes of the file$"):
        get(server, target, max_bytes=100_000)
    server.files["/w.bin"] = CONTENT
    with pytest.raises(DownloadError, match=r"announces 1280000 bytes; no published file is that large$"):
        get(server, target, max_bytes=100_000)
    assert nothing_left(target)


def test_404_is_not_tried_again(server: Server, target: Path) -> None:
    with pytest.raises(DownloadError, match=r"/gone: the server answers 404 Not Found$"):
        get(server, target, "/gone")
    assert len(server.requests) == 1
    assert nothing_left(target)


def test_a_refused_connection_is_tried_a_few_times_and_named(target: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    waits: list[int] = []
    with pytest.raises(DownloadError) as caught:
        fetch(f"http://127.0.0.1:{port}/w.bin", target, digest=digest(), pause=waits.append)
    assert str(caught.value) == f"http://127.0.0.1:{port}/w.bin: Connection refused; given up after {ATTEMPTS} tries"
    assert len(waits) == ATTEMPTS - 1
    assert nothing_left(target)


def test_a_silent_server_is_given_up(server: Server, target: Path) -> None:
    server.files["/w.bin"] = lambda _: time.sleep(0.5)
    with pytest.raises(DownloadError, match=r"no answer within 0.05 s; given up after 5 tries$"):
        get(server, target, timeout=0.05)


def test_a_redirect_loop_ends(server: Server, target: Path) -> None:
    server.files["/loop"] = lambda handler: handler.reply(302, b"", {"Location": "/loop"})
    with pytest.raises(DownloadError, match=r"/loop: redirects without end$"):
        get(server, target, "/loop")
    assert len(server.requests) <= 6


def test_endless_redirects_end(server: Server, target: Path) -> None:
    def script(handler: Handler) -> None:
        following = f"/r{len(server.requests)}"
        server.files[following] = script
        handler.reply(302, b"", {"Location": following})

    server.files["/r"] = script
    with pytest.raises(DownloadError, match="redirects without end"):
        get(server, target, "/r")
    assert len(server.requests) <= 7


@pytest.mark.parametrize("place", ["file:///etc/hostname", "ftp://127.0.0.1/w.bin", "data:,w"])
def test_a_redirect_out_of_the_web_is_refused(server: Server, target: Path, place: str) -> None:
    server.files["/out"] = lambda handler: handler.reply(302, b"", {"Location": place})
    with pytest.raises(DownloadError) as caught:
        get(server, target, "/out")
    assert str(caught.value) == (
        f"{server.url('/out')}: redirects to {place}: only http and https addresses are fetched"
    )
    assert nothing_left(target)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/w.bin", "data:,w", "/etc/hostname"])
def test_other_addresses_than_http_are_refused(target: Path, url: str) -> None:
    with pytest.raises(DownloadError, match=re.escape(f"{url}: only http and https addresses are fetched")):
        fetch(url, target, digest=digest())


def test_offline_names_the_file_and_where_to_put_it(server: Server, target: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        get(server, target, offline=True)
    url = server.url("/w.bin")
    assert str(caught.value) == (
        f"{target} is missing and fetching is forbidden (offline); put {url} there by hand ({digest()})"
    )
    assert server.requests == []
    assert not target.parent.exists()


@pytest.mark.parametrize(
    ("value", "meant"), [("1", True), ("true", True), ("yes", True), ("0", False), ("false", False), ("", False)]
)
def test_the_variable_forbids_fetching(monkeypatch: pytest.MonkeyPatch, value: str, meant: bool) -> None:
    monkeypatch.setenv("VGGFEAT_OFFLINE", value)
    assert offline_asked() is meant
    assert offline_asked(False) is False
    assert offline_asked(True) is True


# --- this machine ---


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(VggfeatError, match="Permission denied"):
        get(server, tmp_path / "w.bin")


def test_a_file_in_the_folders_place_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(VggfeatError) as caught:
        get(server, tmp_path / "cache" / "w.bin")
    assert str(caught.value) == f"{tmp_path / 'cache'}: cannot write: File exists"


CHILD = """
import resource, signal, sys
sys.dont_write_bytecode = True  # a module cut short by the limit would stay in the environment
from vggfeat.errors import VggfeatError
from vggfeat.system.fetch import fetch
url, target, digest, most = sys.argv[1:]
if int(most):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
try:
    fetch(url, target, digest=digest)
except VggfeatError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def child(server: Server, target: Path, most: int = 0) -> subprocess.Popen[str]:
    """Another process that fetches; `most` limits the size of its files, as a quota would."""
    need("resource")
    words = [sys.executable, "-c", CHILD, server.url("/w.bin"), str(target), digest(), str(most)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


def test_no_room_on_the_disk_is_one_sentence_and_the_part_goes_on_later(server: Server, target: Path) -> None:
    full = child(server, target, most=300_000)
    assert full.communicate()[1] == f"VggfeatError: {target}: cannot write: File too large\n"
    assert not target.exists()
    assert 0 < part(target).stat().st_size <= 300_000
    assert get(server, target).read_bytes() == CONTENT
    assert server.requests[-1][1] is not None


def slowly(handler: Handler) -> None:
    """A good server on a slow line: the file in 20 pieces within a second."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    for start in range(0, len(CONTENT), 64_000):
        handler.wfile.write(CONTENT[start : start + 64_000])
        time.sleep(0.05)


def test_two_processes_fetch_a_file_once(server: Server, target: Path) -> None:
    server.files["/w.bin"] = slowly
    both = [child(server, target), child(server, target)]
    assert [process.communicate()[1] for process in both] == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["w.bin"]
    assert len(server.requests) == 1


def test_a_killed_process_leaves_a_part_that_the_next_one_continues(server: Server, target: Path) -> None:
    server.files["/w.bin"] = slowly
    process = child(server, target)
    while not (part(target).exists() and part(target).stat().st_size > 100_000):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    have = part(target).stat().st_size
    assert not target.exists()
    server.files["/w.bin"] = CONTENT
    assert get(server, target).read_bytes() == CONTENT
    assert server.requests[-1] == ("/w.bin", f"bytes={have}-")
