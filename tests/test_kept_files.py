"""A run replaces what an earlier one wrote, and nothing else: no input, no picture, no device; a link stays a link."""

import os
import re
import subprocess
import sys
import tarfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from making import clusters, write_descriptors
from PIL import Image

from vggfeat.classifiers.model_file import is_model
from vggfeat.classifiers.protocols.splits import FORMAT, is_splits
from vggfeat.classifiers.protocols.voc_results import is_archive, write_archive
from vggfeat.cli import run
from vggfeat.datasets import Sample
from vggfeat.errors import StoreError, VggfeatError
from vggfeat.inference.drawing import draw_boxes
from vggfeat.inference.localisation import Answer
from vggfeat.inference.submission import is_result_file
from vggfeat.page import html
from vggfeat.page.html import is_page
from vggfeat.stages.svm import svm
from vggfeat.store.locking import OutputLock
from vggfeat.system.files import check_replaceable, replacing


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in with descriptors, a picture and a page of somebody else's."""
    write_descriptors(tmp_path / "a.h5", *clusters([12, 12]))
    (tmp_path / "cat.jpg").write_bytes(b"\xff\xd8 a picture")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<title>My site</title>")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "confusion.png").write_bytes(b"\x89PNG my own")
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
        (
            "svm a.h5 --C 1 --report figures",
            "figures/confusion.png exists and is not a plot of a page of vggfeat's",
        ),
    ],
)
def test_a_file_of_another_kind_is_not_replaced(folder: Path, command: str, message: str, capsys) -> None:
    before = contents(folder)
    assert run(command.split()) == 1
    assert capsys.readouterr().err == f"vggfeat: {message}, so it is not replaced: name another file\n"
    assert contents(folder) == before


def test_the_names_of_all_plots_are_kept_from_replacing_others() -> None:
    """A training run's curves may lie in its folder before its page does."""
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(html.__file__).parent.glob("*.py"))
    assert {*re.findall(r'\.save\(folder, "([^"]+)"', sources)} == {*html.PLOTS, "curves"}


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


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("svm a.h5 -o m.h5 --write-splits m.h5", "-o and --write-splits are the same file, m.h5"),
        ("svm a.h5 -o m.h5 --write-splits ./new/../m.h5", "-o and --write-splits are the same file, ./new/../m.h5"),
        ("evaluate --net A --weights none -o e.h5 --submission e.h5", "-o and --submission are the same file, e.h5"),
    ],
)
def test_two_outputs_are_two_files(folder: Path, command: str, message: str, capsys) -> None:
    before = contents(folder)
    assert run(command.split()) == 2
    assert capsys.readouterr().err == f"vggfeat: {message}: name another one\n"
    assert contents(folder) == before


def test_what_was_written_before_ctrl_c_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The model is written before the page; the line used to deny it."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    command = ["svm", "a.h5", "--C", "1", "-o", "m.h5", "--report", "page", "--quiet"]
    for place, line in (
        ("_write_report", "stopped; the model is in m.h5; the same command starts again"),
        ("run_split", "stopped; no model was written; the same command starts again"),  # though there is an older one
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"vggfeat.stages.svm.{place}", interrupted)
            assert run(command) == 130
        assert capsys.readouterr().err.splitlines() == [line, "", "vggfeat: interrupted"]
        assert is_model(Path("m.h5"))


def test_the_standard_output_is_no_place_for_a_file(folder: Path) -> None:
    """A link to a pipe: the message named what the link points to, `/proc/1/fd/pipe:[2]`."""
    command = [sys.executable, "-m", "vggfeat", "extract", "cat.jpg", "-o", "/dev/stdout"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "vggfeat: /dev/stdout: cannot write: it is a device or a pipe, name a file\n"


@pytest.mark.skipif(not Path("/dev/null").is_char_device(), reason="no /dev/null here")
@pytest.mark.parametrize(
    ("command", "code"),
    [(["info"], 1), (["svm"], 1), (["export", "-o", "x.npy"], 1), (["predict"], 1), (["similar"], 1)],
)
def test_a_device_is_named_as_no_regular_file(folder: Path, command: list[str], code: int, capsys) -> None:
    more = ["cat.jpg"] if command[0] == "predict" else []
    assert run([*command, "/dev/null", *more]) == code
    assert capsys.readouterr().err == "vggfeat: /dev/null: not a regular file\n"


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".mat", ".parquet"])
def test_descriptors_are_not_given_the_name_of_another_format(folder: Path, suffix: str, capsys) -> None:
    assert run(["extract", "cat.jpg", "-o", f"new/my feats{suffix}"]) == 2
    assert capsys.readouterr().err == (
        f"vggfeat: new/my feats{suffix}: this would be HDF5, not {suffix}: name a .h5 file: "
        f"'vggfeat export FILE.h5 -o 'new/my feats{suffix}'' then writes the other\n"
    )
    assert not Path("new").exists()


