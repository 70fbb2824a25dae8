"""Tar files of images, read where they lie."""

import gzip
import io
import os
import random
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from vggfeat.datasets import Dataset, Sample
from vggfeat.datasets import tars as tars_module
from vggfeat.datasets.listing import expanded, from_list, from_paths
from vggfeat.errors import DatasetError, ImageError, ReadError, UsageError

RNG = random.Random(0)
FILES = {f"{i:03}.jpg": RNG.randbytes(3000 + 997 * i) for i in range(30)}


def tar_bytes(files, **options) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def contents(dataset: Dataset) -> dict[str, bytes]:
    return {sample.id: sample.source() for sample in dataset.samples}


def failures(dataset: Dataset) -> dict[str, str]:
    found = {}
    for sample in dataset.samples:
        try:
            sample.source()
        except ImageError as error:
            found[sample.id] = str(error)
    return found


@pytest.fixture(params=["plain", "gzip", "several gzip streams", "pax names"])
def archive(request, tmp_path):
    data = tar_bytes(FILES, format=tarfile.PAX_FORMAT if request.param == "pax names" else tarfile.GNU_FORMAT)
    path = tmp_path / ("a.tar" if request.param in ("plain", "pax names") else "a.tar.gz")
    if request.param == "gzip":
        data = gzip.compress(data)
    elif request.param == "several gzip streams":  # as pigz and cat make them
        data = gzip.compress(data[:50_000]) + gzip.compress(data[50_000:]) + b"\0" * 100
    path.write_bytes(data)
    return str(path)


def test_members_are_read_where_they_lie(archive):
    dataset = from_paths([archive])
    assert (dataset.name, dataset.exif) == ("images", True)
    assert contents(dataset) == {f"{archive}/{name}": content for name, content in FILES.items()}


def test_members_come_right_in_any_order_and_from_several_threads(archive, monkeypatch):
    monkeypatch.setattr(tars_module, "WINDOW", 20_000)  # less than what lies between most of them
    samples = list(from_paths([archive]).samples)
    random.Random(1).shuffle(samples)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda sample: sample.source(), samples))
    assert read == [FILES[sample.id.rpartition("/")[2]] for sample in samples]


def test_a_gzip_file_read_in_order_is_opened_once(tmp_path, monkeypatch):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(tar_bytes(FILES)))
    samples = from_paths([str(path)]).samples
    opened = []
    inflated = tars_module._Inflated
    monkeypatch.setattr(tars_module, "_Inflated", lambda path: opened.append(path) or inflated(path))
    for first, second in zip(samples[::2], samples[1::2], strict=True):
        second.source()  # threads swap neighbours
        first.source()
    assert len(opened) == 1


def test_the_buffer_of_a_gzip_file_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tars_module, "WINDOW", 100_000)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(tar_bytes(FILES)))
    dataset = from_paths([str(path)])
    sequence = tars_module._Sequence(str(path))
    largest = 0
    for sample in dataset.samples:
        assert sequence.read(*sample.span) == FILES[sample.id.rpartition("/")[2]]
        largest = max(largest, len(sequence._window))
    assert largest < 100_000 * 1.25 + max(map(len, FILES.values())) < sum(map(len, FILES.values()))


def test_tar_files_in_a_tar_file_are_entered(tmp_path):
    """ILSVRC's own training archive has one a class."""
    inner = {f"n{k}.tar": tar_bytes({f"n{k}_{i}.JPEG": bytes([k, i]) * 600 for i in range(3)}) for k in (1, 2)}
    (tmp_path / "train.tar").write_bytes(tar_bytes(inner))
    (tmp_path / "train.tgz").write_bytes(gzip.compress(tar_bytes(inner)))
    for name in ("train.tar", "train.tgz"):
        found = contents(from_paths([str(tmp_path / name)]))
        assert list(found)[3:5] == [f"{tmp_path / name}/n2.tar/n2_0.JPEG", f"{tmp_path / name}/n2.tar/n2_1.JPEG"]
        assert found[f"{tmp_path / name}/n2.tar/n2_1.JPEG"] == bytes([2, 1]) * 600


def test_only_images_count_and_hidden_ones_do_not(tmp_path):
    names = ["./a.jpg", "a.json", "deep/b.PNG", "._a.jpg", "deep/.c.jpg"]
    (tmp_path / "a.tar").write_bytes(tar_bytes(dict.fromkeys(names, b"x")))
    found = from_paths([str(tmp_path / "a.tar")]).samples
    assert [sample.id for sample in found] == [f"{tmp_path / 'a.tar'}/a.jpg", f"{tmp_path / 'a.tar'}/deep/b.PNG"]


