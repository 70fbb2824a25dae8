"""Users' own images: paths, folders and lists."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from vggfeat.datasets.listing import from_list, from_paths
from vggfeat.errors import DatasetError, UsageError


def listed(data: bytes, **options: bool) -> list[tuple[str, str]]:
    return [(sample.id, sample.path) for sample in from_list(io.BytesIO(data), **options).samples]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_a_list_takes_paths_and_ids_with_either_line_end_and_skips_blank_lines() -> None:
    assert listed(b"a.jpg\r\n\n  \nx y\tdir/b c.jpg\n./d.png") == [
        ("a.jpg", "a.jpg"),
        ("x y", "dir/b c.jpg"),
        ("./d.png", "./d.png"),
    ]


def test_a_list_with_a_byte_order_mark_and_names_that_are_no_utf8_keeps_their_bytes() -> None:
    [(id, path)] = listed(b"\xef\xbb\xbfcaf\xe9.jpg\n")
    assert os.fsencode(id) == os.fsencode(path) == b"caf\xe9.jpg"


def test_a_nul_separated_list_keeps_line_breaks_inside_names() -> None:
    assert listed(b"a\nb.jpg\0id\tc.jpg\0", nul=True) == [("a\nb.jpg", "a\nb.jpg"), ("id\tc.jpg", "id\tc.jpg")]


def test_a_nul_separated_list_has_files_whose_names_are_blank() -> None:
    assert listed(b" \0\0\n\0a.jpg\0", nul=True) == [(" ", " "), ("\n", "\n"), ("a.jpg", "a.jpg")]


def test_a_list_of_users_images_honours_exif_and_has_no_labels() -> None:
    dataset = from_list(io.BytesIO(b"a.jpg\n"))
    assert (dataset.name, dataset.exif, dataset.class_names) == ("images", True, ())
    assert dataset.samples[0].labels is None


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (b"a\n\nb\na\n", {}, "stdin, lines 1 and 4: 'a' is given twice; ids must be unique"),
        (b"i\0j\0i", {"nul": True}, "stdin, lines 1 and 3: 'i' is given twice; ids must be unique"),
        (b"a\n\tb.jpg\n", {}, "stdin, line 2: expected a path or id<TAB>path, found '\\tb.jpg'"),
        (b"a\t\n", {}, "stdin, line 1: expected a path or id<TAB>path, found 'a\\t'"),
        (b"a.jpg\0b.jpg\0", {}, "stdin, line 1: a NUL byte; for a list separated by NUL bytes give `nul`"),
        (b"a.jpg\0b.jpg\0", {"only_lines": True}, "stdin, line 1: a NUL byte; this list has one path a line"),
        (b"a\nftp:///b.jpg\n", {}, "stdin, line 2: ftp:///b.jpg: ftp:// needs a host: ftp://host/path"),
        (b"xx://h/b.jpg\0", {"nul": True}, "stdin, line 1: xx://h/b.jpg: xx:// is not a protocol that fsspec knows"),
    ],
)
def test_a_bad_list_names_its_lines(data: bytes, options: dict[str, bool], message: str) -> None:
    with pytest.raises(DatasetError) as caught:
        listed(data, **options)
    assert str(caught.value) == message


def test_ids_and_paths_the_wrong_way_round_are_told_of_at_the_first_line(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(DatasetError) as caught:
        listed(f"{tmp_path}/a.jpg\tcat\n{tmp_path}/b.jpg\tcat\n".encode())
    assert str(caught.value) == (
        f"stdin, line 1: '{tmp_path}/a.jpg' is a file and 'cat' is not: in id<TAB>path the path comes last"
    )
    # A file that has gone costs its own row, and an id may be another file's path.
    assert listed(f"cat\t{tmp_path}/gone.jpg\n".encode()) == [("cat", f"{tmp_path}/gone.jpg")]
    assert len(listed(f"{tmp_path}/a.jpg\t{tmp_path}/b.jpg\n".encode())) == 1


def test_a_list_in_a_file_is_named_in_its_errors(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes(b"a\na\n")
    with pytest.raises(DatasetError, match=r"list\.txt, lines 1 and 2: 'a' is given twice"):
        from_list(file)
    with pytest.raises(DatasetError, match=r"none\.txt: this list cannot be read: No such file or directory$"):
        from_list(tmp_path / "none.txt")


def test_folders_are_searched_in_byte_order_and_only_for_images(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.JPG", "b/10.png", "a.webp", "B.tiff", "notes.txt", ".hidden.jpg", ".git/x.jpg", "b/c/z.gif")
    root = str(tmp_path)
    ids = [sample.id for sample in from_paths([root]).samples]
    assert ids == [f"{root}/{name}" for name in ("B.tiff", "a.webp", "b/10.png", "b/2.JPG", "b/c/z.gif")]


def test_paths_are_kept_as_given_whatever_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "photo", "d/x.jpg")
    monkeypatch.chdir(tmp_path)
    assert [sample.id for sample in from_paths(["./photo", "d"]).samples] == ["./photo", "d/x.jpg"]


def test_links_that_loop_end_and_links_elsewhere_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "out/b.jpg")
    (tmp_path / "in" / "up").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in" / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "in" / "side").symlink_to(tmp_path / "out", target_is_directory=True)
    (tmp_path / "out" / "back").symlink_to(tmp_path / "in", target_is_directory=True)
    names = [Path(s.id).relative_to(tmp_path / "in").as_posix() for s in from_paths([str(tmp_path / "in")]).samples]
    assert names == ["a.jpg", "self.jpg", "side/b.jpg"]


@pytest.mark.parametrize("kind", [UsageError, DatasetError])
def test_a_path_that_is_missing_or_empty_or_repeated_is_an_error(tmp_path: Path, kind: type[Exception]) -> None:
    if kind is UsageError:
        with pytest.raises(UsageError) as caught:
            from_paths([f"{tmp_path}/*.jpg"])
        assert str(caught.value) == f"{tmp_path}/*.jpg: no such file or folder"
        return
    with pytest.raises(DatasetError, match="no images in this folder or below it"):
        from_paths([str(tmp_path)])
    touch(tmp_path, "a.jpg")
    with pytest.raises(DatasetError) as caught:
        from_paths([f"{tmp_path}/a.jpg", str(tmp_path)])
    assert str(caught.value) == f"arguments 1 and 2: '{tmp_path}/a.jpg' is given twice; ids must be unique"


def test_names_in_folders_that_are_no_utf8_survive(tmp_path: Path) -> None:
    name = os.path.join(os.fsencode(tmp_path), b"\xff.jpg")  # noqa: PTH118
    try:
        os.close(os.open(name, os.O_CREAT))
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    [sample] = from_paths([str(tmp_path)]).samples
    assert os.fsencode(sample.path) == name
