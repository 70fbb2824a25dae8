"""Lists, folders, tar files and labels, kind by kind: nothing is lost, mislabelled or exchanged in silence."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import odd_images
import pytest
from PIL import Image

import vggfeat
from vggfeat.cli import run
from vggfeat.datasets import Dataset, load_dataset
from vggfeat.datasets.folder import as_dataset, class_tree
from vggfeat.datasets.images import decode
from vggfeat.datasets.listing import from_list, from_paths
from vggfeat.datasets.split import load_training_set
from vggfeat.datasets.tars import members
from vggfeat.errors import DatasetError, ImageError, UsageError
from vggfeat.store import Descriptors


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def refused(call: object, *args: object, **options: object) -> str:
    with pytest.raises(DatasetError) as error:
        call(*args, **options)  # type: ignore[operator]
    return str(error.value)


# Labels that are the split: `train/` beside a validation or test part, each with class folders, is one data set.

CLASSES = ("ant", "bee", "cow")


def split(root: Path, *parts: str) -> Path:
    return touch(root, *(f"{part}/{name}/{i}.jpg" for part in parts for name in CLASSES for i in range(2)))


@pytest.mark.parametrize(
    ("parts", "subsets"),
    [
        (("train", "val"), ("train", "val")),
        (("train", "valid"), ("train", "val")),
        (("train", "validation"), ("train", "val")),
        (("train", "test"), ("train", "test")),
        (("train", "val", "test"), ("train", "val", "test")),
    ],
)
def test_a_split_root_is_one_data_set_with_subsets(
    tmp_path: Path, parts: tuple[str, ...], subsets: tuple[str, ...]
) -> None:
    dataset = load_dataset("folder", split(tmp_path, *parts))
    assert dataset.class_names == CLASSES
    assert [(s.id, s.labels, s.subset) for s in dataset.samples] == [
        (f"{part}/{name}/{i}.jpg", CLASSES.index(name), subset)
        for part, subset in zip(parts, subsets, strict=True)
        for name in CLASSES
        for i in range(2)
    ]


@pytest.mark.parametrize("part", ["val", "valid", "validation"])
def test_training_reads_the_same_parts(tmp_path: Path, part: str) -> None:
    training = load_training_set("folder", split(tmp_path, "train", part))
    whole = load_dataset("folder", tmp_path).samples
    assert training.train == tuple(sample for sample in whole if sample.subset == "train")
    assert training.val == tuple(sample for sample in whole if sample.subset == "val")
    assert not training.held_out


@pytest.mark.parametrize(
    "names",
    [
        ("train/1.jpg", "val/1.jpg"),  # classes that happen to be called so
        ("train/steam/1.jpg", "bus/1.jpg"),  # a class of trains, deeper
        ("train/steam/1.jpg", "val/2.jpg"),
        ("test/a/1.jpg", "val/a/1.jpg"),
    ],
)
def test_folders_that_only_look_like_parts_are_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    dataset = load_dataset("folder", touch(tmp_path, *names))
    assert dataset.class_names == tuple(sorted({name.split("/")[0] for name in names}))
    assert {sample.subset for sample in dataset.samples} == {""}


def test_a_split_that_contradicts_itself_is_refused_or_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    split(tmp_path / "a", "train", "val")
    touch(tmp_path / "a", "val/dog/1.jpg")
    assert refused(load_dataset, "folder", tmp_path / "a") == (
        f"{tmp_path}/a/val: class 'dog' is not among the classes of {tmp_path}/a/train"
    )
    touch(split(tmp_path / "d", "train", "val"), "train/stray.jpg")
    assert len(load_training_set("folder", tmp_path / "d").train) == 6
    assert caplog.messages == [f"{tmp_path}/d/train: left out 1 image outside of the class folders, such as stray.jpg"]
    caplog.clear()
    assert refused(load_dataset, "folder", split(tmp_path / "b", "train", "val", "valid")) == (
        f"{tmp_path}/b: val and valid are both its validation part; keep one"
    )
    load_dataset("folder", touch(split(tmp_path / "c", "train", "val"), "extra/dog/1.jpg", ".git/x.jpg"))
    assert caplog.messages == [f"{tmp_path}/c: left out extra, which is not part of the split"]


# A list's entry means one file: with NUL it is a path, whole; a line is refused where it could be read in two ways.


def listed(data: bytes, **options: bool) -> list[tuple[str, str]]:
    return [(sample.id, sample.path) for sample in from_list(io.BytesIO(data), **options).samples]


@pytest.mark.parametrize("name", ["one\ttwo.jpg", "\tx.jpg", "x.jpg\t", "a\tb\tc.jpg", "two\nlines\t.jpg", "d\t/x.jpg"])
def test_an_entry_that_nul_ends_is_a_path_whole(name: str) -> None:
    assert listed(f"{name}\0plain.jpg\0".encode(), nul=True) == [(name, name), ("plain.jpg", "plain.jpg")]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("one\ttwo.jpg", "one\ttwo.jpg"),
        ("one\ttwo.jpg", "./one\ttwo.jpg"),
        ("q/one\ttwo.jpg", "q/one\ttwo.jpg"),
        ("q\tr/two.jpg", "q\tr/two.jpg"),
        ("deep/q\tr/s/two.jpg", "deep/q\tr/s/two.jpg"),
    ],
)
def test_a_line_that_is_a_files_name_and_could_be_an_id_and_a_path_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, line: str
) -> None:
    monkeypatch.chdir(touch(tmp_path, file, "two.jpg"))
    assert refused(listed, f"plain.jpg\n{line}\n".encode()) == (
        f"stdin, line 2: {line!r} is a file's name, and could be id<TAB>path too; give the list separated by NUL bytes "
        "(find -print0) with `nul`"
    )
    (tmp_path / "lines").write_bytes(f"{line}\n".encode())
    assert refused(from_list, "lines", only_lines=True) == (
        f"lines, line 1: {line!r} is a file's name, and could be id<TAB>path too; write an id and a tab before it"
    )
    assert listed(f"x\t{line}\n".encode()) == [("x", line)]
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert listed(b"one\ttwo.jpg\n") == [("one", "two.jpg")]


def test_a_gzipped_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.txt.gz").write_bytes(gzip.compress(b"a.jpg\nb.jpg\n"))
    assert refused(from_list, tmp_path / "list.txt.gz") == f"{tmp_path}/list.txt.gz: gzipped; unpack the list"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_lists_and_tables_in_utf16_are_named(tmp_path: Path, encoding: str) -> None:
    mark = b"" if encoding == "utf-16" else b"\xff\xfe" if encoding == "utf-16-le" else b"\xfe\xff"
    (tmp_path / "list.txt").write_bytes(mark + "a.jpg\nb.jpg\n".encode(encoding))
    assert refused(from_list, tmp_path / "list.txt") == f"{tmp_path}/list.txt: a UTF-16 text; save the list as UTF-8"
    (tmp_path / "t.csv").write_bytes(mark + "a.jpg,x\nb.jpg,y\n".encode(encoding))
    assert refused(load_dataset, "folder", tmp_path / "t.csv") == f"{tmp_path}/t.csv: a UTF-16 text; save it as UTF-8"


# A CSV's header is known by its names, or refused; it never becomes a picture and a class.


@pytest.mark.parametrize(
    "header",
    ["filename,label", "image,class", "File_Path, Category", "img,target", "path,label,split", "image_name,label"],
)
def test_headers_of_common_names_are_headers(tmp_path: Path, header: str) -> None:
    extra = ",train" if header.count(",") == 2 else ""
    (tmp_path / "t.csv").write_text(f"{header}\na.jpg,x{extra}\nb.jpg,y{extra}\n")
    dataset = load_dataset("folder", tmp_path / "t.csv")
    assert [(s.id, s.labels, s.subset) for s in dataset.samples] == [
        ("a.jpg", 0, extra[1:]),
        ("b.jpg", 1, extra[1:]),
    ]
    assert dataset.class_names == ("x", "y")


def test_a_header_also_says_the_order_of_the_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("label,split,filename\nx,validation,a.jpg\ny,test,b.jpg\n")
    samples = load_dataset("folder", tmp_path / "t.csv").samples
    assert [(s.id, s.labels, s.subset) for s in samples] == [("a.jpg", 0, "val"), ("b.jpg", 1, "test")]


@pytest.mark.parametrize("first", ["Picture,Kind", "fname,species", "Bild,Klasse", "ID,y"])
def test_a_header_of_other_names_is_refused(tmp_path: Path, first: str) -> None:
    (tmp_path / "t.csv").write_text(f"{first}\na.jpg,x\nb.jpg,y\n")
    path, label = first.split(",")
    assert refused(load_dataset, "folder", tmp_path / "t.csv") == (
        f"{tmp_path}/t.csv, line 1: {path!r}, {label!r} look like a header of other names; name the columns path,label "
        "or path,label,subset"
    )
    touch(tmp_path, path)  # a file of that name, without a suffix
    assert len(load_dataset("folder", tmp_path / "t.csv").samples) == 3


def test_a_header_that_no_file_could_be_called_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"{'x' * 5000},y\na.jpg,x\nb.jpg,y\n")
    assert "look like a header of other names" in refused(load_dataset, "folder", tmp_path / "t.csv")


# In a tar file whatever `tar x` would leave as a regular file is a row or a named failure.


def tar_of(*members: tuple[str, bytes | tarfile.TarInfo], **options: object) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as tar:  # type: ignore[call-overload]
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return stream.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.LNKTYPE) -> tuple[str, tarfile.TarInfo]:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return name, header


def read(path: Path) -> dict[str, str]:
    """Name -> content or "!reason" of each sample of a tar file."""
    found = {}
    for sample in from_paths([str(path)]).samples:
        try:
            content = sample.source()
        except ImageError as error:
            content = f"!{error}".encode()
        assert isinstance(content, bytes)
        found[sample.id.removeprefix(f"{path}").lstrip("/")] = content.decode()
    return found


def unpacked(path: Path, folder: Path) -> dict[str, str]:
    """What GNU tar leaves as regular files, hard links included."""
    folder.mkdir()
    subprocess.run(["tar", "-x", "--ignore-zeros", "-f", path, "-C", folder], check=True, capture_output=True)
    files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    return {file.relative_to(folder).as_posix(): file.read_text() for file in files}


def with_type(data: bytes, name: str, kind: bytes) -> bytes:
    """The archive with another type in a member's header, its checksum made right."""
    at = data.index(name.encode())
    header = bytearray(data[at : at + 512])
    header[156:157] = kind
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + 512 :]


