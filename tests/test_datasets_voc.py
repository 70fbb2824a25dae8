"""PASCAL VOC: the real label files of 2007, and the layout of the action task."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from devkit import action_files, annotation, main_files

from vggfeat.cli.advice import told
from vggfeat.datasets import load_dataset
from vggfeat.datasets.voc import ACTIONS, CLASSES
from vggfeat.errors import DatasetError

REAL = Path(__file__).parents[2] / "shared" / "data" / "VOCdevkit" / "VOC2007" / "ImageSets"


def action_tree(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    annotation(root, "2010_01", [("horse", (1, 1, 5, 5)), ("person", (10, 20, 30, 40)), ("person", (1.5, 1, 2.5, 9))])
    annotation(root, "2010_02", [("person", (1, 1, 100, 50))])
    action_files(root, "train", [("2010_01", 2), ("2010_01", 3)], {"jumping": {0}, "walking": {0, 1}})
    action_files(root, "val", [("2010_02", 1)], {})
    return root


def test_the_real_voc2007_files_give_the_published_counts(tmp_path: Path) -> None:
    if not REAL.is_dir():
        pytest.skip("no real VOC-2007 label files beside this checkout")
    root = tmp_path / "VOCdevkit" / "VOC2007"
    root.mkdir(parents=True)
    (root / "ImageSets").symlink_to(REAL, target_is_directory=True)
    (root / "JPEGImages").mkdir()
    dataset = load_dataset("voc2007", tmp_path)
    assert dataset.class_names == CLASSES
    assert Counter(s.subset for s in dataset.samples) == {"train": 2501, "val": 2510, "test": 4952}
    aeroplane = {
        part: Counter(s.labels[0] for s in dataset.samples if s.subset in subsets)  # type: ignore[index]
        for part, subsets in (("trainval", ("train", "val")), ("test", ("test",)))
    }
    assert aeroplane["trainval"] == {1: 238, 0: 2, -1: 4771}
    assert aeroplane["test"] == {1: 204, 0: 1, -1: 4747}
    assert dataset.samples[0].path == str(root / "JPEGImages" / f"{dataset.samples[0].id}.jpg")
    assert not dataset.exif


def test_labels_follow_their_class_files_and_difficult_is_zero(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    main_files(root, "train", ["b", "a"], {"bird": {"b": 1, "a": 0}})
    main_files(root, "val", ["c"], {"train": {"c": 1}})
    dataset = load_dataset("voc2012", tmp_path)
    assert [(s.id, s.subset) for s in dataset.samples] == [("b", "train"), ("a", "train"), ("c", "val")]
    assert [s.labels[CLASSES.index("bird")] for s in dataset.samples] == [1, 0, -1]  # type: ignore[index]
    assert [s.labels[CLASSES.index("train")] for s in dataset.samples] == [-1, -1, 1]  # type: ignore[index]


def test_voc2012_test_images_are_unlabelled_where_they_are_there(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    main_files(root, "train", ["a"], {})
    main_files(root, "val", ["b"], {})
    (root / "ImageSets" / "Main" / "test.txt").write_text("t1\nt2\n")
    dataset = load_dataset("voc2012", tmp_path)
    assert [(s.id, s.subset, s.labels) for s in dataset.samples[2:]] == [
        ("t1", "test", (0,) * 20),
        ("t2", "test", (0,) * 20),
    ]


def test_voc2007_without_its_test_labels_says_which_file_is_missing(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2007"
    main_files(root, "train", ["a"], {})
    main_files(root, "val", ["b"], {})
    with pytest.raises(DatasetError) as caught:
        load_dataset("voc2007", tmp_path)
    assert str(caught.value) == (
        f"{root}/ImageSets/Main/test.txt: No such file or directory; unpack all archives of "
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/ into one VOCdevkit folder"
    )


def test_missing_data_say_where_was_looked_and_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        load_dataset("voc2007", tmp_path)
    root = tmp_path / "VOCdevkit" / "VOC2007"
    assert told(caught.value) == (
        f"no voc2007 here: {root}/ImageSets/Main is missing (--data names the folder that holds VOCdevkit/; its archives "
        "are at https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/): fetch it with 'vggfeat download --dataset voc2007'"
    )


def test_the_action_set_comes_with_voc2012s_archives(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        load_dataset("voc2012-action", tmp_path)
    assert told(caught.value).endswith(": fetch it with 'vggfeat download --dataset voc2012'")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1\n", "cow_train.txt has 1 image, train.txt has 2"),
        ("a 1\nc 1\n", "cow_train.txt, line 2: image 'c' where train.txt has 'b'"),
        ("a 1\nb 2\n", "cow_train.txt, line 2: label '2'; expected one of 1, 0, -1"),
        ("a 1\nb\n", "cow_train.txt, line 2: expected 2 columns, found 'b'"),
    ],
)
def test_label_files_that_contradict_their_image_set_are_errors(tmp_path: Path, text: str, message: str) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    main_files(root, "train", ["a", "b"], {})
    main_files(root, "val", ["v"], {})
    (root / "ImageSets" / "Main" / "cow_train.txt").write_text(text)
    with pytest.raises(DatasetError) as caught:
        load_dataset("voc2012", tmp_path)
    assert str(caught.value).endswith(message)


def test_action_samples_are_persons_with_half_open_boxes(tmp_path: Path) -> None:
    action_tree(tmp_path)
    dataset = load_dataset("voc2012-action", tmp_path)
    assert dataset.class_names == ACTIONS
    assert [(s.id, s.subset, s.box) for s in dataset.samples] == [
        ("2010_01_2", "train", (9, 19, 30, 40)),
        ("2010_01_3", "train", (0.5, 0, 2.5, 9)),
        ("2010_02_1", "val", (0, 0, 100, 50)),
    ]
    assert dataset.samples[0].path.endswith("VOC2012/JPEGImages/2010_01.jpg")
    assert dataset.samples[0].labels == (1, -1, -1, -1, -1, -1, -1, -1, -1, 1)
    assert dataset.samples[1].labels == (-1,) * 9 + (1,)
    assert dataset.samples[2].labels == (-1,) * 10  # doing something else


@pytest.mark.parametrize("lines", ["2011_9 1\n2011_9 3\n", "2011_9\n"])
def test_action_test_persons_come_from_a_list_of_persons_or_of_images(tmp_path: Path, lines: str) -> None:
    root = action_tree(tmp_path)
    annotation(root, "2011_9", [("person", (1, 1, 2, 2)), ("dog", (1, 1, 2, 2)), ("person", (3, 3, 9, 9))])
    (root / "ImageSets" / "Action" / "test.txt").write_text(lines)
    samples = load_dataset("voc2012-action", tmp_path).samples[3:]
    assert [(s.id, s.subset, s.labels) for s in samples] == [
        ("2011_9_1", "test", (0,) * 10),
        ("2011_9_3", "test", (0,) * 10),
    ]


def test_action_files_that_contradict_each_other_or_their_annotations_are_errors(tmp_path: Path) -> None:
    root = action_tree(tmp_path)
    file = root / "ImageSets" / "Action" / "reading_train.txt"
    good = file.read_text()
    for text, message in (
        ("2010_01 2 1\n", "name different persons: 2010_01 3 is in one alone"),
        (good.replace("-1", "0", 1), "line 1: label '0'; expected one of 1, -1"),
        (good.replace("  2  ", "  x  "), "line 1: object index 'x' is not a number from 1"),
    ):
        file.write_text(text)
        with pytest.raises(DatasetError) as caught:
            load_dataset("voc2012-action", tmp_path)
        assert str(caught.value).endswith(message)
    file.write_text(good)
    annotation(root, "2010_02", [])
    with pytest.raises(DatasetError) as caught:
        load_dataset("voc2012-action", tmp_path)
    assert str(caught.value).endswith("2010_02.xml has 0 objects; ImageSets/Action (val) names object 1")
    (root / "Annotations" / "2010_02.xml").write_text("<annotation>")
    with pytest.raises(DatasetError, match=r"2010_02\.xml: not a VOC annotation"):
        load_dataset("voc2012-action", tmp_path)
