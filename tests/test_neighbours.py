"""Nearest neighbours and near-duplicates in a descriptor file, against scikit-learn and a plain double loop."""

import h5py
import numpy as np
import pytest
from making import clusters, write_descriptors
from sklearn.neighbors import NearestNeighbors

from vggfeat import read_descriptors
from vggfeat.errors import StoreError, UsageError
from vggfeat.store import neighbours
from vggfeat.store.neighbours import near_duplicates, nearest


@pytest.fixture
def features(tmp_path):
    dataset, values = clusters([30, 30], dim=20)
    values[7] = values[3]
    values[50] = 5 * values[3]
    values[11] = values[40] * (1 + 1e-3 * np.random.default_rng(0).standard_normal(20))
    values[20] = 0
    path = write_descriptors(tmp_path / "f.h5", dataset, values, failed=[5], pending=[6, 59])
    return read_descriptors(path)


def test_nearest_agrees_with_scikit_learn(features):
    done = [row for row in features.done if row != 20]
    queries = np.random.default_rng(1).random((9, 20))
    distances, rows = NearestNeighbors(n_neighbors=5, metric="cosine").fit(features.read(done)).kneighbors(queries)
    found = nearest(features, queries, 5)
    assert np.array_equal(found.rows, np.asarray(done)[rows])
    assert np.allclose(found.cosines, 1 - distances, atol=1e-6)


def test_a_file_shorter_than_k_gives_what_it_has_and_equal_rows_in_its_order(features):
    found = nearest(features, features.read([3]), 100)
    assert found.rows.shape == (1, 57)
    assert found.rows[0, :3].tolist() == [3, 7, 50]


def test_blocks_change_no_neighbour(features, monkeypatch):
    queries = features.read([0, 1, 2])
    whole = nearest(features, queries, 6)
    monkeypatch.setattr(neighbours, "TILE", 7)
    assert np.array_equal(nearest(features, queries, 6).rows, whole.rows)


def test_parts_of_the_queries_change_no_neighbour(features, monkeypatch):
    queries = features.read([row for row in features.done if row != 20])
    whole = nearest(features, queries, 6)
    monkeypatch.setattr(neighbours, "QUERIES", 7)
    parts = nearest(features, queries, 6)
    assert np.array_equal(parts.rows, whole.rows)
    assert np.allclose(parts.cosines, whole.cosines, atol=1e-6)
    assert nearest(features, queries[:0], 6).rows.shape[0] == 0


def test_queries_of_another_length_are_refused(features):
    with pytest.raises(StoreError, match=r"queries of 3 values, the descriptors of .*f\.h5 have 20"):
        nearest(features, np.ones((1, 3)), 1)


def plain_pairs(features, at_least):
    values = features.read().astype(np.float64)
    lengths = np.linalg.norm(values, axis=1)
    pairs = {}
    for i in features.done:
        for j in features.done:
            if i < j and lengths[i] > 0 and lengths[j] > 0:
                cosine = values[i] @ values[j] / lengths[i] / lengths[j]
                if cosine >= at_least:
                    pairs[int(i), int(j)] = cosine
    return pairs


@pytest.mark.parametrize("tile", [4096, 16, 7])
@pytest.mark.parametrize("memory", [1 << 30, 1])
def test_near_duplicates_are_those_of_a_double_loop_whatever_the_blocks(features, monkeypatch, tile, memory):
    monkeypatch.setattr(neighbours, "TILE", tile)
    expected = plain_pairs(features, 0.9)
    seen = []
    found = near_duplicates(features, 0.9, memory=memory, progress=lambda done, total: seen.append((done, total)))
    assert {tuple(pair) for pair in found.rows.tolist()} == set(expected)
    assert np.allclose(found.cosines, [expected[tuple(pair)] for pair in found.rows.tolist()], atol=1e-6)
    assert (np.diff(found.cosines) <= 0).all()
    assert found.found == len(expected)
    assert {(3, 7), (3, 50), (7, 50), (11, 40)} <= set(expected)
    assert seen[-1][0] == seen[-1][1] == 57 * 58 // 2


def test_more_pairs_than_are_kept_leave_the_most_similar_and_are_counted(features):
    whole = near_duplicates(features, 0.5)
    few = near_duplicates(features, 0.5, most=5)
    assert np.array_equal(few.rows, whole.rows[:5])
    assert few.found == whole.found > 100


@pytest.mark.parametrize("at_least", [0, -0.5, 1.01, float("nan")])
def test_a_threshold_that_is_no_cosine_is_refused(features, at_least):
    with pytest.raises(UsageError, match=r"`at_least=.*`: expected a cosine above 0, at most 1"):
        near_duplicates(features, at_least)


def test_long_vectors_do_not_overflow(tmp_path):
    dataset, values = clusters([4], dim=6)
    path = write_descriptors(tmp_path / "f.h5", dataset, values)
    with h5py.File(path, "r+") as file:
        file["descriptors"][2] = file["descriptors"][1] * np.float32(1e30)
    found = near_duplicates(read_descriptors(path), 0.999999)
    assert found.rows.tolist() == [[1, 2]]


def test_all_equal_descriptors_are_similar_to_one(tmp_path):
    dataset, values = clusters([200, 200], dim=300)
    values[200:] = 3 * values[:200]
    path = write_descriptors(tmp_path / "f.h5", dataset, values)
    found = near_duplicates(read_descriptors(path), 1)
    assert {tuple(pair) for pair in found.rows.tolist()} == {(row, row + 200) for row in range(200)}
    assert found.cosines.max() <= 1
    assert nearest(read_descriptors(path), values[:, 0], 2).cosines.max() <= 1


def test_long_descriptors_are_read_in_blocks_of_fewer_rows():
    assert neighbours.tile_of(512) == neighbours.TILE
    assert neighbours.tile_of(100_000) * 100_000 * 16 <= neighbours.MEMORY
    assert neighbours.tile_of(10**9) == 1