def test_a_picture_is_not_replaced_by_its_drawing(folder: Path) -> None:
    before = contents(folder)
    sample = Sample("cat.jpg", "cat.jpg")
    answer = Answer((4, 4), np.array([0]), np.array([[0.0, 0, 2, 2]]))
    failed = draw_boxes(folder, [sample], {"cat.jpg": answer}, ["cat"], exif=True)
    assert failed == {"cat.jpg": "a picture of the data set has the drawing's name: name another folder"}
    assert contents(folder) == before


def test_pictures_whose_names_differ_by_their_suffix_alone_have_a_drawing_each(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "picture.png")
    samples = [Sample(id, str(tmp_path / "picture.png")) for id in ("a/x.png", "a/x.JPEG", "a_x.jpg", "y.png")]
    answers = {one.id: Answer((4, 4), np.array([0]), np.array([[0.0, 0, 2, 2]])) for one in samples}
    assert draw_boxes(tmp_path / "drawn", samples, answers, ["cat"], exif=True) == {}
    drawn = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert drawn == ["a_x-2.jpg", "a_x-3.jpg", "a_x.jpg", "y.jpg"]


@pytest.mark.parametrize(
    ("own", "content", "kept"),
    [
        (is_result_file, b"3 1 2 4 5\n0 0 0 0 0\n", False),
        (is_result_file, b"490\n361\n171\n", True),
        (is_result_file, b"3 1 2 4 x\n", True),
        (is_result_file, b" ".join([b"7 -1 0 20 30"] * 5) + b"\n", False),
        (is_splits, b'{"format": "%s", "splits": []}' % FORMAT.encode(), False),
        (is_splits, b'{"format": "coco"}', True),
        (is_splits, b"[[[", True),
        (is_page, b'<head><meta name="generator" content="vggfeat 0.1.0"></head>', False),
        (is_page, b"<title>vggfeat</title>", True),
        (is_archive, b"no archive", True),
        (is_model, b"\x89HDF\r\n\x1a\n", True),
    ],
)
def test_own_files_are_known_by_their_content(tmp_path: Path, own, content: bytes, kept: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    refused = f"{path} exists and is not such a file, so it is not replaced: name another file"
    with pytest.raises(VggfeatError, match=f"^{re.escape(refused)}$") if kept else nullcontext():
        check_replaceable(path, own, "such a file")
    assert path.read_bytes() == content


def test_an_archive_of_pictures_is_no_archive_of_results(tmp_path: Path) -> None:
    write_archive(tmp_path / "results.tar", "Main", ["cat"], ["2008_000001"], np.zeros((1, 1), dtype=np.float32))
    assert is_archive(tmp_path / "results.tar")
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        (tmp_path / "cat.jpg").write_bytes(b"a picture")
        archive.add(tmp_path / "cat.jpg", "cat.jpg")
    assert not is_archive(tmp_path / "photos.tar")


def test_a_link_and_its_file_have_one_lock(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link.h5").symlink_to(tmp_path / "far" / "a.h5")
    left = tmp_path / "far" / ".a.h5.12345678.part"
    left.touch()
    with OutputLock(tmp_path / "link.h5"):
        assert not left.exists(), "what a killed process left is swept where it lies"
        with pytest.raises(StoreError, match="is being written by "):
            OutputLock(tmp_path / "far" / "a.h5")


def test_a_link_in_a_circle_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with replacing(tmp_path / "loop") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "loop").read_text() == "new"
