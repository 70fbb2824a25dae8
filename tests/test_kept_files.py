"""A run replaces what an earlier one wrote, and nothing else: no input, no picture, no device; a link stays a link."""

import os
from pathlib import Path

import numpy as np
import pytest
from making import clusters, write_descriptors

from vggfeat.cli import run
from vggfeat.datasets import Sample
from vggfeat.inference.drawing import draw_boxes
from vggfeat.inference.localisation import Answer
from vggfeat.stages.svm import svm
from vggfeat.system.files import replacing


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in with descriptors, a picture and a page of somebody else's."""
    write_descriptors(tmp_path / "a.h5", *clusters([12, 12]))
    (tmp_path / "cat.jpg").write_bytes(b"\xff\xd8 a picture")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<title>My site</title>")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("svm a.h5 --C 1 -o a.h5", "a.h5 exists and is not a model"),
        ("svm a.h5 --C 1 -o cat.jpg", "cat.jpg exists and is not a model"),
        ("svm a.h5 --C 1 --write-splits a.h5", "a.h5 exists and is not a file of splits"),
        ("svm a.h5 --C 1 --report site", "site/index.html exists and is not a page of vggfeat's"),
        ("similar a.h5 --report site", "site/index.html exists and is not a page of vggfeat's"),
        ("evaluate a.h5 --report site", "site/index.html exists and is not a page of vggfeat's"),
    ],
)
def test_a_file_of_another_kind_is_not_replaced(folder: Path, command: str, message: str, capsys) -> None:
    before = contents(folder)
    assert run(command.split()) == 1
    assert capsys.readouterr().err == f"vggfeat: {message}, so it is not replaced: name another file\n"
    assert contents(folder) == before


def test_what_an_earlier_run_wrote_is_replaced(folder: Path) -> None:
    (folder / "empty.json").touch()
    options = {"C": 1, "output": "m.h5", "write_splits": "empty.json", "report": "page"}
    first = svm("a.h5", **options)
    assert svm("a.h5", **options).splits[0].value == first.splits[0].value


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize(
    "command",
    [
        "svm a.h5 --C 1 -o {}",
        "svm a.h5 --C 1 --write-splits {}",
        "export a.h5 -o {} --overwrite",
        "extract cat.jpg --net A --weights none --width 0.0625 --overwrite -o {}",
        "extract cat.jpg --net A --weights none --width 0.0625 -o {}",
    ],
)
def test_a_pipe_is_not_replaced_by_a_file(folder: Path, command: str, capsys) -> None:
    os.mkfifo("pipe.csv")
    assert run(command.format("pipe.csv").split()) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "vggfeat: pipe.csv: cannot write: it is a device or a pipe, name a file"
    )
    assert Path("pipe.csv").is_fifo()


def test_a_link_stays_and_what_it_points_to_is_replaced(folder: Path) -> None:
    (folder / "scratch").mkdir()
    for name in ("there.txt", "not-yet.txt"):
        link = folder / f"link-{name}"
        link.symlink_to(folder / "scratch" / name)
        with replacing(link) as temporary:
            assert temporary.parent == folder / "scratch", "on the disk that the user chose"
            temporary.write_text(name)
        assert link.is_symlink()
        assert (folder / "scratch" / name).read_text() == name
    assert sorted(path.name for path in (folder / "scratch").iterdir()) == ["not-yet.txt", "there.txt"]


def test_a_picture_is_not_replaced_by_its_drawing(folder: Path) -> None:
    before = contents(folder)
    sample = Sample("cat.jpg", "cat.jpg")
    answer = Answer((4, 4), np.array([0]), np.array([[0.0, 0, 2, 2]]))
    failed = draw_boxes(folder, [sample], {"cat.jpg": answer}, ["cat"], exif=True)
    assert failed == {"cat.jpg": "it would be replaced by what is drawn: name another folder"}
    assert contents(folder) == before