A, B = ("a.jpg", b"first"), ("b.jpg", b"second")
ARCHIVES: Mapping[str, bytes] = {
    "hard links": tar_of(A, link("c.jpg", "a.jpg"), link("d/e.jpg", "c.jpg"), B),
    "a hard link to a file without a picture's name": tar_of(("data.bin", b"x"), link("x.jpg", "data.bin"), A),
    "a symbolic link": tar_of(A, link("c.jpg", "a.jpg", tarfile.SYMTYPE)),
    "contiguous files": with_type(tar_of(A, B), "b.jpg", b"7"),
    "files of the oldest format": with_type(tar_of(A, B), "b.jpg", b"\0"),
    "files of an unknown type": with_type(tar_of(A, B), "b.jpg", b"Q"),
    "a name that comes again": tar_of(A, B, ("a.jpg", b"third")),
    "a name that comes again otherwise written": tar_of(
        A, B, ("./a.jpg", b"third"), ("d//c.jpg", b"x"), ("d/c.jpg", b"y")
    ),
    "a file that a hard link replaces": tar_of(A, B, link("a.jpg", "b.jpg")),
    "a file that a symbolic link replaces": tar_of(A, B, link("a.jpg", "b.jpg", tarfile.SYMTYPE)),
    "a file that is replaced after it was linked": tar_of(A, link("c.jpg", "a.jpg"), ("a.jpg", b"third")),
    "two archives in a row": tar_of(A) + tar_of(B),
    "three archives, one of them empty": tar_of(A) + tar_of() + tar_of(B),
    "an archive behind one that it updates": tar_of(A, B) + tar_of(("a.jpg", b"third")),
    "zeros and rubbish behind the end": tar_of(A) + bytes(20 * 512) + b"rubbish" * 100,
    "long names": tar_of(("d" * 90 + "/" + "e" * 90 + ".jpg", b"x"), A, format=tarfile.GNU_FORMAT),
    "long names by pax": tar_of(("d" * 90 + "/" + "e" * 90 + "\xe9.jpg", b"x"), A, format=tarfile.PAX_FORMAT),
}


