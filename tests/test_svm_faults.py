"""Faults from the field: input at which a fit must either be right, warn, or name the parameter that is wrong."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pytest
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from sklearn.utils.class_weight import compute_class_weight

from vggfeat.classifiers.estimator import LinearSVM, SVMPath
from vggfeat.classifiers.limits import Limits

ENGINES = {
    "primal": (Limits(), "newton"),
    "gram64": (Limits(primal_features=0, many_features=0), "newton"),
    "gram32": (Limits(primal_features=0, many_features=0, double_rows=20, ritz=8), "newton"),
    "liblinear": (Limits(), "liblinear"),
}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 8))
Y3 = np.arange(60) % 3
INDICATOR = (RNG.random((60, 3)) < [0.5, 0.3, 0.2]).astype(int)


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


def fit(engine, X, y, weight=None, **params):
    limits, solver = ENGINES[engine]
    return SVMPath(X, y, weight, estimator=LinearSVM(solver=solver, **params), limits=limits).fit(params.get("C", 1.0))


# Item 10. The kind: a number that is not finite, or a cost below 0, which no fit may take or hand on in silence.


@pytest.mark.parametrize("value", [float("nan"), -1, -1e-300, float("inf"), -float("inf"), None, "2", 1 + 0j])
@pytest.mark.parametrize("y", [Y3, Y3 % 2, INDICATOR], ids=["three", "two", "indicator"])
def test_a_class_weight_that_is_no_finite_cost_is_named(engine, value, y):
    with pytest.raises(ValueError, match=r"^class_weight of 0 is .*; it must be finite and at least 0$"):
        fit(engine, X, y, class_weight={0: value, 1: 1.0, 2: 1.0})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"C": float("nan")}, "C must be positive and finite, got nan"),
        ({"C": float("inf")}, "C must be positive and finite, got inf"),
        ({"C": "one"}, "C must be a number or one per class, got 'one'"),
        ({"C": None}, "C must be positive and finite, got None"),
        ({"C": [1, 2, float("nan")]}, r"C must be positive and finite, got \[1, 2, nan\]"),
        ({"tol": float("nan")}, "tol must be a relative gap between 0 and 1, got nan"),
        ({"intercept_scaling": float("nan")}, "intercept_scaling must be 0 or a positive number, got nan"),
        ({"intercept_scaling": float("inf")}, "intercept_scaling must be 0 or a positive number, got inf"),
        ({"class_weight": "even"}, "class_weight must be None, 'balanced' or a dict, got 'even'"),
        ({"class_weight": [1, 2, 3]}, r"class_weight must be None, 'balanced' or a dict, got \[1, 2, 3\]"),
        ({"class_weight": {0: 0, 1: 0, 2: 0}}, None),
    ],
)
def test_a_parameter_that_is_no_number_of_its_kind_is_named(engine, params, message):
    if message is None:  # weight 0 for the positive samples of every class leaves their negative ones
        assert fit(engine, X, Y3, **params).duality_gap_.max() <= 1e-5
        return
    with pytest.raises(ValueError, match=f"^{message}$"):
        fit(engine, X, Y3, **params)


def test_weights_that_leave_nothing_to_fit_are_an_error(engine):
    with pytest.raises(ValueError, match="class_weight and sample_weight are zero for every sample"):
        fit(engine, X, Y3 % 2, class_weight={0: 0, 1: 0})


BASE = RNG.standard_normal((60, 6))
HUGE = {
    "X * 1e100": (BASE * 1e100, {}),
    "X * 1e155": (BASE * 1e155, {}),
    "X * 1e200, more columns than rows": (np.tile(BASE, 15) * 1e200, {}),
    "one column of 1e300": (np.column_stack([BASE, np.full(60, 1e300)]), {}),
    "C 1e300": (BASE, {"C": 1e300}),
    "C 1e300, more columns than rows": (np.tile(BASE, 15), {"C": 1e300}),
    "C 1e39, beyond float32": (np.tile(BASE, 15), {"C": 1e39}),
    "C times class weight": (BASE, {"C": 1e200, "class_weight": {0: 1e200, 1: 1.0, 2: 1.0}}),
    "intercept scaling 1e200": (BASE, {"intercept_scaling": 1e200}),
    "float32 beside 1e38": ((BASE * 1e38).astype(np.float32), {}),
}


@pytest.mark.parametrize("name", HUGE)
def test_overflow_has_a_gap_above_tol_and_a_warning_or_is_solved(engine, name):
    values, params = HUGE[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        svm = fit(engine, values, Y3, **params)
    assert {warning.category for warning in caught} <= {ConvergenceWarning}
    finite = np.isfinite(svm.coef_).all(axis=1) & np.isfinite(svm.intercept_)
    assert not np.isnan(svm.duality_gap_).any()
    assert np.isinf(svm.duality_gap_[~finite]).all()
    assert bool(caught) >= bool((svm.duality_gap_ > svm.tol).any() and engine != "liblinear")


@pytest.mark.parametrize("n", [60, 1100])
@pytest.mark.parametrize(("scale", "C"), [(1e20, 1.0), (1.0, 1e39), (1e19, 1e19), (1e-30, 1e30)])
def test_extreme_scales_and_costs_never_raise_in_float32(n, scale, C):
    values = np.random.default_rng(1).standard_normal((n, 300)) * scale
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        svm = LinearSVM(C=C).fit(values, np.arange(n) % 2)
    assert svm.duality_gap_[0] >= 0


def test_the_plain_hinge_has_no_gap_unless_its_weights_are_not_finite():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isnan(LinearSVM(loss="hinge").fit(X, Y3).duality_gap_).all()


# Item 11. The kind: a sample of weight 0 is the same as a sample that is not there, whatever counts samples.

OUT = np.ones(60)
OUT[RNG.permutation(60)[:25]] = 0


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 1: 0.5, 2: 1.0}])
@pytest.mark.parametrize("y", [Y3, Y3 % 2, INDICATOR, INDICATOR[:, :2]], ids=["three", "two", "indicator", "columns"])
@pytest.mark.parametrize("shape", ["(N,)", "(N, K)"])
def test_weight_0_is_removal(engine, class_weight, y, shape):
    if y is not Y3 and not (y.ndim == 2 and y.shape[1] == 3) and isinstance(class_weight, dict):
        class_weight = {0: 3.0, 1: 0.5}
    problems = y.shape[1] if y.ndim == 2 else 1 if y.max() == 1 else 3
    weight = OUT if shape == "(N,)" else np.repeat(OUT[:, None], problems, axis=1)
    kept = OUT > 0
    ours = fit(engine, X, y, weight, class_weight=class_weight, tol=1e-9)
    removed = fit(engine, X[kept], y[kept], class_weight=class_weight, tol=1e-9)
    np.testing.assert_allclose(ours.decision_function(X), removed.decision_function(X), atol=2e-4)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 3.0, 1: 0.5, 2: 1.0}])
def test_weights_by_column_remove_by_column(engine, class_weight):
    weight = (RNG.random(INDICATOR.shape) < 0.7).astype(float)
    ours = fit(engine, X, INDICATOR, weight, class_weight=class_weight, tol=1e-9)
    for k in range(3):
        kept = weight[:, k] > 0
        alone = "balanced" if class_weight == "balanced" else {1: class_weight[k]}
        theirs = LinearSVC(tol=1e-9, max_iter=100_000, class_weight=alone).fit(X[kept], INDICATOR[kept, k])
        np.testing.assert_allclose(ours.coef_[k], theirs.coef_[0], atol=2e-4)


def balanced(y, weight):
    """What "balanced" means to scikit-learn; its earlier versions left out the weights, and get the factors themselves."""
    if "sample_weight" in inspect.signature(compute_class_weight).parameters:
        return "balanced"
    of_class = np.bincount(y, weight)
    return dict(enumerate(of_class.sum() / (len(of_class) * of_class)))


def test_balanced_weights_are_scikit_learns_for_fractional_weights_too(engine):
    weight = RNG.uniform(0, 2, 60) * OUT
    for y in (Y3, Y3 % 2):
        ours = fit(engine, X, y, weight, class_weight="balanced", tol=1e-9)
        theirs = LinearSVC(tol=1e-9, max_iter=100_000, class_weight=balanced(y, weight)).fit(X, y, weight)
        np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=2e-4)


# Item 12. The kind: features whose squares are singular to rounding. The reference is float64 by QR, from scratch.


def reference_objective(X, sign, C):
    """The optimum by Newton's method with steps from a QR factorisation of [sqrt(2C) X_F; I]."""
    X = np.column_stack([X, np.ones(len(X))])
    w = np.zeros(X.shape[1])

    def objective(w):
        return w @ w / 2 + C * (np.maximum(1 - sign * (X @ w), 0) ** 2).sum()

    for _ in range(200):
        active = sign * (X @ w) < 1
        rows = np.sqrt(2 * C) * X[active]
        stacked, target = np.vstack([rows, np.eye(len(w))]), np.append(np.sqrt(2 * C) * sign[active], np.zeros(len(w)))
        step = np.linalg.lstsq(stacked, target, rcond=None)[0] - w
        best = min((2.0**-k for k in range(40)), key=lambda t: objective(w + t * step))
        if objective(w + best * step) >= objective(w) * (1 - 1e-14):
            break
        w = w + best * step
    return objective(w)


