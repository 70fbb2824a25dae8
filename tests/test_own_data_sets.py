"""Data sets that a program makes: wrong ones are told before any work, numpy's numbers and paths are taken."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vggfeat import Dataset, Sample, extract, read_descriptors
from vggfeat.datasets.checks import checked
from vggfeat.errors import UsageError

CLASSES = ("a", "b", "c")


def of(*samples: Any, classes: tuple[str, ...] = CLASSES) -> Dataset:
    return Dataset("mine", samples, classes)


def one(**changes: Any) -> Sample:
    return Sample(**({"id": "i", "path": "i.jpg"} | changes))


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (of("i.jpg"), "sample 0 is a str: give vggfeat.Sample(id=.., path=..)"),
        (of(one(id=3)), "sample 0 has the id 3: give a text without NUL"),
        (of(one(id="a\0b")), "sample 0 has the id 'a\\x00b': give a text without NUL"),
        (of(one(path=3)), "'i': int is not a path"),
        (of(one(), one()), "the id 'i' occurs twice: ids tell the images apart"),
        (of(one(), classes=("a", "b", "a")), "the class 'a' occurs twice among the class names"),
        (of(one(subset="validation")), "'i' is in the subset 'validation': give 'train', 'val', 'test' or ''"),
        (of(one(labels=3)), "'i' has the label 3: classes are counted from 0 to 2"),
        (of(one(labels=-1)), "'i' has the label -1: classes are counted from 0 to 2"),
        (of(one(labels=1.5)), "'i' has the label 1.5: give the number of a class, or one label for each"),
        (of(one(labels="a")), "'i' has the label 'a': give the number of a class, or one label for each"),
        (of(one(labels=True)), "'i' has the label True: give the number of a class, or one label for each"),
        (of(one(labels=(1,))), "'i' has the labels (1,): give 1, 0 (difficult) or -1 for each of the 3 classes"),
        (
            of(one(labels=(1, 2, -1))),
            "'i' has the labels (1, 2, -1): give 1, 0 (difficult) or -1 for each of the 3 classes",
        ),
        (
            of(one(labels=1), one(id="j", labels=(1, -1, -1))),
            "some samples have one class and others a label for each class: give all the same",
        ),
        (of(one(box=(1, 2, 3))), "'i' has the box (1, 2, 3): give (xmin, ymin, xmax, ymax) in pixels"),
        (of(one(box="abcd")), "'i' has the box 'abcd': give (xmin, ymin, xmax, ymax) in pixels"),
        (of(one(box=5)), "'i' has the box 5: give (xmin, ymin, xmax, ymax) in pixels"),
        (
            of(one(box=(0, 0, float("nan"), 4))),
            "'i' has the box (0, 0, nan, 4): give (xmin, ymin, xmax, ymax) in pixels",
        ),
        (
            of(one(boxes=((0, 0, 1, 1), (0, 0, 1, float("inf"))))),
            "'i' has the box (0, 0, 1, inf): give (xmin, ymin, xmax, ymax) in pixels",
        ),
        (of(one(), classes=(1, 2)), "1 is not a text: name the data set, and its classes, by texts"),
        (
            Dataset(None, (one(),), ()),  # type: ignore[arg-type]
            "None is not a text: name the data set, and its classes, by texts",
        ),
        (
            Dataset("folder", (one() for _ in range(2)), ()),  # type: ignore[arg-type]
            "the samples are a generator: give a tuple of them",
        ),
    ],
)
def test_a_data_set_that_makes_no_sense_is_told_at_once(dataset: Dataset, message: str) -> None:
    with pytest.raises(UsageError) as error:
        checked(dataset)
    assert str(error.value) == message


def test_numpys_labels_and_paths_are_taken_as_they_are_meant(photos: Path, tmp_path: Path) -> None:
    """With many classes numpy's integers would wrap in the 8 bits of labels by class: 150 would be -106."""
    classes = tuple(f"c{i}" for i in range(200))
    paths = sorted(photos.glob("*.jpg"))[:2]
    dataset = of(
        one(id="i", path=paths[0], labels=np.int64(150)), one(id="j", path=str(paths[1]), labels=199), classes=classes
    )
    options: dict[str, Any] = {"net": "A", "weights": None, "width": 1 / 64, "scales": 224, "device": "cpu"}
    made = read_descriptors(extract(dataset, output=tmp_path / "a.h5", **options))
    assert made.labels is not None
    assert made.labels.tolist() == [150, 199]
    several = of(one(labels=np.array([1, 0, -1], dtype=np.int8)), one(id="j", labels=[1, -1, -1]))
    assert [sample.labels for sample in checked(several).samples] == [(1, 0, -1), (1, -1, -1)]


def test_labels_of_some_images_alone_are_dropped_with_a_word(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = sorted(map(str, photos.glob("*.jpg")))
    samples = [Sample(path, path, labels=0) for path in paths]
    dataset = Dataset("folder", (*samples[:-1], replace(samples[-1], labels=None)), ("a",), exif=True)
    options: dict[str, Any] = {"net": "A", "weights": None, "width": 1 / 64, "scales": 32, "layer": "pool1"}
    with caplog.at_level(logging.WARNING):
        made = extract(dataset, output=tmp_path / "a.h5", progress=False, **options)
    said = f"no labels are kept, because 1 of {len(paths)} images have none, such as {paths[-1]}"
    assert said in caplog.messages and read_descriptors(made).labels is None


def test_a_data_set_that_is_right_is_the_same_object() -> None:
    dataset = of(one(labels=2), one(id="j"), one(id="k", labels=0, subset="test"))
    assert checked(dataset) is dataset