@pytest.mark.parametrize("form", ["tar", "gzip", "gzip called .tar", "gzip piece by piece"])
@pytest.mark.parametrize("data", ARCHIVES.values(), ids=ARCHIVES)
def test_a_tar_file_gives_what_tar_would_unpack(tmp_path: Path, data: bytes, form: str) -> None:
    path = tmp_path / ("a.tar" if form in ("tar", "gzip called .tar") else "a.tar.gz")
    if form == "gzip piece by piece":
        path.write_bytes(b"".join(gzip.compress(data[at : at + 700]) for at in range(0, len(data), 700)))
    else:
        path.write_bytes(data if form == "tar" else gzip.compress(data))
    if "rubbish" in str(data[-9:]):
        assert read(path) == {"a.jpg": "first"}
        return
    right = {name: text for name, text in unpacked(path, tmp_path / "out").items() if name.endswith(".jpg")}
    assert {os.path.normpath(name): text for name, text in read(path).items()} == right
    assert "!" not in "".join(right.values())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tar_of(A, link("c.jpg", "gone.jpg")), {"c.jpg": "!a hard link to gone.jpg, which is not in this tar file"}),
        (
            tar_of(A, link("c.jpg", "/etc/passwd")),
            {"c.jpg": "!a hard link to /etc/passwd, which is not in this tar file"},
        ),
        (
            with_type(tar_of(A, ("c.jpg", b"second half")), "c.jpg", b"M"),
            {"c.jpg": "!begun in another volume of the tar file: join them and unpack it"},
        ),
        (
            with_type(tar_of(A, ("c.jpg", b"")), "c.jpg", b"S"),
            {"c.jpg": "!stored as a sparse file: unpack the tar file"},
        ),
    ],
)
def test_a_member_that_cannot_be_read_in_place_is_a_named_failure(
    tmp_path: Path, data: bytes, reason: dict[str, str]
) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    assert read(tmp_path / "a.tar") == {"a.jpg": "first", **reason}