SINGULAR = {
    "duplicates * 1e6": np.repeat(BASE, 3, axis=1) * 1e6,
    "duplicates": np.repeat(BASE, 3, axis=1),
    "all columns equal": np.repeat(BASE[:, :1], 10, axis=1) * 1e4,
    "sums of others": np.column_stack([BASE, BASE.sum(axis=1), BASE[:, 0] - BASE[:, 1]]) * 1e5,
    "nearly equal": np.hstack([BASE, BASE + 1e-9 * RNG.standard_normal(BASE.shape)]) * 1e4,
    "scales from 1e-6 to 1e6": BASE * np.logspace(-6, 6, 6),
    "a constant of 1e8": np.column_stack([BASE, np.full(60, 1e8)]),
    "a column of zeros": np.column_stack([BASE, np.zeros(60)]) * 1e6,
    "float32": (np.repeat(BASE, 3, axis=1) * 1e3).astype(np.float32),
}


@pytest.mark.parametrize("C", [1.0, 1e3])
@pytest.mark.parametrize("name", SINGULAR)
def test_collinear_and_unscaled_columns_are_solved_or_warned_of(engine, name, C):
    if engine == "liblinear":
        pytest.skip("LIBLINEAR's own convergence is scikit-learn's affair")
    values, y = SINGULAR[name], Y3 % 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        svm = fit(engine, values, y, C=C)
    sign = np.where(y == 1, 1.0, -1.0)
    f = values.astype(np.float64) @ svm.coef_[0].astype(np.float64) + float(svm.intercept_[0])
    norm = (svm.coef_.astype(np.float64) ** 2).sum() + float(svm.intercept_[0]) ** 2
    ours = norm / 2 + C * (np.maximum(1 - sign * f, 0) ** 2).sum()
    if caught:
        assert [warning.category for warning in caught] == [ConvergenceWarning]
        assert "scale the features or lower C" in str(caught[0].message)
    else:
        assert ours <= reference_objective(values.astype(np.float64), sign, C) * (1 + 2e-5)
    assert bool(caught) == bool(svm.duality_gap_[0] > svm.tol)


