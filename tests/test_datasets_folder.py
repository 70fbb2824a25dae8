"""A labelled data set of the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from vggfeat.datasets import load_dataset
from vggfeat.errors import DatasetError, UsageError


def write(root: Path, text: str | bytes) -> Path:
    file = root / "labels.csv"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def test_a_tree_gives_ids_below_the_root_and_sorted_classes(tmp_path: Path) -> None:
    for name in ("dog/2.jpg", "Cat/1.png", "dog/more/1.jpg", "readme.txt", "stray.jpg", "empty/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    dataset = load_dataset("folder", tmp_path)
    assert dataset.class_names == ("Cat", "dog")
    assert [(s.id, s.labels) for s in dataset.samples] == [("Cat/1.png", 0), ("dog/2.jpg", 1), ("dog/more/1.jpg", 1)]
    assert dataset.samples[0].path == f"{tmp_path}/Cat/1.png"
    assert dataset.exif


def test_a_csv_of_single_labels_is_read_with_or_without_a_header(tmp_path: Path) -> None:
    rows = 'a.jpg,dog\r\n"b,1.jpg", cat\r\n\r\n'
    for text in (rows, "path,label\r\n" + rows, "\ufeffPath,Label\n" + rows):
        dataset = load_dataset("folder", write(tmp_path, text))
        assert dataset.class_names == ("cat", "dog")
        assert [(s.id, s.labels, s.path) for s in dataset.samples] == [
            ("a.jpg", 1, f"{tmp_path}/a.jpg"),
            ("b,1.jpg", 0, f"{tmp_path}/b,1.jpg"),
        ]


def test_a_csv_with_several_labels_a_row_is_multi_label(tmp_path: Path) -> None:
    dataset = load_dataset("folder", write(tmp_path, "a.jpg,dog; cat\nb.jpg,cow\nc.jpg,\n"))
    assert dataset.class_names == ("cat", "cow", "dog")
    assert [s.labels for s in dataset.samples] == [(1, -1, 1), (-1, 1, -1), (-1, -1, -1)]


def test_a_csv_may_name_subsets(tmp_path: Path) -> None:
    dataset = load_dataset("folder", write(tmp_path, "path,label,subset\n/data/a.jpg,x,train\nb.jpg,y,test\nc.jpg,y\n"))
    assert [s.subset for s in dataset.samples] == ["train", "test", ""]
    assert dataset.samples[0].path == "/data/a.jpg"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg,x\na.jpg,y\n", "lines 1 and 2: 'a.jpg' is given twice; ids must be unique"),
        ("a.jpg,x\nb.jpg,\n", "line 2: no label for 'b.jpg'"),
        ("a.jpg\n", "line 1: expected path,label or path,label,subset, found 'a.jpg'"),
        ("a.jpg,x,dev\n", "line 1: subset 'dev' is none of train, val, test"),
        ("path,label\n", "no rows; the columns are path,label"),
        ("a.jpg,;\n", "no labels; the columns are path,label"),
        (b"\x89PNG\0", "not a text file; a labelled data set is a <class>/*.jpg tree or a CSV of path,label"),
    ],
)
def test_a_bad_csv_names_its_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(DatasetError) as caught:
        load_dataset("folder", file)
    assert str(caught.value) in (f"{file}, {message}", f"{file}: {message}")


def test_a_tree_without_classes_and_a_missing_one_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(
        DatasetError, match=r"no images in class folders; a labelled data set is a <class>/\*\.jpg tree$"
    ):
        load_dataset("folder", tmp_path)
    with pytest.raises(DatasetError, match="no such folder or CSV file"):
        load_dataset("folder", tmp_path / "none")


def test_an_unknown_data_set_name_lists_the_valid_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_dataset("caltech-101", tmp_path)
    assert str(caught.value) == (
        "no data set 'caltech-101'; did you mean 'caltech101'? valid: caltech101, caltech256, voc2007, voc2012, "
        "voc2012-action, ilsvrc2012, folder"
    )
