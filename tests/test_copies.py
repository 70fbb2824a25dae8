"""`svm` warns of a picture that is in the training and the test part, and never fails because of it."""

from __future__ import annotations

import json
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from making import clusters, write_descriptors

from vggfeat.classifiers.protocols import copies
from vggfeat.classifiers.protocols.copies import Copy, CopyFinder, copies_warning
from vggfeat.cli import run
from vggfeat.stages.svm import svm


def plain_copies(train, test):
    """Test row -> (its training copy, their cosine about the training mean), by all products in float64."""
    a, b = (part - train.mean(axis=0) for part in (train.astype(np.float64), test.astype(np.float64)))
    cosines = (b @ a.T) / np.outer(np.linalg.norm(b, axis=1), np.linalg.norm(a, axis=1))
    best = cosines.argmax(axis=1)
    value = cosines[np.arange(len(test)), best]
    return {int(row): (int(best[row]), value[row]) for row in np.flatnonzero(value >= copies.AT_LEAST)}


def described(n, dim, seed=0, common=0.0):
    """Rectified unit descriptors; with `common` they are all alike, as an untrained net's."""
    rng = np.random.default_rng(seed)
    X = np.abs(rng.standard_normal(dim)) * common + np.maximum(rng.standard_normal((n, dim)), 0)
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("common", [0.0, 20.0])
@pytest.mark.parametrize("dim", [16, 100, 1000])
def test_the_copies_are_those_of_all_products(dim, common, monkeypatch):
    monkeypatch.setattr(copies, "TILE", 64)
    train, test = described(300, dim, common=common), described(200, dim, seed=1, common=common)
    rng = np.random.default_rng(2)
    spread = np.std(train, axis=0).mean()
    for row, noise in zip(range(0, 120, 4), np.geomspace(1e-4, 1, 30), strict=True):
        test[row] = train[row * 2] + noise * spread * rng.standard_normal(dim)
    expected = plain_copies(train, test)
    assert 8 < len(expected) < 30
    nearest, cosines = CopyFinder(train).look(test)
    found = {int(row): (int(nearest[row]), cosines[row]) for row in np.flatnonzero(cosines)}
    assert found.keys() == expected.keys()
    for row, (place, cosine) in expected.items():
        assert found[row] == (place, pytest.approx(cosine, abs=1e-6))


def test_images_that_differ_in_nothing_or_have_no_direction_are_not_copies():
    train = np.tile(described(1, 32), (20, 1))
    assert not CopyFinder(train).look(train)[1].any()
    train = described(20, 32)
    assert not CopyFinder(train).look(train.mean(axis=0)[None])[1].any()
    assert not CopyFinder(train).look(np.zeros((1, 32), np.float32))[1].any()


@pytest.mark.parametrize("size", [1e-20, 1e18, 1e25])
def test_raw_values_of_any_size_pass_in_silence(size, recwarn):
    train = described(40, 64)
    nearest, cosines = CopyFinder(train * np.float32(size)).look(train[:5] * np.float32(size))
    found = [int(nearest[row]) for row in np.flatnonzero(cosines)]
    assert found in ([], list(range(5)))
    assert not recwarn.list


def test_a_row_that_overflows_hides_no_copy():
    train = described(40, 64)
    test = train[:5].copy()
    test[2] = np.float32(3e38)
    _, cosines = CopyFinder(train).look(test)
    assert np.flatnonzero(cosines).tolist() == [0, 1, 3, 4]


def test_many_equal_images_give_one_pair_each():
    train = described(40, 64)
    train[5:30] = train[5]
    nearest, cosines = CopyFinder(train).look(np.tile(train[5], (700, 1)))
    assert (cosines > 0.999).all()
    assert ((nearest >= 5) & (nearest < 30)).all()


def test_a_look_holds_a_tile_however_many_training_images_there_are():
    train = described(60_000, 32)
    finder = CopyFinder(train)
    test = described(512, 32, seed=1)
    tracemalloc.start()
    finder.look(test)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * 4 * 512 * copies.TILE < 4 * 512 * len(train) / 2


def test_the_warning_names_a_few_pairs():
    one = Copy("a.jpg", "b.jpg", 0.99964)
    assert copies_warning([one]) == (
        "the same picture seems to be in the training and the test part of a split, which raises the score: "
        "1 pair has nearly equal descriptors: a.jpg and b.jpg (0.9996)"
    )
    assert copies_warning([one] * 5).endswith(
        ": 5 pairs have nearly equal descriptors: " + ", ".join(["a.jpg and b.jpg (0.9996)"] * 3) + ", .."
    )


TWINS = ((3, 7), (23, 27), (43, 47), (2, 49))
"""Rows of the same picture; the last are of two classes."""


@pytest.fixture
def doubled(tmp_path):
    """Twenty images a class, some of them twice."""
    dataset, values = clusters([20, 20, 20], dim=64)
    for first, second in TWINS:
        values[second] = values[first] * 1.0001
    return write_descriptors(tmp_path / "doubled.h5", dataset, values)


def test_svm_reports_each_pair_that_a_split_separates(doubled, tmp_path):
    with pytest.warns(UserWarning, match="the same picture seems to be in the training and the test part") as caught:
        result = svm(doubled, C=1.0, write_splits=tmp_path / "s.json")
    twins = {frozenset(f"class{row // 20:03}/{row:04}.jpg" for row in pair) for pair in TWINS}
    splits = json.loads((tmp_path / "s.json").read_text())["splits"]
    apart = {
        pair
        for pair in twins
        for split in splits
        if len(pair & set(split["test"])) == 1 and not pair <= {*split["test"]}
    }
    assert apart
    assert {frozenset((copy.test, copy.train)) for copy in result.copies} == apart
    assert str(caught[0].message) == copies_warning(result.copies)
    assert result.as_json()["copies"][0] == vars(result.copies[0])


def test_the_warning_points_at_the_line_that_called_svm(doubled):
    """It used to point into the library, whose decorators lie between the two."""
    with pytest.warns(UserWarning, match="the same picture seems to be") as caught:
        svm(doubled, C=1.0)
        svm(doubled, C=1.0, progress=lambda done, total, failed: None)
    assert [warning.filename for warning in caught] == [__file__] * 2
    assert caught[1].lineno == caught[0].lineno + 1


def test_the_command_is_the_caller_of_its_own_fits(doubled, monkeypatch):
    seen = []

    def warn(message, category=UserWarning, stacklevel=1):
        seen.append(Path(sys._getframe(stacklevel).f_code.co_filename).parts[-2:])

    monkeypatch.setattr(warnings, "warn", warn)
    assert run(["svm", str(doubled), "--C", "1"]) == 0
    assert ("cli", "svm.py") in seen
    assert ("stages", "svm.py") not in seen


def test_the_command_warns_and_goes_on(doubled, tmp_path, capsys):
    assert run(["svm", str(doubled), "--C", "1"]) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert "the same picture seems to be in the training and the test part of a split, which raises the score: " in err
    assert f"vggfeat similar {doubled} lists such pairs; --splits FILE takes splits that keep them together" in err
    assert run(["svm", str(doubled), "--C", "1", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_images_without_a_copy_give_no_warning(tmp_path, recwarn):
    dataset, values = clusters([20, 20], dim=64)
    result = svm(write_descriptors(tmp_path / "d.h5", dataset, values), C=1.0)
    assert result.copies == ()
    assert "copies" not in result.as_json()
    assert not [warning for warning in recwarn if "same picture" in str(warning.message)]
