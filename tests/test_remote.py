"""Lists, tar files and pictures by URL: the rows of local files, through lost connections too."""

import gc
import gzip
import io
import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest
from fsspec import AbstractFileSystem
from serving import serving

import vggfeat
from vggfeat.cli import run
from vggfeat.datasets import Sample
from vggfeat.datasets.listing import from_list, from_paths
from vggfeat.errors import DatasetError, ReadError, UsageError
from vggfeat.system import remote
from vggfeat.system.remote import RemoteFile, is_url, path_of, read_all, read_range

NARROW = ["--net", "A", "--weights", "none", "--width", "0.0625", "--precision", "fp32", "--scales", "224"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(remote, "WAIT", 0.01)
    remote.size_of.cache_clear()


@pytest.fixture
def memory():
    """fsspec's file system in memory, empty."""
    import fsspec

    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


@pytest.fixture
def server():
    pytest.importorskip("aiohttp")
    with serving() as made:
        yield made


def packed(pictures, mode="w"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for path in pictures:
            tar.add(path, path.name)
    return out.getvalue()


@pytest.mark.parametrize(
    ("path", "answer"),
    [("https://host/a.tar", True), ("s3://bucket/a", True), ("a.tar", False), ("/a://b", False), ("C:\\a", False)],
)
def test_urls_are_told_from_paths(path, answer):
    assert is_url(path) is answer


def test_a_signed_links_query_is_not_its_name():
    assert path_of("https://host/a/data.tar?sig=x.jpg#y") == "host/a/data.tar"


def test_any_part_of_a_file_is_read(memory):
    content = np.random.default_rng(0).bytes(10_000)
    memory.pipe("/a", content)
    assert read_all("memory://a") == content
    assert read_range("memory://a", 9_990, 100) == content[9_990:]
    assert read_range("memory://a", 10_000, 5) == b""
    stream, twin = RemoteFile("memory://a", block=700), io.BytesIO(content)
    for where, size in ((0, 10), (10, 1500), (4_000, 3), (3_990, 20), (9_999, 5), (20_000, 1), (0, -1)):
        assert stream.seek(where) == twin.seek(where)
        assert stream.read(size) == twin.read(size)
        assert stream.tell() == twin.tell()
    assert stream.seek(-3, os.SEEK_END) == 9_997
    assert stream.seek(1, os.SEEK_CUR) == 9_998


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_tar_files_and_a_list_by_url_have_the_samples_of_local_ones(memory, photos, tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    pictures = sorted(photos.iterdir())
    for number in range(2):
        content = packed(pictures[number::2])
        content = gzip.compress(content) if suffix == "tar.gz" else content
        memory.pipe(f"/data-{number}.{suffix}", content)
        (tmp_path / f"data-{number}.{suffix}").write_bytes(content)
    there, here = from_paths([f"memory://data-{{0..1}}.{suffix}"]), from_paths([f"data-{{0..1}}.{suffix}"])
    assert [sample.id.removeprefix("memory://") for sample in there.samples] == [sample.id for sample in here.samples]
    assert [sample.source() for sample in there.samples] == [sample.source() for sample in here.samples]
    listed = "".join(f"memory://data-{number}.{suffix}\n" for number in range(2))
    memory.pipe("/list", listed.encode())
    assert from_list("memory://list").samples == there.samples
    assert from_list("memory://list").origin.list_file == "memory://list"


def test_pictures_by_url_are_extracted_as_local_ones(memory, photos, tmp_path):
    pictures = sorted(photos.iterdir())
    for path in pictures:
        memory.pipe(f"/{path.name}", path.read_bytes())
    (tmp_path / "list").write_text("".join(f"{path.name}\tmemory://{path.name}\n" for path in pictures))
    assert run(["extract", "--list", str(tmp_path / "list"), *NARROW, "-o", str(tmp_path / "a.h5")]) == 0
    assert run(["extract", *map(str, pictures), *NARROW, "-o", str(tmp_path / "b.h5")]) == 0
    a, b = (vggfeat.read_descriptors(tmp_path / name) for name in ("a.h5", "b.h5"))
    assert np.array_equal(a.read(), b.read())


def test_all_missing_tar_files_by_url_are_named(memory):
    memory.pipe("/data-1.tar", b"")
    with pytest.raises(UsageError) as caught:
        from_paths(["memory://data-{0..3}.tar"])
    assert str(caught.value) == (
        "memory://data-0.tar, memory://data-2.tar, memory://data-3.tar: no such file or folder"
    )
    with pytest.raises(DatasetError) as caught:
        from_list("memory://nowhere")
    assert str(caught.value) == "memory://nowhere: this list cannot be read: no such file"
    with pytest.raises(ReadError) as caught:
        Sample("x", "memory://gone.jpg").source()
    assert str(caught.value) == "no such file"


def test_a_protocol_that_nobody_reads_is_named():
    with pytest.raises(DatasetError) as caught:
        from_list("gopher2://host/list")
    assert str(caught.value) == (
        "gopher2://host/list: this list cannot be read: gopher2:// is not a protocol that fsspec knows"
    )


class Hosted(AbstractFileSystem):
    """A file system that needs the URL's host, as ftp and sftp do."""

    protocol = "hosted"
    cachable = False

    def __init__(self, host, **options):
        super().__init__(**options)
        self.host = host

    def __del__(self):
        assert self.host  # a stand-in for closing the connection

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.partition("://")[2].partition("/")[2] if "://" in path else path

    @staticmethod
    def _get_kwargs_from_urls(path):
        host = path.partition("://")[2].partition("/")[0]
        return {"host": host} if host else {}

    def info(self, path, **options):
        if path != "/a.jpg":
            raise FileNotFoundError(path)
        return {"name": path, "size": len(self.content()), "type": "file"}

    def content(self):
        return f"a picture of {self.host}".encode()

    def cat_file(self, path, start=None, end=None, **options):
        return self.content()[start:end] if self.info(path) else b""


class Keyed(AbstractFileSystem):
    """A file system that needs more than a URL tells."""

    protocol = "keyed"

    def __init__(self, key, **options):
        super().__init__(**options)


@pytest.fixture
def hosted(monkeypatch):
    registry = sys.modules["fsspec.registry"]._registry
    monkeypatch.setitem(registry, "hosted", Hosted)
    monkeypatch.setitem(registry, "keyed", Keyed)


def test_a_protocol_is_given_the_host_of_its_url(hosted):
    for host in ("one", "two"):
        assert Sample("x", f"hosted://{host}/a.jpg").source() == f"a picture of {host}".encode()
    assert read_range("hosted://one/a.jpg", 2, 7) == b"picture"
    with pytest.raises(ReadError, match=r"^no such file$"):
        Sample("x", "hosted://one/gone.jpg").source()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("hosted:///a.jpg", "hosted:// needs a host: hosted://host/path"),
        ("ftp:///a.jpg", "ftp:// needs a host: ftp://host/path"),
        ("keyed://host/a.jpg", "fsspec cannot open keyed:// by a URL alone"),
    ],
)
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_url_that_says_too_little_is_one_line(hosted, url, said):
    with pytest.raises(ReadError) as caught:
        Sample("x", url).source()
    gc.collect()
    assert str(caught.value) == said


def test_a_certificate_that_is_refused_says_why(monkeypatch):
    client = pytest.importorskip("aiohttp")
    from aiohttp.client_reqrep import ConnectionKey

    key = ConnectionKey("host", 443, True, True, None, None, None)
    refused = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    refused.verify_message = "self-signed certificate"
    lost = OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 443), [Errno 111] ...")
    unknown = socket.gaierror(-2, "Name or service not known")
    assert [
        remote._words(error)
        for error in (
            client.ClientConnectorCertificateError(key, refused),
            client.ClientConnectorError(key, lost),
            getattr(client, "ClientConnectorDNSError", client.ClientConnectorError)(key, unknown),
        )
    ] == [
        "Cannot connect to host host:443: certificate refused: self-signed certificate",
        "Cannot connect to host host:443",
        "Cannot connect to host host:443: Name or service not known",
    ]