def test_a_tar_file_inside_that_comes_again_replaces_all_of_the_former_one(tmp_path: Path) -> None:
    inner = [tar_of(A, B), tar_of(("a.jpg", b"third"))]
    (tmp_path / "a.tar").write_bytes(tar_of(("in.tar", inner[0]), ("x.jpg", b"x"), ("in.tar", inner[1])))
    assert read(tmp_path / "a.tar") == {"x.jpg": "x", "in.tar/a.jpg": "third"}
    (tmp_path / "b.tar").write_bytes(tar_of(("in.tar", inner[0] + inner[1])))
    assert read(tmp_path / "b.tar") == {"in.tar/b.jpg": "second", "in.tar/a.jpg": "third"}
    (tmp_path / "b.tgz").write_bytes(gzip.compress(tar_of(("in.tar", inner[0] + inner[1]), ("y.jpg", b"y"))))
    assert read(tmp_path / "b.tgz") == {"in.tar/b.jpg": "second", "in.tar/a.jpg": "third", "y.jpg": "y"}


def test_hidden_names_are_skipped_alike_in_a_tar_file_and_in_a_folder(tmp_path: Path) -> None:
    names = [
        "ok.jpg",
        ".thumbs/b1.jpg",
        "d/.cache/x/y.jpg",
        "d/ok.jpg",
        ".hidden.jpg",
        "d/._ok.jpg",
        ".ssh/id",
        "..a/x.jpg",
    ]
    touch(tmp_path / "h", *names)
    subprocess.run(["tar", "-cf", "h.tar", "h"], cwd=tmp_path, check=True)
    subprocess.run(["tar", "-cf", "dot.tar", "./ok.jpg", "./.thumbs", "./d"], cwd=tmp_path / "h", check=True)
    tree = [Path(s.id).relative_to(tmp_path).as_posix() for s in from_paths([str(tmp_path / "h")]).samples]
    assert tree == ["h/d/ok.jpg", "h/ok.jpg"]
    assert sorted(read(tmp_path / "h.tar")) == tree
    assert sorted(read(tmp_path / "h" / "dot.tar")) == ["d/ok.jpg", "ok.jpg"]


