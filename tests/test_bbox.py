"""ILSVRC's bounding-box files."""

from dataclasses import replace

import pytest
from located import WNIDS, annotation, located_tree

from vggfeat.datasets.bbox import read_boxes
from vggfeat.datasets.ilsvrc import load_ilsvrc2012
from vggfeat.datasets.split import load_training_set
from vggfeat.errors import DatasetError, UsageError

WNID = WNIDS[0]


def written(tmp_path, text):
    file = tmp_path / "a.xml"
    file.write_text(text)
    return file


def test_boxes_are_fractions_of_inclusive_pixels_in_file_order(tmp_path):
    text = annotation((100, 50), (WNID, (10, 5, 59, 29)), (WNID, (0, 0, 99, 49)))
    assert read_boxes(written(tmp_path, text), WNID) == (
        (pytest.approx(0.1), pytest.approx(0.1), pytest.approx(0.6), pytest.approx(0.6)),
        (0, 0, 1, 1),
    )


def test_boxes_beyond_the_image_are_cut_and_empty_ones_left_out(tmp_path):
    text = annotation((100, 50), (WNID, (-5, 10, 120, 60)), (WNID, (60, 10, 30, 20)), (WNID, (150, 0, 180, 10)))
    assert read_boxes(written(tmp_path, text), WNID) == ((0, pytest.approx(0.2), 1, 1),)


def test_boxes_of_other_classes_are_left_out_and_english_names_are_the_images_own(tmp_path):
    box, other = (0, 0, 49, 49), (50, 0, 99, 49)
    text = annotation((100, 50), (WNIDS[1], box), ("Scottish_deerhound", other))
    assert read_boxes(written(tmp_path, text), WNID) == ((0.5, 0, 1, 1),)


def test_an_image_without_a_file_has_no_boxes(tmp_path):
    assert read_boxes(tmp_path / "none.xml", WNID) == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotation>", "no element found: line 1, column 12"),
        ("<annotation></annotation>", "size/width is '', not a number"),
        (annotation((0, 50), (WNID, (0, 0, 1, 1))), "its picture is 0x50 pixels"),
        (annotation((-9, 50), (WNID, (0, 0, 1, 1))), "its picture is -9x50 pixels"),
        (annotation(("inf", 50), (WNID, (0, 0, 1, 1))), "size/width is 'inf', not a number"),
        (annotation((9, 9), (WNID, (0, 0, 1, "x"))), "bndbox/ymax is 'x', not a number"),
        (annotation((9, 9), (WNID, ("nan", 0, 1, 1))), "bndbox/xmin is 'nan', not a number"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, reason):
    file = written(tmp_path, text)
    with pytest.raises(DatasetError) as caught:
        read_boxes(file, WNID)
    assert str(caught.value) == f"{file}: not a bounding-box annotation of ILSVRC: {reason}"


def test_each_part_finds_its_boxes_and_nothing_else_changes(tmp_path):
    root = located_tree(tmp_path, train=2, val=1)
    plain, located = load_ilsvrc2012(root), load_ilsvrc2012(root, boxes=True)
    assert [len(sample.boxes) for sample in located.samples] == [1] * 9
    assert tuple(replace(sample, boxes=()) for sample in located.samples) == plain.samples
    assert {sample.boxes for sample in plain.samples} == {()}


def test_missing_annotations_say_what_to_unpack(tmp_path):
    root = located_tree(tmp_path, train=1, val=1)
    (root / "ilsvrc2012" / "bbox" / "val").rename(root / "elsewhere")
    with pytest.raises(DatasetError) as caught:
        load_ilsvrc2012(root, boxes=True)
    bbox = f"{root}/ilsvrc2012/bbox"
    assert str(caught.value) == (
        f"{bbox}/val is missing: unpack ILSVRC's bounding boxes (ILSVRC2012_bbox_val*) so that "
        f"{bbox}/train/<wnid>/*.xml and {bbox}/val/*.xml are there"
    )


def test_images_without_a_box_are_left_out_of_training(tmp_path):
    root = located_tree(tmp_path, train=3, val=1)
    (root / "ilsvrc2012" / "bbox" / "train" / WNID / f"{WNID}_train_1.xml").unlink()
    split = load_training_set("ilsvrc2012", root, boxes=True)
    assert len(split.train) == 8
    assert f"train/{WNID}/{WNID}_train_1.JPEG" not in {sample.id for sample in split.train}
    assert len(load_training_set("ilsvrc2012", root).train) == 9
    with pytest.raises(UsageError, match="^folder has no bounding boxes; localisation is trained on ilsvrc2012$"):
        load_training_set("folder", root, boxes=True)
