"""The conjugate gradients on the Gram matrix: their preconditioner and their margins, against float64."""

from dataclasses import replace

import numpy as np
import pytest

from vggfeat.classifiers.gram import Deflation, Gram, gram_of
from vggfeat.classifiers.limits import Limits
from vggfeat.classifiers.newton import State, newton

FULL, PART = 1.5, 0.25


@pytest.mark.parametrize(
    "costs",
    [
        np.full(60, FULL),
        np.where(np.arange(60) < 45, FULL, 0),
        np.where(np.arange(60) < 15, FULL, 0),
        np.where(np.arange(60) < 45, np.where(np.arange(60) < 20, FULL, PART), 0),
        np.zeros(60),
    ],
    ids=["all rows active", "most rows active", "few rows active", "most rows active, unequal costs", "none active"],
)
def test_the_preconditioner_inverts_the_hessian_on_the_leading_eigenvectors(costs: np.ndarray) -> None:
    X = np.random.default_rng(0).standard_normal((60, 9)).astype(np.float32)
    gram = gram_of(X, 1.0, Limits(double_rows=0, ritz=4))
    _, Z, _, _ = gram.ritz()
    h = costs[None].astype(np.float32)
    one = Deflation(gram, h)
    rest = np.maximum(gram.diagonal - (Z**2).sum(axis=1), 0).astype(np.float64)
    beside = 1 + (costs * rest).sum() / max(1, np.count_nonzero(costs))
    inner = np.eye(4) + Z.T.astype(np.float64) @ (costs[:, None] * Z)
    np.testing.assert_allclose(one.S[0], beside * np.linalg.inv(inner) - np.eye(4), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("share", [0.9, 0.5, np.nan])
def test_the_preconditioner_stays_finite_where_rounding_leaves_its_system_indefinite(share: float) -> None:
    X = np.random.default_rng(0).standard_normal((60, 9)).astype(np.float32)
    X[:50] *= 1e-3  # so that nothing of the active rows is left in the difference of the sums
    gram = gram_of(X, 1.0, Limits(double_rows=0, ritz=4))
    A, Z, rest, squares = gram.ritz()
    gram._ritz = A, Z, rest, squares * np.float32(share)
    h = np.where(np.arange(60) < 50, 1e9, 0)[None].astype(np.float32)
    one = Deflation(gram, h)
    inner = one._inner(h[0], 1e9)
    assert np.linalg.eigvalsh(np.nan_to_num(inner, nan=-1), UPLO="U").min() < 0
    assert np.isfinite(one.S).all()


def test_an_overflow_leaves_no_preconditioner_and_nothing_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    gram = Gram(np.full((60, 60), np.inf, np.float32), Limits(double_rows=0, ritz=4))
    with np.errstate(all="ignore"):
        one = Deflation(gram, np.ones((2, 60), np.float32))
    r = np.ones((2, 60), np.float32)
    np.testing.assert_array_equal(one.apply(r), r)
    assert capfd.readouterr() == ("", "")  # BLAS complains there of a matrix without rows


def test_margins_after_conjugate_gradients_are_those_of_the_weights() -> None:
    """Long steps from 0 leave rounding errors in margins that are only added up: they were 6e-4 here."""
    rng = np.random.default_rng(0)
    X = np.maximum(rng.standard_normal((2000, 256)) + 1, 0).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    gram = gram_of(X, 1.0, replace(Limits(), double_rows=0))
    y = np.where(np.arange(10)[:, None] == rng.integers(0, 10, 2000), 1, -1).astype(np.float32)
    zero = np.zeros_like(y)
    start = State(zero, zero, np.zeros(10), np.zeros(10, dtype=np.int64))
    found = newton(gram, y, np.full_like(y, 0.1), start, tol=1e-5)
    assert (np.count_nonzero(y * found.f < 1, axis=1) > gram.direct_limit).all(), "nothing is factorised"
    rows = np.column_stack([X, np.ones(2000)]).astype(np.float64)
    assert found.f == pytest.approx(found.beta.astype(np.float64) @ rows @ rows.T, abs=3e-5)