@pytest.mark.parametrize(
    ("content", "kind"), [(b"BZh91AY", "bzip2"), (b"\xfd7zXZ\0\0", "xz"), (b"\x28\xb5\x2f\xfd\0\0", "zstd")]
)
def test_other_compressions_under_a_tar_files_name_are_named(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "a.tar").write_bytes(content + bytes(600))
    assert read(tmp_path / "a.tar") == {
        "": f"!no readable tar file: it is compressed with {kind}; what follows is lost"
    }


def test_zip_files_are_refused_by_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jpg", b"x")
    assert refused(from_paths, [str(tmp_path / "a.zip")]) == (
        f"{tmp_path}/a.zip: tar files are read, plain or with gzip: unpack it"
    )
    (tmp_path / "a.zip").rename(tmp_path / "b.tar")
    assert read(tmp_path / "b.tar")[""].startswith("!no readable tar file: it is compressed with zip")
    (tmp_path / "b.tar").rename(tmp_path / "c.jpg")
    with pytest.raises(ImageError, match="but zip: unpack it, or give its images as a tar file"):
        decode(tmp_path / "c.jpg")


# In a folder nothing vanishes: suffixes of all formats that are read, and a count of the rest.


@pytest.mark.parametrize(
    "suffix", ["jfif", "pjpeg", "pjp", "JFIF", "apng", "dib", "avif", "heic", "heif", "jpe", "TIFF"]
)
def test_every_suffix_of_a_format_that_is_read_is_an_image(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, f"d/x.{suffix}")
    (tmp_path / "d.tar").write_bytes(tar_of((f"x.{suffix}", b"x")))
    assert [s.id for s in from_paths([f"{tmp_path}/d"]).samples] == [f"{tmp_path}/d/x.{suffix}"]
    assert [s.id for s in from_paths([f"{tmp_path}/d.tar"]).samples] == [f"{tmp_path}/d.tar/x.{suffix}"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["1.jpg", "2.jpg"], None),
        (["1.jpg", ".hidden.txt", ".git/config"], None),
        (
            ["1.jpg", "a.jp2", "d/b.JP2", "c.txt"],
            "left out 3 files not named as an image: 2 .jp2, 1 .txt (convert .jp2 to PNG or JPEG)",
        ),
        (
            ["1.jpg", "noext"],
            "left out 1 file not named as an image: 1 without a suffix (give pictures without a suffix in a list)",
        ),
        (
            ["1.jpg", "x.tgz", "y.cr2"],
            "left out 2 files not named as an image: 1 .tgz, 1 .cr2 (convert .cr2 to PNG or JPEG; name the .tgz files themselves)",
        ),
        (
            ["1.jpg", *(f"{i}.s{i}" for i in range(10))],
            "left out 10 files not named as an image: 1 .s0, 1 .s1, 1 .s2, 1 .s3, 1 .s4, 1 .s5, 1 .s6, 1 .s7, ...",
        ),
    ],
)
def test_what_is_left_out_of_a_folder_or_tar_file_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: list[str], said: str | None
) -> None:
    root = touch(tmp_path / "d", *names)
    for path in (root, tmp_path / "d.tar"):
        if path != root:
            path.write_bytes(tar_of(*((name, b"x") for name in names)))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            from_paths([str(path)])
        inside = said and said.replace("name the .tgz files themselves", "unpack the .tgz files")
        assert caplog.messages == ([] if said is None else [f"{path}: {said if path == root else inside}"])


