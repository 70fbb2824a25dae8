"""Fits within a bound of memory, from descriptors in a temporary file."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from making import clusters, write_descriptors

from vggfeat.classifiers import primal_engine
from vggfeat.classifiers.estimator import SVMPath
from vggfeat.classifiers.spool import GIB, Budget, spooled
from vggfeat.cli import run
from vggfeat.errors import UsageError
from vggfeat.stages.svm import svm

BOUND = 2e-3
"""GiB in which 3,000 descriptors of 64 values exceed the memory of a fit."""


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    """The least memory grows with the cores, each of which has a class at work."""
    monkeypatch.setattr("vggfeat.classifiers.spool.available_cores", lambda: 2)


@pytest.fixture(scope="module")
def descriptors(tmp_path_factory):
    dataset, values = clusters([1000, 1000, 1000], dim=64, noise=2.0)
    return write_descriptors(tmp_path_factory.mktemp("spool") / "many.h5", dataset, values)


def test_blocks_are_spooled_in_order_and_the_file_is_gone(tmp_path):
    X = np.random.default_rng(0).random((1000, 7), dtype=np.float32)
    blocks = ((slice(at, at + 300), X[at : at + 300]) for at in range(0, 1000, 300))
    found = spooled(blocks, 1000, 7, tmp_path)
    assert isinstance(found, np.memmap)
    assert np.array_equal(found, X)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_replaced_by_the_systems(tmp_path):
    X = np.ones((3, 2), dtype=np.float32)
    assert np.array_equal(spooled([(slice(0, 3), X)], 3, 2, tmp_path / "missing"), X)


def test_a_fit_in_bounded_memory_gives_the_fit_in_memory(descriptors, monkeypatch):
    made = []

    def spooling(*args):
        made.append(spooled(*args))
        return made[-1]

    monkeypatch.setattr("vggfeat.classifiers.protocols.selection.spooled", spooling)
    free, bounded = svm(descriptors), svm(descriptors, max_memory=BOUND)
    assert len(made) == len(free.splits)
    assert all(split.duality_gap <= 1e-5 for split in bounded.splits)
    for one, other in zip(free.splits, bounded.splits, strict=True):
        assert one.C == other.C
        assert one.value == pytest.approx(other.value, abs=2e-3)


def test_a_bound_under_one_class_is_refused_with_what_is_needed(descriptors, capsys):
    assert run(["svm", str(descriptors), "--max-memory", "1e-4"]) == 2
    found = capsys.readouterr().err
    assert re.fullmatch(
        r"vggfeat: --max-memory 0\.0001: \d+ images of 64 values and 3 classes need at least 0\.00\d+ GiB\n", found
    )
    needed = float(re.findall(r"least ([\d.]+) GiB", found)[0])
    assert run(["svm", str(descriptors), "--max-memory", str(needed * 1.1), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measure"] == "mean_class_recall"


@pytest.mark.parametrize("options", [{"loss": "hinge"}, {"solver": "liblinear"}])
def test_liblinear_cannot_keep_a_bound(descriptors, options):
    with pytest.raises(UsageError, match="`max_memory` goes with Newton's method on the squared hinge"):
        svm(descriptors, max_memory=1.0, **options)


def test_within_a_bound_many_long_descriptors_are_fitted_in_the_primal():
    limits = Budget(100_000, 4096, 10, most=2 * GIB).limits()
    assert limits.many_features == 4096
    assert limits.gram_rows < 100_000
    assert limits.held_bytes <= GIB


def test_a_cold_fit_of_many_rows_begins_at_a_sample(monkeypatch):
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 2000)
    X = (rng.standard_normal((3, 8))[y] + 2 * rng.standard_normal((2000, 8))).astype(np.float32)
    whole = SVMPath(X, y).fit(1.0)
    monkeypatch.setattr(primal_engine, "SAMPLED_ROWS", 200)
    sampled = SVMPath(X, y).fit(1.0)
    assert sampled.duality_gap_.max() <= 1e-5
    assert sampled.n_iter_.sum() < whole.n_iter_.sum()
    assert np.allclose(sampled.coef_, whole.coef_, atol=1e-3)
