"""Caltech-101 and Caltech-256."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from vggfeat.cli.advice import told
from vggfeat.datasets import load_dataset
from vggfeat.errors import DatasetError

REAL = Path(__file__).parents[2] / "shared" / "data"


def tree(root: Path, folder: str, classes: list[str]) -> Path:
    for name in classes:
        (root / folder / name).mkdir(parents=True)
        (root / folder / name / "image_0001.jpg").write_bytes(b"")
    return root / folder


def test_the_real_caltech101_has_9144_images_of_102_classes_in_byte_order() -> None:
    if not (REAL / "caltech101").is_dir():
        pytest.skip("no real Caltech-101 beside this checkout")
    dataset = load_dataset("caltech101", REAL)
    assert len(dataset.samples) == 9144
    assert len(dataset.class_names) == 102
    assert dataset.class_names[:6] == (
        "BACKGROUND_Google",
        "Faces",
        "Faces_easy",
        "Leopards",
        "Motorbikes",
        "accordion",
    )
    assert dataset.samples[0].id == "BACKGROUND_Google/image_0001.jpg"
    counts = Counter(sample.labels for sample in dataset.samples)
    assert counts[dataset.class_names.index("inline_skate")] == 31 == min(counts.values())
    assert counts[dataset.class_names.index("airplanes")] == 800 == max(counts.values())
    assert not dataset.exif
    assert len({sample.id for sample in dataset.samples}) == 9144


def test_strays_that_are_no_images_are_left_out(tmp_path: Path) -> None:
    root = tree(tmp_path, "caltech256/256_ObjectCategories", [f"{i:03}.thing" for i in range(1, 258)])
    (root / "056.thing" / "greg").mkdir()
    (root / "198.thing" / "RENAME2").write_bytes(b"")
    (root / "001.thing" / "._image_0001.jpg").write_bytes(b"")
    (root / "001.thing" / "image_0000.JPG").write_bytes(b"")
    dataset = load_dataset("caltech256", tmp_path)
    assert len(dataset.class_names) == 257
    assert len(dataset.samples) == 258
    assert [s.id for s in dataset.samples[:2]] == ["001.thing/image_0000.JPG", "001.thing/image_0001.jpg"]


def test_missing_data_say_where_was_looked_and_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        load_dataset("caltech101", tmp_path)
    assert str(caught.value) == (
        f"no caltech101 at {tmp_path}/caltech101/101_ObjectCategories (`data` names the folder that holds caltech101/)"
    )
    assert told(caught.value) == (
        f"no caltech101 at {tmp_path}/caltech101/101_ObjectCategories (--data names the folder that holds caltech101/): "
        "fetch it with 'vggfeat download --dataset caltech101'"
    )


def test_an_incomplete_copy_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path, "caltech101/101_ObjectCategories", [f"c{i}" for i in range(101)])
    with pytest.raises(
        DatasetError, match="holds 101 class folders, caltech101 has 102 \\(`dataset=folder` reads a part\\)$"
    ):
        load_dataset("caltech101", tmp_path)
    (root / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty holds no images"):
        load_dataset("caltech101", tmp_path)