def test_a_class_tree_says_what_it_leaves_out_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_dataset("folder", touch(tmp_path, "a/1.jpg", "b/1.jpg", "b/2.jp2", "top.jpg", "readme.md"))
    assert caplog.messages == [
        f"{tmp_path}: left out 1 image outside of the class folders, such as top.jpg",
        f"{tmp_path}: left out 2 files not named as an image: 1 .jp2, 1 .md (convert .jp2 to PNG or JPEG)",
    ]


# A folder called x.jpg is no picture, wherever pictures are listed.


def test_folders_named_as_pictures_are_folders(tmp_path: Path) -> None:
    touch(tmp_path / "own", "x.jpg/real.jpg", "y.png/.keep")
    assert [s.id for s in from_paths([f"{tmp_path}/own"]).samples] == [f"{tmp_path}/own/x.jpg/real.jpg"]
    root = tmp_path / "caltech101" / "101_ObjectCategories"
    for number in range(102):
        touch(root, f"class{number:03}/image_0001.jpg")
    (root / "class000" / "image_0002.jpg").mkdir()
    assert len(load_dataset("caltech101", tmp_path).samples) == 102
    touch(tmp_path / "ilsvrc2012", "train/n00000001/a.JPEG", "val/n00000001/b.JPEG")
    (tmp_path / "ilsvrc2012" / "train" / "n00000001" / "folder.JPEG").mkdir()
    assert [s.id for s in load_dataset("ilsvrc2012", tmp_path).samples] == [
        "train/n00000001/a.JPEG",
        "val/n00000001/b.JPEG",
    ]
    with pytest.raises(ImageError, match="is a folder"):
        decode(tmp_path / "own" / "x.jpg")


# A folder of classes keeps its labels, however it is named.


@pytest.mark.parametrize("given", ["photos", "./photos", "photos/"])
def test_a_class_tree_is_recognised_and_keeps_the_order_of_its_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(touch(tmp_path, "photos/b/1.jpg", "photos/a/2.jpg", "photos/a/deep/1.jpg"))
    plain, labelled = from_paths([given]), class_tree(given)
    assert labelled is not None
    assert [s.id for s in labelled.samples] == [s.id for s in plain.samples]
    assert (labelled.name, labelled.class_names, labelled.exif) == ("images", ("a", "b"), True)
    assert [s.labels for s in labelled.samples] == [0, 0, 1]


