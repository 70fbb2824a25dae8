"""The cache of published weights, the archives of data sets, and `vggfeat download`, against a local server."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from caffe_writer import caffemodel
from serving import Server, serving

from vggfeat.cli import run
from vggfeat.datasets import archives
from vggfeat.datasets.archives import PUBLISHED, Archive, unpack
from vggfeat.errors import DatasetError, DownloadError, UsageError
from vggfeat.nets import cache, catalog
from vggfeat.nets.catalog import OXFORD, TORCHVISION, WEIGHTS
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.nets.weights import load_net
from vggfeat.stages.download import download_dataset, download_weights
from vggfeat.system import fetch
from vggfeat.system.hashes import algorithm


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache of the test's own, no proxies, no waiting; fetching allowed, for the addresses are local ones."""
    for name in list(os.environ):
        if name.casefold().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("VGGFEAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VGGFEAT_OFFLINE", raising=False)
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def small(net: str) -> VGG:
    return glorot_(VGG(net, width=1 / 64, num_classes=5), seed=1)


def caffe_file(net: str) -> bytes:
    weights = [value.numpy() for value in small(net).state_dict().values()]
    return caffemodel(net, list(zip(weights[::2], weights[1::2], strict=True)))


def keras_file(net: str, path: Path) -> bytes:
    """Written by hand in Keras' layout (test_weights.py has Keras' own files)."""
    import h5py
    import numpy as np

    values = [value.numpy() for value in small(net).state_dict().values()]
    with h5py.File(path, "w") as file:
        names = [f"layer{i}" for i in range(len(values) // 2)]
        file.attrs["layer_names"] = np.array([name.encode() for name in names])
        last = values[0]
        for name, weight, bias in zip(names, values[::2], values[1::2], strict=True):
            kernel = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T
            if last.ndim == 4 and weight.ndim == 2:
                kernel = weight.reshape(len(weight), -1, 7, 7).transpose(2, 3, 1, 0).reshape(-1, len(weight))
            group = file.create_group(name)
            group.attrs["weight_names"] = np.array([b"kernel:0", b"bias:0"])
            group["kernel:0"], group["bias:0"] = kernel, bias
            last = weight
    return path.read_bytes()


def torch_file(net: str) -> bytes:
    stream = io.BytesIO()
    torch.save(small(net).state_dict(), stream)
    return stream.getvalue()


@pytest.fixture
def published(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """The catalog's own table, its addresses on the local server and its files narrow ones."""
    rows = []
    for row in WEIGHTS:
        content = {
            "caffemodel": lambda row: caffe_file(row.net),
            "keras": lambda row: keras_file(row.net, tmp_path / "w.h5"),
            "torchvision": lambda row: torch_file(row.net),
        }[row.format](row)
        kind, _, published_hex = row.digest.partition(":")
        digest = f"{kind}:{hashlib.new(algorithm(row.digest), content).hexdigest()[: len(published_hex)]}"
        server.files[f"/{row.filename}"] = content
        size = len(content) if row.size else None
        rows.append(dataclasses.replace(row, url=server.url(f"/{row.filename}"), digest=digest, size=size))
    monkeypatch.setattr(catalog, "WEIGHTS", tuple(rows))
    return server


def same(one: VGG, other: VGG) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


# --- the cache ---


@pytest.mark.parametrize(
    ("net", "weights", "source", "preprocessing"),
    [
        (None, "published", "oxford", OXFORD),
        ("E", "oxford", "oxford", OXFORD),
        ("D", "oxford-keras", "oxford-keras", OXFORD),
        ("D", "torchvision", "torchvision", TORCHVISION),
        ("a", "published", "torchvision", TORCHVISION),
    ],
)
def test_published_weights_are_fetched_once_and_loaded_with_their_preprocessing(
    net: str | None, weights: str, source: str, preprocessing: catalog.Preprocessing, published: Server
) -> None:
    loaded = load_net(net, weights, device="cpu")
    assert (loaded.weights_name, loaded.preprocessing) == (source, preprocessing)
    assert same(loaded, small(loaded.net))
    asked = len(published.requests)
    again = load_net(net, weights, device="cpu", offline=True)
    assert len(published.requests) == asked == 1
    file = cache.published_file(loaded.net, weights).path
    assert loaded.weights_sha256 == again.weights_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_download_is_announced_with_its_place(published: Server, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[int, int | None]] = []
    with caplog.at_level(logging.INFO, "vggfeat"):
        load_net("D", device="cpu", progress=lambda *now: seen.append(now))
    row = catalog.weights_rows("D")[0]
    assert caplog.messages[0] == f"fetching {row.url} (0 MB) to {cache.cached_path(row)}"
    assert seen[-1] == (row.size, row.size)


@pytest.mark.parametrize("fault", ["gone", "other", "refused"])
def test_keras_copy_is_taken_where_oxfords_cannot_be_had(
    fault: str, published: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = catalog.weights_rows("D")[0]
    if fault == "gone":
        del published.files[f"/{first.filename}"]
    elif fault == "other":
        published.files[f"/{first.filename}"] = b"x" * int(first.size or 0)
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        rows = [
            dataclasses.replace(row, url=f"http://127.0.0.1:{port}/x") if row == first else row
            for row in catalog.WEIGHTS
        ]
        monkeypatch.setattr(catalog, "WEIGHTS", tuple(rows))
    loaded = load_net("D", device="cpu")
    assert loaded.weights_name == "oxford-keras"
    assert same(loaded, small("D"))
    reason = {"gone": "404", "other": "not the published file", "refused": "Connection refused"}[fault]
    assert reason in caplog.text
    # From now on the copy is what is here, and Oxford is not asked again.
    before = len(published.requests)
    assert load_net("D", "oxford", device="cpu").weights_name == "oxford-keras"
    assert len(published.requests) == before


def test_without_a_network_the_error_says_which_file_to_put_where(published: Server) -> None:
    published.files.clear()
    row, copy = catalog.weights_rows("D")
    with pytest.raises(DownloadError) as caught:
        load_net("D", device="cpu")
    place = cache.cache_folder() / "weights" / "VGG_ILSVRC_16_layers.caffemodel"
    assert str(caught.value) == (
        f"{row.url}: the server answers 404 Not Found; {copy.url}: the server answers 404 Not Found; "
        f"without a network, put {row.url} ({row.digest}) at {place}"
    )


@pytest.mark.parametrize("way", ["argument", "variable"])
def test_offline_says_which_file_to_put_where_and_asks_nobody(
    way: str, published: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "variable":
        monkeypatch.setenv("VGGFEAT_OFFLINE", "1")
    with pytest.raises(DownloadError) as caught:
        load_net("B", device="cpu", offline=True if way == "argument" else None)
    (row,) = catalog.weights_rows("B")
    asked = "`offline` or VGGFEAT_OFFLINE" if way == "argument" else "VGGFEAT_OFFLINE"
    assert str(caught.value) == (
        "the weights of net B (torchvision) are not in the cache, and fetching is forbidden "
        f"({asked}); put {row.url} ({row.digest}) at {cache.cached_path(row)}"
    )
    assert published.requests == []


@pytest.mark.parametrize("value", ["1", "yes", "2", "TRUE"])
def test_the_commands_and_python_read_the_variable_alike(
    published: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    monkeypatch.setenv("VGGFEAT_OFFLINE", value)
    with pytest.raises(DownloadError) as raised:
        load_net("D")
    assert "fetching is forbidden (VGGFEAT_OFFLINE); put " in str(raised.value)
    assert run(["download", "--net", "D"]) == 1
    assert "fetching is forbidden (VGGFEAT_OFFLINE); put " in capsys.readouterr().err
    assert published.requests == []


def test_a_file_put_there_by_hand_is_used_and_a_wrong_one_named(published: Server) -> None:
    (row,) = catalog.weights_rows("A")
    place = cache.cached_path(row)
    place.parent.mkdir(parents=True)
    place.write_bytes(published.files[f"/{row.filename}"])  # type: ignore[arg-type]
    assert same(load_net("A", device="cpu", offline=True), small("A"))
    place.write_bytes(b"something else")
    with pytest.raises(DownloadError, match=r"not the published file: .*; remove it to fetch it anew$"):
        load_net("A", device="cpu")
    assert published.requests == []


def test_nets_without_published_weights_say_what_there_is() -> None:
    with pytest.raises(UsageError) as caught:
        load_net("C")
    assert str(caught.value) == (
        "no weights of net C are published; there are A (torchvision), B (torchvision), D (oxford, oxford-keras, "
        "torchvision), E (oxford, oxford-keras, torchvision); or give a file, or take `weights=none` for random ones"
    )
    with pytest.raises(UsageError, match=r"^no oxford weights of net A are published; there are A \(torchvision\)"):
        load_net("A", "oxford")


@pytest.mark.parametrize(
    ("platform", "variables", "place"),
    [
        ("linux", {"VGGFEAT_CACHE": "/c"}, "/c"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/vggfeat"),
        ("linux", {}, "/home/u/.cache/vggfeat"),
        ("darwin", {"XDG_CACHE_HOME": "/xdg"}, "/home/u/Library/Caches/vggfeat"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/vggfeat"),
    ],
)
def test_the_cache_lies_where_the_system_keeps_its_caches(
    platform: str, variables: dict[str, str], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VGGFEAT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cache.sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/u"))
    assert cache.cache_folder() == Path(place)


# --- data sets ---


def tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}"


CALTECH_101 = {
    "101_ObjectCategories/accordion/image_0001.jpg": b"jpeg",
    "101_ObjectCategories/BACKGROUND_Google/tmp": b"stray",
}
CALTECH_256 = {"256_ObjectCategories/001.ak47/001_0001.jpg": b"jpeg"}
VOC_TRAINVAL = {
    "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt": b"000005\n",
    "VOCdevkit/VOC2007/JPEGImages/000005.jpg": b"jpeg",
}
VOC_TEST = {"VOCdevkit/VOC2007/ImageSets/Main/test.txt": b"000001\n", "VOCdevkit/VOC2007/JPEGImages/000001.jpg": b"j"}
VOC_2012 = {"VOCdevkit/VOC2012/ImageSets/Main/trainval.txt": b"2008_000008\n"}


@pytest.fixture
def datasets(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The table's own archives with small contents in their real layout."""
    inner = tar(CALTECH_101, "w:gz")
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("__MACOSX/caltech-101/._101_ObjectCategories.tar.gz", b"apple's")
        archive.writestr("caltech-101/Annotations.tar", b"not wanted")
        archive.writestr("caltech-101/101_ObjectCategories.tar.gz", inner)
    contents = {
        "caltech101": (outer.getvalue(),),
        "caltech256": (tar(CALTECH_256),),
        "voc2007": (tar(VOC_TRAINVAL), tar(VOC_TEST)),
        "voc2012": (tar(VOC_2012),),
    }
    table = {}
    for name, published in PUBLISHED.items():
        local = []
        for archive, content in zip(published.archives, contents[name], strict=True):
            server.files[f"/{archive.filename}"] = content
            url = server.url(f"/{archive.filename}")
            digest = md5(inner) if archive.inner else ""
            local.append(dataclasses.replace(archive, url=url, digest=md5(content), inner_digest=digest))
        table[name] = dataclasses.replace(published, archives=tuple(local))
    for name, row in table.items():
        monkeypatch.setitem(PUBLISHED, name, row)
    return server


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "folder", "content"),
    [
        ("caltech101", "caltech101", CALTECH_101),
        ("caltech256", "caltech256", CALTECH_256),
        ("voc2007", "", VOC_TRAINVAL | VOC_TEST),
        ("voc2012", "", VOC_2012),
    ],
)
def test_a_data_set_is_unpacked_into_the_data_root_and_nothing_else_left(
    name: str, folder: str, content: dict[str, bytes], datasets: Server, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    path = download_dataset(name, data)
    assert tree(data / folder) == content
    assert path == data / PUBLISHED[name].folder
    asked = len(datasets.requests)
    assert download_dataset(name, data, offline=True) == path
    assert len(datasets.requests) == asked


def test_the_two_voc_sets_share_their_devkit(datasets: Server, tmp_path: Path) -> None:
    download_dataset("voc2012", tmp_path)
    download_dataset("voc2007", tmp_path)
    assert tree(tmp_path / "VOCdevkit") == {
        name.removeprefix("VOCdevkit/"): content for name, content in (VOC_TRAINVAL | VOC_TEST | VOC_2012).items()
    }


def test_a_set_unpacked_by_hand_without_a_part_is_named_incomplete(datasets: Server, tmp_path: Path) -> None:
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("000005\n")
    with pytest.raises(DatasetError) as caught:
        download_dataset("voc2007", tmp_path)
    assert str(caught.value) == (
        f"{folder}: incomplete, ImageSets/Main/test.txt is missing; remove the folder to fetch the set anew"
    )
    assert datasets.requests == []


def test_an_interrupted_unpacking_starts_again_from_the_archive(
    datasets: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = tarfile.TarFile.extractfile, []

    def dies(self: tarfile.TarFile, member: tarfile.TarInfo) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, member)

    monkeypatch.setattr(tarfile.TarFile, "extractfile", dies)
    with pytest.raises(KeyboardInterrupt):
        download_dataset("caltech101", tmp_path)
    assert not (tmp_path / "caltech101" / "101_ObjectCategories").exists()
    monkeypatch.setattr(tarfile.TarFile, "extractfile", real)
    download_dataset("caltech101", tmp_path)
    assert tree(tmp_path / "caltech101") == CALTECH_101
    assert len(datasets.requests) == 1


def test_a_wrong_archive_is_not_unpacked(datasets: Server, tmp_path: Path) -> None:
    datasets.files["/256_ObjectCategories.tar"] = tar({"256_ObjectCategories/evil.jpg": b"x"})
    with pytest.raises(DownloadError, match="not the published file: expected md5:"):
        download_dataset("caltech256", tmp_path)
    assert tree(tmp_path).keys() <= {"caltech256/.256_ObjectCategories.lock"}


def test_offline_names_the_archive_and_its_place(datasets: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"256_ObjectCategories\.tar is missing and fetching is forbidden"):
        download_dataset("caltech256", tmp_path, offline=True)


TWICE = """
import dataclasses, json, sys
from vggfeat.datasets.archives import PUBLISHED, Archive
from vggfeat.stages.download import download_dataset
url, digest, data = sys.argv[1:]
PUBLISHED["caltech256"] = dataclasses.replace(PUBLISHED["caltech256"], archives=(Archive(url, digest),))
print(download_dataset("caltech256", data))
"""


def test_two_processes_fetch_and_unpack_a_set_once(datasets: Server, tmp_path: Path) -> None:
    files = {f"256_ObjectCategories/001.ak47/{i}.jpg": b"x" * 100 for i in range(300)}
    content = tar(files)
    datasets.files["/256_ObjectCategories.tar"] = content
    words = [sys.executable, "-c", TWICE, datasets.url("/256_ObjectCategories.tar"), md5(content), str(tmp_path)]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == [
        str(tmp_path / PUBLISHED["caltech256"].folder)
    ] * 2
    assert [process.returncode for process in both] == [0, 0]
    assert tree(tmp_path / "caltech256") == files
    assert len(datasets.requests) == 1


def link(kind: bytes, target: str) -> Callable[[tarfile.TarInfo], None]:
    def make(member: tarfile.TarInfo) -> None:
        member.type, member.linkname = kind, target

    return make


def huge(member: tarfile.TarInfo) -> None:
    member.size = 1 << 40


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("../outside", lambda _: None, "would be extracted to"),
        ("a/../../outside", lambda _: None, "would be extracted to"),
        ("symlink", link(tarfile.SYMTYPE, "/etc/passwd"), "'symlink' is a link or a device"),
        ("hard", link(tarfile.LNKTYPE, "../outside"), "'hard' is a link or a device"),
        ("device", link(tarfile.CHRTYPE, ""), "'device' is a link or a device"),
        ("fifo", link(tarfile.FIFOTYPE, ""), "'fifo' is a link or a device"),
        ("huge", huge, "claims 1099511627776 bytes or more, which no published set has"),
    ],
)
def test_an_archive_that_reaches_out_is_refused(
    name: str, change: Callable[[tarfile.TarInfo], None], message: str, tmp_path: Path
) -> None:
    member = tarfile.TarInfo(name)
    change(member)
    file = tmp_path / "set.tar"
    file.write_bytes(member.tobuf() + bytes(1024))
    (tmp_path / "in").mkdir()
    with pytest.raises(DatasetError, match=message) as caught:
        unpack(file, Archive("http://x/set.tar", ""), tmp_path / "in")
    assert str(caught.value).startswith(f"{file}: ")
    assert {path.name for path in tmp_path.iterdir()} == {"set.tar", "in"}
    assert list((tmp_path / "in").iterdir()) == []


def test_unpacking_needs_no_filter_of_tarfiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has them from 3.11.4 on; Debian 12 has 3.11.2."""

    def extract(*_: object, **named: object) -> None:
        raise TypeError(f"TarFile.extract() got an unexpected keyword argument {[*named]}")

    monkeypatch.setattr(tarfile.TarFile, "extract", extract)
    file = tmp_path / "set.tar"
    file.write_bytes(tar({"a/b/1.jpg": b"x", "2.jpg": b"yy"}))
    unpack(file, Archive("http://x/set.tar", ""), tmp_path / "in")
    assert tree(tmp_path / "in") == {"a/b/1.jpg": b"x", "2.jpg": b"yy"}


def test_an_absolute_path_lands_inside(tmp_path: Path) -> None:
    file = tmp_path / "set.tar"
    outside = tmp_path / "outside.jpg"
    file.write_bytes(tar({str(outside): b"x"}))
    unpack(file, Archive("http://x/set.tar", ""), tmp_path / "in")
    assert not outside.exists()
    assert list(tree(tmp_path / "in").values()) == [b"x"]


@pytest.mark.parametrize(
    ("content", "inner", "message"),
    [
        (b"no archive", "", "cannot be unpacked"),
        (tar(CALTECH_256, "w:gz")[:60], "", "cannot be unpacked"),
        (b"no archive", "x.tar", "cannot be unpacked: File is not a zip file"),
    ],
    ids=["no tar", "cut tar", "no zip"],
)
def test_a_damaged_archive_is_one_sentence(content: bytes, inner: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "set").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        unpack(tmp_path / "set", Archive("http://x/set", "", inner, ""), tmp_path / "in")


def test_a_zip_that_lacks_or_forges_its_inner_archive_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "set.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/inner.tar", b"\0" * 100_000)
    with pytest.raises(DatasetError, match=r"set\.zip: contains no other\.tar$"):
        unpack(file, Archive("http://x/set.zip", "", "other.tar", md5(b"")), tmp_path / "in")
    with pytest.raises(DownloadError, match=r"set\.zip: inner\.tar: not the published file: expected md5:"):
        unpack(file, Archive("http://x/set.zip", "", "inner.tar", md5(b"")), tmp_path / "in")
    monkeypatch.setattr(archives, "MOST_BYTES", 99_999)
    with pytest.raises(DatasetError, match="claims 100000 bytes or more"):
        unpack(file, Archive("http://x/set.zip", "", "inner.tar", md5(b"")), tmp_path / "in")
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


# --- the command ---


def test_the_command_prints_the_path_alone(published: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["download", "--net", "D"]) == 0
    out, _ = capsys.readouterr()
    path = cache.cached_path(catalog.weights_rows("D")[0])
    assert out == f"{path}\n"
    assert path.is_file()


def test_the_commands_json_says_what_it_is(published: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["download", "--net", "e", "--source", "oxford-keras", "--json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    (row,) = catalog.weights_rows("E", "oxford-keras")
    path = cache.cached_path(row)
    assert json.loads(out) == {
        "path": str(path),
        "net": "E",
        "source": "oxford-keras",
        "url": row.url,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert err == ""


def test_the_command_fetches_a_data_set(datasets: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["download", "--dataset", "caltech101", "--data", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/caltech101/101_ObjectCategories\n"


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        ([], 2, "vggfeat: download takes either --net, such as --net D, or --dataset, such as --dataset caltech101"),
        (["--net", "D", "--dataset", "voc2007"], 2, "vggfeat: download takes either --net"),
        (
            ["--dataset", "voc2007", "--source", "oxford"],
            2,
            "vggfeat: --source says whose weights; a data set has none",
        ),
        (["--dataset", "imagenet"], 2, "vggfeat: Invalid value for '--dataset': 'imagenet' is not one of 'caltech101'"),
        (["--net", "C"], 2, "vggfeat: no weights of net C are published; there are A (torchvision)"),
        (
            ["--net", "D", "--offline"],
            1,
            "vggfeat: the weights of net D (oxford) are not in the cache, and fetching is",
        ),
    ],
)
def test_wrong_usage_is_one_line(words: list[str], code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["download", *words]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_download_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from vggfeat.cli import run; run(['download', '--net', 'D', '--offline']); "
        "sys.exit('torch' in sys.modules)"
    )
    environment = os.environ | {"VGGFEAT_CACHE": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE).returncode == 0


def test_stage_and_cache_agree(published: Server) -> None:
    assert download_weights("A").path == cache.cached_path(catalog.weights_rows("A")[0])


def test_without_a_network_the_command_says_where_to_put_what(
    datasets: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a file that is put there by hand is taken."""
    (archive,) = PUBLISHED["caltech101"].archives
    content = datasets.files.pop(f"/{archive.filename}")
    command = ["download", "--dataset", "caltech101", "--data", str(tmp_path / "d"), "--quiet"]
    assert run(command) == 1
    error = capsys.readouterr().err
    found = re.search(r"; without a network, put (\S+) \((\S+)\) at (\S+) and run this again\n$", error)
    assert found
    assert found.groups()[:2] == (archive.url, archive.digest)
    assert isinstance(content, bytes)
    Path(found[3]).parent.mkdir(parents=True, exist_ok=True)
    Path(found[3]).write_bytes(content)
    assert run(command) == 0


@pytest.mark.parametrize("offline", [False, True])
def test_of_several_archives_all_that_are_missing_are_named(datasets: Server, tmp_path: Path, offline: bool) -> None:
    first, second = PUBLISHED["voc2007"].archives
    folder = tmp_path / "VOCdevkit" / ".VOC2007.part"
    content = {one.filename: datasets.files.pop(f"/{one.filename}") for one in (first, second)}
    places = [f"put {one.url} ({one.digest}) at {folder / one.filename}" for one in (first, second)]
    with pytest.raises(DownloadError) as caught:
        download_dataset("voc2007", tmp_path, offline=offline)
    assert str(caught.value).endswith(f"{places[0]}, {places[1]} and run this again")
    folder.mkdir(exist_ok=True)
    (folder / first.filename).write_bytes(content[first.filename])  # type: ignore[arg-type]
    with pytest.raises(DownloadError) as caught:
        download_dataset("voc2007", tmp_path, offline=offline)
    assert first.url not in str(caught.value)
    assert second.url in str(caught.value)