def test_lists_may_name_tar_files(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes({"x.jpg": b"x", "y.jpg": b"y"}))
    listed = from_list(io.BytesIO(f"before.jpg\n{tmp_path / 'a.tar'}\nid\t{tmp_path / 'a.tar'}\n".encode()))
    assert [sample.id for sample in listed.samples] == [
        "before.jpg",
        f"{tmp_path / 'a.tar'}/x.jpg",
        f"{tmp_path / 'a.tar'}/y.jpg",
        "id",
    ]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_cut_tar_file_keeps_what_it_has_and_names_what_it_lost(tmp_path, compressed):
    data = tar_bytes(FILES)
    cut = data.index(FILES["020.jpg"]) + 5000
    path = tmp_path / ("a.tar.gz" if compressed else "a.tar")
    if compressed:
        # The last 16 KiB before a damage may be lost with it: cut it further on, inside of a later one.
        whole = gzip.compress(data, compresslevel=0)
        path.write_bytes(whole[:cut])
    else:
        path.write_bytes(data[:cut])
    dataset = from_paths([str(path)])
    lost = failures(dataset)
    good = [sample.id for sample in dataset.samples if sample.id not in lost]
    assert good == [f"{path}/{i:03}.jpg" for i in range(len(good))]
    assert len(good) >= 19 if compressed else len(good) == 20
    for sample in dataset.samples[: len(good)]:
        assert sample.source() == FILES[sample.id.rpartition("/")[2]]
    assert dataset.samples[-1].id == str(path), "what is lost is a row of its own"
    reason = "the gzip data are cut off" if compressed else "unexpected end of data"
    assert lost[str(path)] == f"damaged after {len(good):03}.jpg: {reason}; what follows is lost"
    assert lost[f"{path}/{len(good):03}.jpg"] == f"{path} ends inside of it"
    assert len(lost) == 2


def test_a_damaged_header_in_the_middle_is_no_end(tmp_path):
    """tarfile itself takes it for the archive's end and says nothing."""
    data = bytearray(tar_bytes(FILES))
    at = data.index(b"010.jpg")
    data[at : at + 200] = b"?" * 200
    (tmp_path / "a.tar").write_bytes(data)
    dataset = from_paths([str(tmp_path / "a.tar")])
    assert len(dataset.samples) == 11
    assert failures(dataset) == {str(tmp_path / "a.tar"): "damaged after 009.jpg: invalid header; what follows is lost"}


def test_a_tar_file_cut_between_two_members_is_found_by_its_missing_end(tmp_path):
    data = tar_bytes(FILES)
    (tmp_path / "a.tar").write_bytes(data[: data.index(b"010.jpg")])
    dataset = from_paths([str(tmp_path / "a.tar")])
    assert failures(dataset) == {str(tmp_path / "a.tar"): "damaged after 009.jpg: empty header; what follows is lost"}


def test_a_gzip_file_with_wrong_bytes_keeps_what_comes_before(tmp_path):
    data = bytearray(gzip.compress(tar_bytes(FILES)))
    data[200_000:200_016] = b"\xff" * 16
    (tmp_path / "a.tgz").write_bytes(data)
    lost = failures(from_paths([str(tmp_path / "a.tgz")]))
    assert lost[str(tmp_path / "a.tgz")].startswith("damaged after ")
    assert len(from_paths([str(tmp_path / "a.tgz")]).samples) - len(lost) >= 10


def test_what_is_no_tar_file_fails_by_name(tmp_path):
    for name, content in {"text.tar": b"hello " * 1000, "empty.tar": b"", "text.tgz": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
        [(id, reason)] = failures(from_paths([str(tmp_path / name)])).items()
        assert id == str(tmp_path / name)
        assert reason.startswith("no readable tar file: ")


def test_a_tar_file_that_has_gone_is_a_lost_disk_not_a_broken_image(tmp_path):
    for name in ("a.tar", "a.tgz"):
        with pytest.raises(ReadError) as error:
            Sample("x", str(tmp_path / name), span=(0, 3)).source()
        assert str(error.value) == f"{tmp_path / name}: no such file or directory"
    with pytest.raises(DatasetError) as caught:
        from_list(io.BytesIO(os.fsencode(tmp_path / "a.tar")))
    assert str(caught.value) == f"stdin: {tmp_path / 'a.tar'}: no such tar file"


def test_other_compressions_and_tar_files_without_images_are_refused(tmp_path):
    (tmp_path / "a.tar.xz").touch()
    with pytest.raises(DatasetError) as error:
        from_paths([str(tmp_path / "a.tar.xz")])
    assert str(error.value) == f"{tmp_path / 'a.tar.xz'}: tar files are read, plain or with gzip: uncompress it"
    (tmp_path / "a.tar").write_bytes(tar_bytes({"a.txt": b"x"}))
    with pytest.raises(DatasetError, match=r"/a\.tar: no images in this tar file \(\.apng \.avif \.bmp "):
        from_paths([str(tmp_path / "a.tar")])


def test_number_ranges_are_written_out_where_no_shell_has(tmp_path, monkeypatch):
    assert list(expanded("d-{008..011}.tar")) == ["d-008.tar", "d-009.tar", "d-010.tar", "d-011.tar"]
    assert list(expanded("{9..11}")) == ["9", "10", "11"]
    assert list(expanded("{2..1}/{0..1}")) == ["2/0", "2/1", "1/0", "1/1"]
    assert list(expanded("plain{a,b}.jpg")) == ["plain{a,b}.jpg"]
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        (tmp_path / f"d-{i:02}.tar").write_bytes(tar_bytes({"x.jpg": bytes([i])}))
    assert contents(from_paths(["d-{00..02}.tar"])) == {f"d-{i:02}.tar/x.jpg": bytes([i]) for i in range(3)}
    with pytest.raises(UsageError, match=r"^d-03\.tar, d-04\.tar: no such file or folder$"):
        from_paths(["d-{02..04}.tar"])
    monkeypatch.setattr(os.path, "lexists", lambda _: False)
    for endless in ("d-{0..99999999999}.tar", "{9999999..0}", "{0..9999}/{1..9999}.tar", f"{{0..{'9' * 99}}}"):
        with pytest.raises(UsageError) as error:
            from_paths([endless])
        assert str(error.value) == f"{endless}: stands for more than 1,000,000 names; give a smaller range"
    assert sum(1 for _ in expanded("{0..999}/{1..1000}")) == 1_000_000
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r": no such file or folder$"):
        from_paths([f"{{0..{'9' * 5000}}}"])  # more digits than Python turns into a number
    (tmp_path / "odd{1..2}.jpg").touch()
    assert [sample.id for sample in from_paths(["odd{1..2}.jpg"]).samples] == ["odd{1..2}.jpg"]