def test_a_split_class_tree_keeps_labels_and_subsets(tmp_path: Path) -> None:
    labelled = class_tree(str(split(tmp_path, "train", "test")))
    assert isinstance(labelled, Dataset)
    assert [s.subset for s in labelled.samples] == ["test"] * 6 + ["train"] * 6, "in the order of the paths"
    assert labelled.class_names == CLASSES


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["1.jpg", "2.jpg"], None),
        (["a/1.jpg"], None),
        (["a/1.jpg", "2.jpg"], None),
        (["a/x/1.jpg"], None),
        (
            ["a/1.jpg", "b/1.jpg", "3.jpg"],
            "because 1 of 3 images lie outside of the class folders; `data={root}` leaves these out",
        ),
        (
            [*(f"{c}/{i}.jpg" for c in "ab" for i in range(4)), "3.jpg"],
            "because 1 of 9 images lie outside of the class folders; `data={root}` leaves these out",
        ),
        (["train/a/1.jpg", "val/b/1.jpg"], "{root}/val: class 'b' is not among the classes of {root}/train"),
        (
            ["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/stray.jpg"],
            "because 1 of 4 images lie outside of the class folders; `data={root}` leaves these out",
        ),
    ],
)
def test_a_folder_that_may_be_anything_has_no_labels_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: list[str], said: str | None
) -> None:
    root = str(touch(tmp_path, *names))
    assert class_tree(root) is None
    assert [message.replace("taken, ", "taken: ") for message in caplog.messages] == (
        [] if said is None else [f"{root}: no labels are taken: {said.format(root=root)}"]
    )


def test_a_few_stray_pictures_do_not_cost_a_class_tree_its_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = str(touch(tmp_path / "a", *(f"{c}/{i}.jpg" for c in "xyz" for i in range(3)), "top.jpg"))
    labelled = class_tree(root)
    assert labelled is not None
    assert [sample.labels for sample in labelled.samples] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    said = f"{root}: left out 1 image outside of the class folders, such as top.jpg"
    assert caplog.messages == [said]
    caplog.clear()
    assert len(load_dataset("folder", root).samples) == 9
    assert caplog.messages == [said], "by --data, in the same words"
    caplog.clear()
    parted = str(touch(split(tmp_path / "b", "train", "val"), "top.jpg"))
    both = class_tree(parted), load_dataset("folder", parted)
    assert [one is not None and len(one.samples) for one in both] == [12, 12]
    assert caplog.messages == [f"{parted}: left out 1 image outside of the class folders, such as top.jpg"] * 2


def test_only_extraction_leaves_stray_pictures_out(tmp_path: Path) -> None:
    root = str(touch(tmp_path, *(f"{c}/{i}.jpg" for c in "xy" for i in range(9)), "top.jpg"))
    assert len(as_dataset(root, labelled=True).samples) == 18
    assert [sample.id for sample in as_dataset(root).samples] == [sample.id for sample in from_paths([root]).samples]


# What a command reads is what was meant: classes of a folder, --data alone, settings that a file records.

NARROW = ["--net", "A", "--weights", "none", "--width", "0.0625", "--precision", "fp32", "--scales", "224", "--no-flip"]