@pytest.mark.parametrize("name", ["duplicates * 1e6", "sums of others", "scales from 1e-6 to 1e6", "a column of zeros"])
def test_the_primal_solves_what_only_its_qr_can(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert LinearSVM(C=1e3).fit(SINGULAR[name], Y3 % 2).duality_gap_[0] <= 1e-5


# Item 13. The kind: input of a type that is not supported, or a refit that fails.

SPARSE = [scipy.sparse.csr_matrix, scipy.sparse.csc_array, scipy.sparse.coo_matrix, scipy.sparse.lil_array]


@pytest.mark.parametrize("kind", SPARSE)
def test_sparse_input_is_refused_in_scikit_learns_words(kind):
    with pytest.raises(TypeError, match="^Sparse data was passed for y, but dense data is required"):
        LinearSVM().fit(X, kind(INDICATOR))
    with pytest.raises(TypeError, match="^Sparse data was passed for sample_weight, but dense data is required"):
        LinearSVM().fit(X, INDICATOR, kind(np.ones((60, 3))))
    with pytest.raises(TypeError, match="^Sparse data was passed"):
        LinearSVM().fit(kind(X), INDICATOR)


@pytest.mark.parametrize(
    ("y", "class_weight", "message"),
    [
        (Y3, {7: 2.0}, "class_weight has the key 7, but y has the classes 0, 1, 2"),
        (Y3, {0: 2.0, "cat": 1.0}, "class_weight has the key 'cat', but y has the classes 0, 1, 2"),
        (np.array(["a", "b"])[Y3 % 2], {"c": 2.0}, "class_weight has the key 'c', but y has the classes 'a', 'b'"),
        (INDICATOR, {3: 2.0}, "class_weight has the key 3, but y has columns 0 to 2"),
    ],
)
def test_a_class_weight_for_an_unknown_class_names_it(engine, y, class_weight, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        fit(engine, X, y, class_weight=class_weight)


def test_a_further_key_beside_all_classes_is_allowed_as_in_linear_svc():
    params = {"class_weight": {0: 2.0, 1: 1.0, 2: 1.0, 3: 9.0}}
    LinearSVC(**params).fit(X, Y3)
    assert LinearSVM(**params).fit(X, Y3).duality_gap_.max() <= 1e-5


@pytest.mark.parametrize(
    "again",
    [
        lambda svm: svm.fit(X[:, :5], Y3[:7]),
        lambda svm: svm.set_params(C=-1).fit(X[:, :5], Y3),
        lambda svm: svm.set_params(class_weight={9: 1}).fit(X[:, :5], Y3),
        lambda svm: svm.fit(np.where(X > 2, np.nan, X)[:, :5], Y3),
        lambda svm: svm.fit(X[:, :5], np.zeros(60)),
        lambda svm: svm.set_params(C=1e300).fit(X[:, :5], Y3),
    ],
)
def test_a_failed_refit_leaves_the_former_fit_whole(again):
    svm = LinearSVM().fit(X, Y3)
    before, expected = {k: v for k, v in vars(svm).items() if k.endswith("_")}, svm.decision_function(X)
    with warnings.catch_warnings(), pytest.raises((ValueError, ConvergenceWarning)):
        warnings.simplefilter("error")
        again(svm)
    after = {k: v for k, v in vars(svm).items() if k.endswith("_")}
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)
    np.testing.assert_array_equal(svm.decision_function(X), expected)


def test_a_refit_without_names_forgets_the_former_ones():
    svm = LinearSVM().fit(X, Y3)
    svm.feature_names_in_ = np.array(list("abcdefgh"), dtype=object)
    assert not hasattr(svm.fit(X, Y3), "feature_names_in_")


def test_without_a_bias_fits_are_refined_too():
    """In float32 a nearly singular Gram matrix leaves them far from the optimum: at gaps of 0.5 and more here."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1500, 8)) @ rng.standard_normal((8, 600)) + 0.3 * rng.standard_normal((1500, 600))
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    y = rng.integers(0, 6, 1500)
    assert LinearSVM(C=3000.0, intercept_scaling=0).fit(X, y).duality_gap_.max() <= 1e-5
