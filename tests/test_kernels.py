"""The BLAS and LAPACK calls of the SVM fits: against numpy, with and without the direct way to the routines."""

import numpy as np
import pytest

from vggfeat.classifiers import kernels


@pytest.fixture(params=["direct", "wrapped"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways: by address, and by scipy's wrappers, where scipy counts in other integers."""
    if request.param == "wrapped":
        monkeypatch.setattr(kernels, "_routine", lambda *_: None)


def squares(n: int, dtype: type) -> np.ndarray:
    rows = np.random.default_rng(n).standard_normal((3 * n, n)).astype(dtype)
    return rows.T @ rows + np.eye(n, dtype=dtype)


def test_scipy_gives_the_addresses_of_its_routines() -> None:
    for locked in (False, True):
        assert all(kernels._routine(name, char, locked) is not None for name in kernels.MODULES for char in "fd")


@pytest.mark.parametrize("n", [1, 2, 65, 257])
@pytest.mark.parametrize(("dtype", "close"), [(np.float32, 1e-4), (np.float64, 1e-12)])
def test_a_positive_system_is_solved_as_by_numpy_and_the_target_left_as_it_was(
    way: None, n: int, dtype: type, close: float
) -> None:
    system, target = squares(n, dtype), np.arange(n, dtype=dtype) - 2
    kept = target.copy()
    found = kernels.solve_positive(system.copy, target)
    np.testing.assert_allclose(found, np.linalg.solve(system.astype(np.float64), target), rtol=close, atol=close)
    assert found.dtype == dtype
    np.testing.assert_array_equal(target, kept)


def test_only_the_upper_triangle_of_a_system_counts(way: None) -> None:
    system, target = squares(40, np.float64), np.ones(40)
    upper = np.triu(system) + np.tril(np.full((40, 40), np.nan), -1)
    np.testing.assert_allclose(kernels.solve_positive(upper.copy, target), np.linalg.solve(system, target), rtol=1e-10)


def test_a_singular_system_still_gives_a_direction_of_descent(way: None) -> None:
    rows = np.random.default_rng(0).standard_normal((3, 30))
    target = np.random.default_rng(1).standard_normal(30)
    tries = []

    def system() -> np.ndarray:
        tries.append(rows.T @ rows)
        return tries[-1]

    found = kernels.solve_positive(system, target)
    assert len(tries) > 1
    assert np.isfinite(found).all()
    assert found @ target > 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_system_that_overflowed_has_no_solution(way: None, value: float) -> None:
    assert np.isnan(kernels.solve_positive(np.diag([1.0, value]).copy, np.ones(2))).all()
    assert np.isnan(kernels.solve_positive(np.eye(2).copy, np.array([1.0, value]))).all()


def test_a_system_that_is_negative_definite_has_no_solution(way: None) -> None:
    assert np.isnan(kernels.solve_positive((-np.eye(3)).copy, np.ones(3))).all()


@pytest.mark.parametrize("m", [0, 1, 7, 300])
@pytest.mark.parametrize(("dtype", "close"), [(np.float32, 1e-3), (np.float64, 1e-10)])
def test_squares_of_rows_are_added_to_the_upper_triangle(way: None, m: int, dtype: type, close: float) -> None:
    rows = np.random.default_rng(m).standard_normal((m, 33)).astype(dtype)
    total = squares(33, dtype)
    before = total.copy()
    kernels.add_squares(total, rows, -2)
    expected = before.astype(np.float64) - 2 * rows.astype(np.float64).T @ rows
    np.testing.assert_allclose(np.triu(total), np.triu(expected), rtol=0, atol=close * (1 + m))


@pytest.mark.parametrize(
    "rows",
    [np.ones((4, 3), np.float64), np.ones((4, 2), np.float32), np.asfortranarray(np.ones((4, 3), np.float32))],
    ids=["another dtype", "another width", "not contiguous"],
)
def test_arrays_that_a_routine_would_misread_are_refused(way: None, rows: np.ndarray) -> None:
    words = "^the arrays must be contiguous, of one dtype and of shapes that agree$"
    with pytest.raises(ValueError, match=words):
        kernels.add_squares(np.zeros((3, 3), np.float32), rows, 1)
    with pytest.raises(ValueError, match=words):
        kernels.factorise(rows)
    with pytest.raises(ValueError, match=words):
        kernels.substitute(np.eye(4, dtype=np.float32), np.ascontiguousarray(rows[:, 0].astype(np.float64)))
    with pytest.raises(ValueError, match=words):
        kernels.substitute(np.eye(3, dtype=np.float32), np.ones(4, np.float32))


@pytest.mark.parametrize("n", [1, 2, 64])
@pytest.mark.parametrize(("dtype", "close"), [(np.float32, 1e-4), (np.float64, 1e-12)])
def test_the_inverse_of_a_positive_system_is_whole_and_as_by_numpy(
    way: None, n: int, dtype: type, close: float
) -> None:
    system = squares(n, dtype)
    upper = np.triu(system) + np.tril(np.full((n, n), np.nan, dtype=dtype), -1)
    found = kernels.inverse_of_positive(upper.copy)
    np.testing.assert_allclose(found, np.linalg.inv(system.astype(np.float64)), rtol=close, atol=close)
    np.testing.assert_array_equal(found, found.T)
    assert found.dtype == dtype


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_a_system_that_is_not_positive_has_no_inverse(way: None, value: float) -> None:
    assert np.isnan(kernels.inverse_of_positive(np.diag([1.0, value]).copy)).all()