def pictures(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        content = odd_images.encoded(odd_images.photo(seed=seed), "PNG" if name.endswith("png") else "JPEG")
        (root / name).write_bytes(content)
    return root


def extracted(*words: str) -> Descriptors:
    assert run(["extract", *words, *NARROW, "-o", "x.h5", "--overwrite", "--quiet"]) == 0
    return vggfeat.read_descriptors("x.h5")


def test_extract_keeps_the_labels_of_a_class_tree_and_the_library_does_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(pictures(tmp_path, "photos/b/1.jpg", "photos/a/2.jfif", "photos/a/3.png", "other/x.jpg"))
    made = extracted("photos")
    assert (made.ids, made.class_names) == (["photos/a/2.jfif", "photos/a/3.png", "photos/b/1.jpg"], ("a", "b"))
    assert made.labels is not None and made.labels.tolist() == [0, 0, 1]
    net = vggfeat.load_net("A", None, width=1 / 16, device="cpu", precision="fp32")
    out = vggfeat.extract("photos", net=net, scales=[224], flip=False, output="y.h5")
    again = vggfeat.read_descriptors(out)
    assert again.labels is not None and again.labels.tolist() == [0, 0, 1]
    assert extracted("photos", "other").labels is None
    (tmp_path / "list").write_text("photos/b/1.jpg\n")
    assert extracted("--list", "list").labels is None


def test_data_without_dataset_is_the_folder_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(pictures(tmp_path, "photos/b/1.jpg", "photos/a/2.jpg", "root/caltech101/x/1.jpg"))
    assert run(["extract", "--data", "photos", *NARROW, "-o", "x.h5"]) == 0
    assert "--data photos without --dataset is read as --dataset folder\n" in capsys.readouterr().err
    made = vggfeat.read_descriptors("x.h5")
    assert (made.ids, made.class_names, made.attributes["dataset"]) == (["a/2.jpg", "b/1.jpg"], ("a", "b"), "folder")
    assert run(["extract", "--data", "root", *NARROW, "-o", "y.h5"]) == 2
    assert capsys.readouterr().err == "vggfeat: root holds caltech101: say which data set with --dataset\n"
    assert run(["extract", "photos", "--data", "root", *NARROW, "-o", "y.h5"]) == 2
    assert capsys.readouterr().err == "vggfeat: --data goes with --dataset: leave it out, or name no other images\n"


def test_the_limit_on_pixels_is_an_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(pictures(tmp_path, "1.jpg"))
    assert run(["extract", "1.jpg", *NARROW, "-o", "x.h5", "--max-megapixels", "0.001"]) == 3
    assert vggfeat.read_descriptors("x.h5").errors() == {"1.jpg": "60x44 pixels: more than 0.001 million pixels"}
    assert run(["extract", "1.jpg", *NARROW, "-o", "x.h5", "--resume"]) == 0, "the limit is not a setting of values"


@pytest.mark.parametrize("recorded", ["--exif", "--no-exif"])
@pytest.mark.parametrize("asked", [(), ("--exif",), ("--no-exif",)])
def test_recorded_exif_settings_hold_for_new_pictures_and_a_flag_wins(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recorded: str,
    asked: tuple[str, ...],
) -> None:
    """A turned copy of a picture is its nearest neighbour exactly where EXIF is applied as in the file."""
    monkeypatch.chdir(pictures(tmp_path, "a.png", "b.png"))
    with Image.open("a.png") as picture:
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save("turned.png", exif=exif)
        picture.transpose(Image.Transpose.ROTATE_270).save("upright.png")
    extracted("a.png", "upright.png", recorded)
    capsys.readouterr()
    assert run(["similar", "x.h5", "turned.png", "-k", "1", "--json", *asked]) == 0
    best = json.loads(capsys.readouterr().out)["queries"][0]["matches"][0]
    assert best["id"] == ("upright.png" if (asked or (recorded,)) == ("--exif",) else "a.png")
    assert best["cosine"] > 0.99999


def test_a_chain_of_name_headers_is_damage(tmp_path: Path) -> None:
    """tarfile calls itself for each header that names the next member."""
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 5
    link = name.tobuf(tarfile.GNU_FORMAT) + b"long".ljust(512, b"\0")
    (tmp_path / "t.tar").write_bytes(tarfile.TarInfo("a.jpg").tobuf(tarfile.GNU_FORMAT) + link * 2000)
    kept, lost = members(str(tmp_path / "t.tar"))
    assert (kept.name, kept.error) == ("a.jpg", "")
    assert lost.error.startswith("damaged after a.jpg: maximum recursion depth exceeded")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 1.5}, "the fraction 1.5 to hold out is not between 0 and 1"),
        ({"fraction": -0.1}, "the fraction -0.1 to hold out is not between 0 and 1"),
        ({"fraction": "x"}, "`fraction` 'x' is not a number"),
        ({"seed": -1}, "`seed` -1 is not a whole number of 0 or more"),
    ],
)
def test_a_held_out_part_that_cannot_be_is_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_training_set("folder", tmp_path, **options)
    assert str(caught.value) == message
