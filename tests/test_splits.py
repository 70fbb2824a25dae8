"""Splits that follow from ids alone, and the file that keeps them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vggfeat.classifiers.protocols.splits import (
    Split,
    k_folds,
    per_class_splits,
    read_splits,
    shuffled,
    strata,
    stratified_splits,
    with_validation,
    write_splits,
)
from vggfeat.errors import DatasetError


def images(counts: dict[str, int]) -> tuple[list[str], np.ndarray, list[str]]:
    names = sorted(counts)
    ids = [f"{name}/{i:03}.jpg" for name in names for i in range(counts[name])]
    return ids, np.array([k for k, name in enumerate(names) for _ in range(counts[name])]), names


def per_class(ids: tuple[str, ...]) -> dict[str, int]:
    return dict(Counter(id.split("/")[0] for id in ids))


def test_caltech_splits_have_30_training_and_up_to_50_test_images_a_class() -> None:
    ids, labels, names = images({"few": 31, "some": 60, "many": 300})
    splits = per_class_splits(strata(ids, labels, names), 30, 50, seeds=(0, 1, 2))
    assert [split.seed for split in splits] == [0, 1, 2]
    for split in splits:
        assert per_class(split.train) == {"few": 24, "some": 24, "many": 24}
        assert per_class(split.val) == {"few": 6, "some": 6, "many": 6}  # 20% of 30
        assert per_class(split.test) == {"few": 1, "some": 30, "many": 50}
        assert not set(split.train) & set(split.val) | set(split.test) & {*split.train, *split.val}
    assert len({split.train for split in splits}) == 3


def test_all_that_is_left_tests_where_no_limit_is_set() -> None:
    ids, labels, names = images({"a": 61, "b": 100})
    [split] = per_class_splits(strata(ids, labels, names), 60, None, seeds=(7,))
    assert per_class(split.test) == {"a": 1, "b": 40}
    assert per_class(split.val) == {"a": 12, "b": 12}


def test_splits_do_not_depend_on_row_order_or_other_classes() -> None:
    ids, labels, names = images({"a": 20, "b": 20})
    [split] = per_class_splits(strata(ids, labels, names), 10, None, seeds=(0,))
    turned = np.random.default_rng(0).permutation(len(ids))
    [again] = per_class_splits(strata([ids[i] for i in turned], labels[turned], names), 10, None, seeds=(0,))
    assert again == split
    [alone] = per_class_splits(strata(ids[:20], labels[:20], ["a"]), 10, None, seeds=(0,))
    assert alone.train == tuple(id for id in split.train if id.startswith("a/"))


def test_the_order_of_a_seed_never_changes() -> None:
    # Others repeat published splits by their seed: this order is part of the format.
    assert shuffled(["a", "b", "c", "d", "e"], 0) == ["c", "b", "e", "d", "a"]
    assert shuffled(["a", "b", "c", "d", "e"], 1) == ["d", "e", "a", "b", "c"]


def test_a_missing_image_moves_none_but_those_behind_it() -> None:
    ids = [f"{i}.jpg" for i in range(50)]
    order = shuffled(ids, 3)
    assert shuffled([id for id in ids if id != order[10]], 3) == order[:10] + order[11:]


def test_a_class_with_too_few_images_is_named() -> None:
    ids, labels, names = images({"a": 40, "rare": 30})
    with pytest.raises(DatasetError) as caught:
        per_class_splits(strata(ids, labels, names), 30, 50, seeds=(0,))
    assert str(caught.value) == (
        "class 'rare' has 30 images, this protocol needs 31 (30 to train on and at least one to test on)"
    )
    ids, labels, names = images({"a": 4, "b": 1})
    with pytest.raises(DatasetError, match=r"class 'b' has 1 image, this protocol needs 4 \(one in each of 4 folds\)"):
        k_folds(strata(ids, labels, names), 4, seed=0)
    with pytest.raises(DatasetError, match="class 'b' has 1 image, this protocol needs 3"):
        stratified_splits(strata(ids, labels, names), 0.25, seeds=(0,))


def test_stratified_splits_take_the_share_of_every_class() -> None:
    ids, labels, names = images({"a": 100, "b": 20, "c": 3})
    [split] = stratified_splits(strata(ids, labels, names), 0.25, seeds=(0,))
    assert per_class(split.test) == {"a": 25, "b": 5, "c": 1}
    assert per_class(split.val) == {"a": 15, "b": 3, "c": 1}
    assert per_class(split.train) == {"a": 60, "b": 12, "c": 1}


def test_every_image_is_in_one_fold_and_classes_are_spread_evenly() -> None:
    ids, labels, names = images({"a": 23, "b": 7})
    folds = k_folds(strata(ids, labels, names), 5, seed=0)
    assert [split.fold for split in folds] == [0, 1, 2, 3, 4]
    assert sorted(id for split in folds for id in split.test) == sorted(ids)
    for split in folds:
        assert sorted((*split.train, *split.val, *split.test)) == sorted(ids)
        assert 4 <= per_class(split.test)["a"] <= 5
        assert 1 <= per_class(split.test)["b"] <= 2


def test_multi_label_images_are_spread_by_their_rarest_class() -> None:
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((400, 3)) < (0.6, 0.3, 0.05), 1, -1)
    ids = [f"{i:03}" for i in range(400)]
    index = {id: row for row, id in enumerate(ids)}
    rare = int((labels[:, 2] == 1).sum())
    [split] = stratified_splits(strata(ids, labels, ["x", "y", "z"]), 0.25, seeds=(0,))
    for part, share in ((split.test, 0.25), (split.val, 0.15), (split.train, 0.6)):
        assert sum(labels[index[id], 2] == 1 for id in part) == pytest.approx(share * rare, abs=1)
        assert len(part) == pytest.approx(share * 400, abs=4)
    assert sorted((*split.train, *split.val, *split.test)) == ids


def test_multi_label_strata_too_small_to_share_are_taken_together() -> None:
    labels = np.full((30, 4), -1)
    labels[:3, 0] = labels[3:5, 1] = labels[5:20, 2] = 1
    groups = strata([str(i) for i in range(30)], labels, list("abcd"))
    assert [len(group.ids) for group in groups] == [15, 15]
    assert all(group.name is None for group in groups)


def test_a_given_test_part_is_kept() -> None:
    ids, labels, names = images({"a": 10, "b": 10})
    split = with_validation(strata(ids, labels, names), ["t1", "t0"], seed=0)
    assert per_class(split.val) == {"a": 2, "b": 2}
    assert split.test == ("t0", "t1")


SPLIT = Split(("a", "\udcff"), ("b",), ("c",), seed=4)
IDS = ["a", "b", "c", "d", "\udcff"]


def test_a_splits_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = write_splits(tmp_path / "s.json", "caltech101", [SPLIT, Split(("a",), (), ("b",), 4, fold=1)])
    assert read_splits(path, "caltech101", IDS) == [SPLIT, Split(("a",), (), ("b",), 4, fold=1)]
    assert json.loads(path.read_text())["format"] == "vggfeat-splits"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format": "x"},
            "{path} is not a splits file of vggfeat's (no format 'vggfeat-splits'); `write_splits` makes one",
        ),
        ({"format_version": 2}, "{path} has format version 2, this vggfeat reads 1: update it"),
        ({"dataset": "voc2007"}, "{path} has splits of 'voc2007', the descriptors are of 'caltech101'"),
        ({"splits": []}, "{path}: no list of splits"),
        ({"splits": [{"train": ["a"]}]}, "{path}, split 1: 'val' is not a list of ids"),
        ({"splits": [{"train": [], "val": [], "test": ["a"]}]}, "{path}, split 1: 'train' is empty"),
        (
            {"splits": [{"train": ["a"], "val": [], "test": ["a"]}]},
            "{path}, split 1: 'a' is in 'train' and again in 'test'",
        ),
        (
            {"splits": [{"train": ["a"], "val": ["z"], "test": ["b"]}]},
            "{path}, split 1: 'val' names 'z', which the descriptors do not have",
        ),
        (
            {"splits": [{"train": ["a"], "val": [], "test": ["b"], "seed": "x"}]},
            "{path}, split 1: 'seed' is not a whole number",
        ),
    ],
)
def test_a_bad_splits_file_names_what_is_wrong(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write_splits(tmp_path / "s.json", "caltech101", [SPLIT])
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DatasetError) as caught:
        read_splits(path, "caltech101", IDS)
    assert str(caught.value) == message.format(path=path)


def test_a_file_that_is_no_json_or_missing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("{")
    with pytest.raises(DatasetError, match=r"s\.json is not a splits file: Expecting property name"):
        read_splits(tmp_path / "s.json", "x", [])
    with pytest.raises(DatasetError, match="these splits cannot be read: No such file or directory"):
        read_splits(tmp_path / "none.json", "x", [])
