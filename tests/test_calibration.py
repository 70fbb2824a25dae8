"""Class probabilities of LinearSVM, against scikit-learn's CalibratedClassifierCV and Platt's targets written out here."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from estimator_checks import failed_checks
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC
from test_svm import ENGINES, TIGHT, blobs, engine, fit  # noqa: F401 - a fixture

from vggfeat.classifiers.calibration import fit_sigmoids, held_out_folds
from vggfeat.classifiers.estimator import LinearSVM


def rival(X, y, folds=5, sample_weight=None, **params):
    svc = LinearSVC(**{"tol": 1e-10, "max_iter": 200_000, "random_state": 0} | params)
    made = CalibratedClassifierCV(svc, method="sigmoid", cv=folds, ensemble=False)
    return made.fit(X, y, sample_weight=sample_weight)


@pytest.mark.parametrize("C", [0.1, 5.0])
@pytest.mark.parametrize("k", [2, 4])
def test_probabilities_are_those_of_calibrated_classifier_cv(engine, k, C):  # noqa: F811
    X, y = blobs(k=k)
    ours = fit(engine, X, y, C=C, tol=TIGHT, probability=True)
    new, _ = blobs(n=30, k=k, seed=1)
    found = ours.predict_proba(new)
    np.testing.assert_allclose(found, rival(X, y, C=C).predict_proba(new), atol=2e-4)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_liblinears_fits_are_calibrated_too(loss):
    X, y = blobs(k=3)
    ours = LinearSVM(loss=loss, solver="liblinear", tol=1e-9, probability=True).fit(X, y)
    dual = {"dual": True} if loss == "hinge" else {}
    np.testing.assert_allclose(
        ours.predict_proba(X), rival(X, y, loss=loss, tol=1e-8, **dual).predict_proba(X), atol=2e-3
    )


def test_each_column_of_an_indicator_has_the_probabilities_of_its_own_binary_problem():
    X, y = blobs(n=150, k=3)
    Y = (y[:, None] == np.arange(3)).astype(int)
    Y[::7, 0] = 1  # some of two classes
    ours = LinearSVM(probability=True, tol=TIGHT).fit(X, Y)
    folds = held_out_folds(Y > 0, range(3))
    cv = [(np.setdiff1d(np.arange(150), fold), fold) for fold in folds]
    found = ours.predict_proba(X)
    for column in range(3):
        expected = rival(X, Y[:, column], cv).predict_proba(X)[:, 1]
        np.testing.assert_allclose(found[:, column], expected, atol=2e-4)
    assert not np.allclose(found.sum(axis=1), 1, atol=0.01)


def test_weighted_samples_count_in_the_fits_and_in_the_sigmoids(engine):  # noqa: F811
    X, y = blobs(k=3)
    weight = np.random.default_rng(3).uniform(0.2, 2, len(y))
    ours = fit(engine, X, y, weight, tol=TIGHT, probability=True)
    np.testing.assert_allclose(ours.predict_proba(X), rival(X, y, 5, weight).predict_proba(X), atol=2e-4)


def test_a_sample_that_weighs_nothing_for_a_class_is_left_out_of_its_sigmoid():
    X, y = blobs(n=90, k=3)
    Y = (y[:, None] == np.arange(3)).astype(int)
    weight = np.ones(Y.shape)
    weight[5:20, 1] = 0
    one = LinearSVM(probability=True).fit(X, Y, weight)
    Y[5:20, 1] = 1 - Y[5:20, 1]
    folds = held_out_folds((Y > 0) & (weight > 0), range(3))
    assert [len(fold) for fold in folds] == [18] * 5
    other = LinearSVM(probability=True).fit(X, Y, weight)
    np.testing.assert_allclose(one.sigmoids_[1], other.sigmoids_[1], rtol=0.1)
    assert not np.allclose(one.sigmoids_[1], LinearSVM(probability=True).fit(X, Y).sigmoids_[1], rtol=0.1)


def test_probabilities_are_calibrated_on_samples_that_the_fit_has_not_seen():
    """More features than samples: training scores separate the classes completely, held-out ones do not."""
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    X = rng.standard_normal((200, 400)) + 0.1 * y[:, None]
    ours = LinearSVM(probability=True).fit(X, y)
    new_y = np.arange(2000) % 2
    new = rng.standard_normal((2000, 400)) + 0.1 * new_y[:, None]
    p = ours.predict_proba(new)[:, 1]
    for low, high in ((0, 0.3), (0.3, 0.7), (0.7, 1)):
        inside = (p >= low) & (p < high)
        assert inside.sum() > 100
        assert new_y[inside].mean() == pytest.approx(p[inside].mean(), abs=0.08)
    on_own_scores = fit_sigmoids(ours.decision_function(X)[:, None], (y == 1)[:, None])
    naive = expit(-(ours.decision_function(new) * on_own_scores[0, 0] + on_own_scores[0, 1]))
    assert np.mean((p - new_y) ** 2) < 0.8 * np.mean((naive - new_y) ** 2)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_sigmoids_minimise_the_cross_entropy_to_platts_targets(scale):
    rng = np.random.default_rng(0)
    positive = rng.random((300, 3)) < [0.02, 0.3, 0.9]
    scores = scale * (positive + rng.standard_normal((300, 3)))
    found = fit_sigmoids(scores, positive)
    for k in range(3):
        n1 = positive[:, k].sum()
        target = np.where(positive[:, k], (n1 + 1) / (n1 + 2), 1 / (300 - n1 + 2))

        def entropy(ab, k=k, target=target):
            z = ab[0] * scores[:, k] / scale + ab[1]
            return (np.logaddexp(0, z) - (1 - target) * z).sum()

        best = minimize(entropy, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).x
        np.testing.assert_allclose(found[k] * [scale, 1], best, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gap", [10.0, 1e4])
def test_separated_and_equal_scores_have_finite_sigmoids(gap):
    positive = np.arange(40)[:, None] % [2, 4] == 0
    scores = np.where(positive, gap, -gap) * [1.0, 0.0]
    found = fit_sigmoids(scores, positive)
    assert np.isfinite(found).all()
    p = expit(-(scores * found[:, 0] + found[:, 1]))
    np.testing.assert_allclose(p[:, 0], np.where(positive[:, 0], 21 / 22, 1 / 22), rtol=1e-6)
    mean = (10 * 11 / 12 + 30 / 32) / 40
    np.testing.assert_allclose(p[:, 1], mean, rtol=1e-6)


def test_folds_are_those_of_stratified_k_fold_and_fewer_for_small_classes():
    y = np.repeat([0, 1, 2], [20, 12, 7])
    folds = held_out_folds(y[:, None] == np.arange(3), "abc")
    for ours, (_, theirs) in zip(folds, StratifiedKFold(5).split(y, y), strict=True):
        assert ours.tolist() == theirs.tolist()
    small = np.repeat([0, 1], [3, 2])
    folds = held_out_folds(small[:, None] == np.arange(2), "ab")
    assert sorted(np.concatenate(folds)) == list(range(5))
    assert len(folds) == 3


@pytest.mark.parametrize(
    ("y", "text"),
    [
        (["a", "a", "a", "b"], "class 'b': they need at least 2 training samples of it, in different folds; it has 1"),
        (["b", "a", "b", "b"], "class 'a': they need at least 2 training samples of it, in different folds; it has 1"),
        (["a", "b", "c"], "class 'a': they need at least 2 training samples of it, in different folds; it has 1"),
        (
            [[1, 0], [1, 0], [0, 0]],
            "class 1: they need at least 2 training samples of it, in different folds; it has 0",
        ),
    ],
)
def test_a_class_with_too_few_samples_is_named_before_the_fit(y, text, monkeypatch):
    monkeypatch.setattr("vggfeat.classifiers.estimator.SVMPath.solve", lambda *args: pytest.fail("fitted"))
    X, _ = blobs(n=len(y))
    with pytest.raises(ValueError) as caught:
        LinearSVM(probability=True).fit(X, np.array(y))
    assert str(caught.value) == f"no probabilities for {text}"


def test_probabilities_need_the_parameter_and_a_fit():
    X, y = blobs(n=40)
    with pytest.raises(AttributeError) as caught:
        LinearSVM().fit(X, y).predict_proba  # noqa: B018
    ours = caught.value.__cause__ or caught.value  # later versions of scikit-learn raise their own from ours
    assert str(ours) == "predict_proba is not available when probability=False"
    svm = LinearSVM(probability=True).fit(X, y)
    svm.set_params(probability=False).fit(X, y)
    assert not hasattr(svm, "sigmoids_")


def test_a_path_calibrates_each_of_its_fits(engine):  # noqa: F811
    X, y = blobs(n=80)
    path = LinearSVM.path(X, y, [0.1, 1.0], probability=True, tol=TIGHT)
    for svm, C in zip(path, (0.1, 1.0), strict=True):
        alone = LinearSVM(C=C, probability=True, tol=TIGHT).fit(X, y)
        np.testing.assert_allclose(svm.sigmoids_, alone.sigmoids_, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e18, 1e37])
def test_extreme_features_and_costs_have_finite_probabilities(scale):
    X, y = blobs(n=40, dtype=np.float32)
    X = X * np.float32(scale)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the fit stops short of the optimum, which it says
        svm = LinearSVM(C=1e30, probability=True).fit(X, y)
    assert np.isfinite(svm.sigmoids_).all()
    np.testing.assert_allclose(svm.predict_proba(X).sum(axis=1), 1, rtol=1e-6)


def test_scikit_learns_estimator_checks_pass_but_for_what_folds_and_sigmoids_change():
    # Repeated samples make other folds (CalibratedClassifierCV too). Older versions have the second name.
    of_weights = {"check_sample_weight_equivalence_on_dense_data", "check_sample_weights_invariance"}
    failed = failed_checks(LinearSVM(probability=True)).keys()
    assert len(failed & of_weights) == 1
    # The class of the largest probability may be another than that of the largest score.
    assert failed - of_weights == {"check_classifiers_train"}