DESCRIBING = {"GNU name": b"L", "GNU link": b"K", "pax": b"x", "global pax": b"g", "Solaris pax": b"X"}


def described(kind: bytes, content: bytes, claimed: int) -> bytes:
    """A tar file: a.jpg, then a header that describes b.jpg and claims so many bytes, then b.jpg."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = kind, claimed
    first, second = (tar_bytes({name: b"x"}, format=tarfile.GNU_FORMAT)[:1024] for name in ("a.jpg", "b.jpg"))
    return first + header.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512) + second + bytes(1024)


@pytest.mark.parametrize("kind", DESCRIBING.values(), ids=DESCRIBING)
@pytest.mark.parametrize("claimed", [(1 << 20) + 1, 32 << 20, 1 << 50, -512])
@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_a_name_or_pax_header_that_claims_too_much_is_a_damage_and_is_not_read(tmp_path, suffix, claimed, kind):
    data = described(kind, b"n" * min(max(claimed, 0), 32 << 20), claimed)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(gzip.compress(data, 1) if suffix == "tar.gz" else data)
    del data
    tracemalloc.start()
    try:
        found = from_paths([str(path)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20  # a chunk of 16 KiB may hold a thousand times as much
    assert [sample.id for sample in found.samples] == [f"{path}/a.jpg", str(path)]
    assert found.samples[1].error == (
        f"damaged after a.jpg: a name or pax header claims {claimed} bytes; what follows is lost"
    )


def test_such_a_header_in_front_of_everything_leaves_the_tar_file_unreadable_by_name(tmp_path):
    (tmp_path / "a.tar").write_bytes(described(b"L", b"", 1 << 21)[1024:])
    found = from_paths([str(tmp_path / "a.tar")]).samples
    assert [sample.error for sample in found] == [
        "no readable tar file: a name or pax header claims 2097152 bytes; what follows is lost"
    ]


def test_headers_of_a_mebibyte_are_read(tmp_path):
    name = "deep/" * 50 + "b.jpg"
    pax = b"%d path=%s\n" % (len(name) + 10, name.encode())
    for kind, content in ((b"L", name.encode()), (b"x", pax)):
        (tmp_path / "a.tar").write_bytes(described(kind, content.ljust(1 << 20, b"\0"), 1 << 20))
        assert list(contents(from_paths([str(tmp_path / "a.tar")]))) == [
            f"{tmp_path}/a.tar/a.jpg",
            f"{tmp_path}/a.tar/{name}",
        ]


def test_all_missing_tar_files_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data-03.tar").write_bytes(tar_bytes(FILES))
    (tmp_path / "data-11.tar").write_bytes(tar_bytes(FILES))
    gone = ", ".join(f"data-{number:02}.tar" for number in range(20) if number not in (3, 11))
    with pytest.raises(UsageError) as caught:
        from_paths(["data-{00..19}.tar"])
    assert str(caught.value) == f"{gone}: no such file or folder"
    (tmp_path / "list").write_text("\n".join(["x.jpg", *(f"data-{number:02}.tar" for number in range(20))]))
    with pytest.raises(DatasetError) as caught:
        from_list("list")
    assert str(caught.value) == f"list: {gone}: no such tar file"
    with pytest.raises(UsageError) as caught:
        from_paths(["data-{0000..2999}.tar"])
    assert str(caught.value).endswith("data-0999.tar and 2000 more: no such file or folder")
