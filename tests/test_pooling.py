import numpy as np

from vggfeat.store.pooling import aggregated_dim, combine, normalise, pool_flips, pool_scales, stack_unit

RNG = np.random.default_rng(0)
PER_SCALE = RNG.random((4, 3, 5), dtype=np.float32)


def test_stacking_keeps_the_order_of_the_scales():
    stacked = pool_scales(PER_SCALE, "stack")
    assert np.array_equal(stacked, np.concatenate([PER_SCALE[:, s] for s in range(3)], axis=1))


def test_averaging_and_maximising_run_over_the_scales():
    assert np.allclose(pool_scales(PER_SCALE, "average"), sum(PER_SCALE[:, s] for s in range(3)) / 3)
    assert np.array_equal(pool_scales(PER_SCALE, "max"), np.maximum.reduce([PER_SCALE[:, s] for s in range(3)]))


def test_flips_are_averaged():
    assert np.allclose(pool_flips(PER_SCALE[:, 0], PER_SCALE[:, 1]), (PER_SCALE[:, 0] + PER_SCALE[:, 1]) / 2)


def test_rows_get_unit_norm_and_a_zero_row_stays_zero():
    rows = np.array([[3, 4], [0, 0], [1e-20, 0], [3e30, 4e30]], dtype=np.float32)
    assert np.allclose(normalise(rows), [[0.6, 0.8], [0, 0], [1, 0], [0.6, 0.8]])


def test_stacked_nets_are_unit_vectors_whose_dot_product_is_the_mean_of_the_parts():
    a, b = normalise(RNG.random((3, 5), dtype=np.float32)), normalise(RNG.random((3, 7), dtype=np.float32))
    both = stack_unit([a, b])
    assert both.shape == (3, 12)
    assert np.allclose(both @ both.T, (a @ a.T + b @ b.T) / 2, atol=1e-6)


def test_combining_normalises_each_net_once_after_aggregation():
    parts = [PER_SCALE, RNG.random((4, 3, 2), dtype=np.float32) * 100]
    out = combine(parts, "average")
    assert out.shape == (4, 7)
    expected = parts[0].mean(1) / np.linalg.norm(parts[0].mean(1), axis=1, keepdims=True) / np.sqrt(2)
    assert np.allclose(out[:, :5], expected)
    assert np.allclose(np.linalg.norm(out, axis=1), 1)


def test_aggregated_lengths():
    assert [aggregated_dim(4096, 3, how) for how in ("stack", "average", "max")] == [12288, 4096, 4096]