@pytest.mark.parametrize(("url", "extra"), [("https://host/list", "url"), ("s3://bucket/list", "s3")])
def test_a_missing_package_names_the_extra(monkeypatch, url, extra):
    for package in ("aiohttp", "s3fs"):
        monkeypatch.setitem(sys.modules, package, None)
    import fsspec  # noqa: F401 - so that its registry is loaded

    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(DatasetError) as caught:
        from_list(url)
    assert str(caught.value) == (
        f"{url}: this list cannot be read: {url.partition(':')[0]}:// needs a package that is not installed "
        f"(pip install 'vggfeat[{extra}]')"
    )


def test_a_tar_file_of_a_server_gives_the_descriptors_of_a_local_one(server, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = packed(sorted(photos.iterdir()))
    (tmp_path / "a.tar").write_bytes(content)
    server.files["/a.tar"] = content
    server.files["/list"] = server.url("/a.tar").encode() + b"\n"
    assert run(["extract", "--list", server.url("/list"), *NARROW, "-o", "url.h5"]) == 0
    assert run(["extract", "a.tar", *NARROW, "-o", "file.h5"]) == 0
    a, b = vggfeat.read_descriptors("url.h5"), vggfeat.read_descriptors("file.h5")
    assert [id.rpartition("/")[2] for id in a.ids] == [id.rpartition("/")[2] for id in b.ids]
    assert np.array_equal(a.read(), b.read())
    ranges = [asked for path, asked in server.requests if path == "/a.tar" and asked]
    assert len(ranges) >= len(a), "each picture is asked for by itself, the file never as a whole"


def test_a_server_without_ranges_serves_too(server, photos):
    content = packed(sorted(photos.iterdir()))
    server.files["/a.tar"] = lambda handler: handler.reply(200, content)
    samples = from_paths([server.url("/a.tar")]).samples
    assert [sample.source() for sample in samples] == [path.read_bytes() for path in sorted(photos.iterdir())]


def cut_off(handler):
    """Announces more than it sends, then closes the connection with a reset."""
    handler.reply(206, b"half", length=4000)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def test_lost_connections_are_tried_again(server, photos):
    content = packed(sorted(photos.iterdir()))
    lock, asked = threading.Lock(), []

    def shaky(handler):
        with lock:
            asked.append(handler.headers.get("Range"))
            lost = asked[-1] is not None and len(asked) % 2
        cut_off(handler) if lost else handler.send_file(content)

    server.files["/a.tar"] = shaky
    samples = from_paths([server.url("/a.tar")]).samples
    assert [sample.source() for sample in samples] == [path.read_bytes() for path in sorted(photos.iterdir())]
    assert len(asked) > len(samples)


def test_pictures_lost_for_good_cost_rows_that_resume_finds_again(server, photos, tmp_path, capsys):
    pictures = sorted(photos.iterdir())
    content = packed(pictures)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        lost = {member.offset_data for member in tar.getmembers()[2:4]}
    gone = True

    def shaky(handler):
        start = int((handler.headers.get("Range") or "bytes=-1").removeprefix("bytes=").partition("-")[0] or -1)
        cut_off(handler) if gone and start in lost else handler.send_file(content)

    server.files["/a.tar"] = shaky
    command = ["extract", server.url("/a.tar"), *NARROW, "-o", str(tmp_path / "a.h5")]
    assert run([*command, "--json"]) == 3
    failed = json.loads(capsys.readouterr().out)["failed"]
    assert list(failed) == [server.url(f"/a.tar/{path.name}") for path in pictures[2:4]]
    assert all(reason.startswith(server.url("/a.tar: ")) and reason.endswith(", 4 times") for reason in failed.values())
    gone = False
    assert run([*command, "--resume"]) == 0
    assert run(["extract", *map(str, pictures), *NARROW, "-o", str(tmp_path / "b.h5")]) == 0
    a, b = (vggfeat.read_descriptors(tmp_path / name) for name in ("a.h5", "b.h5"))
    # The others were described without the lost ones in their batch: equal to rounding.
    np.testing.assert_allclose(a.read(), b.read(), atol=1e-6)


def test_a_server_that_does_not_answer_is_not_a_missing_file(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/a.tar"
    with pytest.raises(DatasetError) as caught:
        from_paths([url])
    where = url.removeprefix("http://").removesuffix("/a.tar")
    assert str(caught.value) == (
        f"{url}: this tar file cannot be read: Cannot connect to host {where}: Connection refused, 4 times"
    )
    with pytest.raises(UsageError, match=r"/gone\.tar: no such file or folder$"):
        from_paths([server.url("/gone.tar")])


def test_s3_buckets_are_read(photos, monkeypatch, tmp_path):
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    import boto3
    from moto.server import ThreadedMotoServer

    for name, value in (
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    stand_in = ThreadedMotoServer(port=0)
    stand_in.start()
    try:
        host, port = stand_in.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        client = boto3.client("s3")
        client.create_bucket(Bucket="pictures")
        content = packed(sorted(photos.iterdir()))
        client.put_object(Bucket="pictures", Key="a.tar", Body=content)
        client.put_object(Bucket="pictures", Key="list", Body=b"s3://pictures/a.tar\n")
        samples = from_list("s3://pictures/list").samples
        assert [sample.source() for sample in samples] == [path.read_bytes() for path in sorted(photos.iterdir())]
        with pytest.raises(UsageError, match=r"s3://pictures/gone\.tar: no such file or folder$"):
            from_paths(["s3://pictures/gone.tar"])
    finally:
        stand_in.stop()


def test_a_shard_of_urls_is_made_again_by_the_command_as_pasted(memory, photos, tmp_path, monkeypatch, capsys):
    import shlex

    monkeypatch.chdir(tmp_path)
    for number in range(24):
        shutil.copy(photos / f"{number % 6}.jpg", photos / f"copy{number:02}.jpg")
    memory.pipe("/a.tar", packed(sorted(photos.glob("copy*"))))
    for number in range(2):
        assert run(["extract", "memory://a.tar", *NARROW, "--shard", f"{number}/2", "-o", "x.h5"]) == 0
    lost = tmp_path / "x.shard-1-of-2.h5"
    before = lost.read_bytes()
    lost.unlink()
    capsys.readouterr()
    assert run(["merge", "x.shard-0-of-2.h5", "-o", "x.h5"]) == 1
    assert run(shlex.split(capsys.readouterr().err.partition("make it with ")[2])[1:]) == 0
    assert lost.read_bytes() == before


def test_help_and_local_files_do_not_import_fsspec(photos):
    code = (
        "import sys; from vggfeat.datasets.listing import from_paths; "
        f"[sample.source() for sample in from_paths([{str(photos)!r}]).samples]; "
        "print([name for name in ('fsspec', 'aiohttp') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
