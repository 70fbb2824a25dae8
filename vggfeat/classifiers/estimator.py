"""One-vs-rest linear SVMs, fitted for all classes together, at one C or along a grid.

Appendix B of the paper ends in a linear SVM on L2-normalised descriptors. Each class k here minimises LIBLINEAR's

    1/2 |w|^2 + sum_i c_ki max(0, 1 - y_ki (x_i w + s b))^2

with the bias b penalised as part of w and s the intercept scaling. `engines` chooses the method; the duality gap of
each fit proves that it found the optimum.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from vggfeat.classifiers import calibration
from vggfeat.classifiers.choices import LOSSES, SOLVERS
from vggfeat.classifiers.engine import Engine, Problem, Solution
from vggfeat.classifiers.engines import choose_engine
from vggfeat.classifiers.groups import Count, silent
from vggfeat.classifiers.limits import Limits
from vggfeat.classifiers.objective import SILENT
from vggfeat.classifiers.sigmoids import probabilities
from vggfeat.classifiers.targets import SPARSE, encode_labels, sample_weights, unit_costs
from vggfeat.classifiers.validation import validated
from vggfeat.system.callers import warn_caller
from vggfeat.system.numbers import number_of
from vggfeat.system.row_numbers import row_numbers


def _calibrates(svm: LinearSVM) -> bool:
    """Whether an estimator has `predict_proba`; the AttributeError, in SVC's words, says why not."""
    if not svm.probability:
        raise AttributeError("predict_proba is not available when probability=False")
    return True


class LinearSVM(ClassifierMixin, BaseEstimator):
    """One-vs-rest linear SVM with LIBLINEAR's objective, solved exactly and for all classes at once.

    Parameters
    ----------
    C : float or array of shape (K,)
        Cost of a sample's loss against 1/2 |w|^2; one for all classes, or one per class.
    loss : {"squared_hinge", "hinge"}
        LIBLINEAR fits the plain hinge.
    intercept_scaling : float
        Value s of the constant feature whose weight is the bias. The bias is penalised like the other weights, the less
        the larger s; 0 fits without a bias.
    class_weight : None, "balanced" or dict
        Factors of the cost of each class's own samples, as scikit-learn's LinearSVC takes them: in a problem of three
        or more classes only the positive samples of each. For an indicator y the dict's keys are column indices, and
        "balanced" weighs positive and negative samples of each column to the same total.
    tol : float
        Largest relative duality gap (P - D) / P of any class. LIBLINEAR gets 10 tol as its own stopping tolerance, so
        that both defaults correspond.
    solver : {"auto", "newton", "liblinear"}
        "auto" takes "newton" for the squared hinge with up to 40,000 rows or 512 features, else "liblinear".
    probability : bool
        Whether to calibrate class probabilities for `predict_proba`: a sigmoid per class, fitted on the scores of five
        held-out folds (Platt's method). That takes a fit per fold, on the same Gram matrix.

    Attributes
    ----------
    coef_ : (K, D), in the dtype of X; K is 1 for two single-label classes
    intercept_ : (K,)
    classes_ : the labels in order, or the column indices of an indicator y
    n_features_in_ : D
    duality_gap_ : (K,) relative gaps of coef_ and intercept_ in float64; infinity for weights that are not finite, else
        NaN for the plain hinge
    n_iter_ : (K,) Newton steps, or LIBLINEAR's sweeps
    sigmoids_ : (K, 2) with `probability`: a and b of 1 / (1 + exp(a f + b)), each class's probability at the score f

    Notes
    -----
    A process that was forked after torch has worked hangs at torch's next product. Where descriptors are extracted in
    the same program, start workers by "spawn" or "forkserver"; joblib's default, loky, is safe.

    References
    ----------
    Simonyan and Zisserman 2015, Appendix B. Fan et al., LIBLINEAR, JMLR 2008. Keerthi and DeCoste, JMLR 2005. Chapelle,
    Training a support vector machine in the primal, Neural Computation 2007.
    """

    coef_: NDArray[np.floating]
    intercept_: NDArray[np.floating]
    classes_: NDArray[Any]
    duality_gap_: NDArray[np.float64]
    n_iter_: NDArray[np.int64]
    sigmoids_: NDArray[np.float64]

    def __init__(
        self,
        C: float | ArrayLike = 1.0,
        loss: str = "squared_hinge",
        intercept_scaling: float = 1.0,
        class_weight: dict[Any, float] | str | None = None,
        tol: float = 1e-5,
        solver: str = "auto",
        probability: bool = False,
    ) -> None:
        self.C = C
        self.loss = loss
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.tol = tol
        self.solver = solver
        self.probability = probability

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> LinearSVM:
        """Fits every class; returns self.

        X (N, D) is float32 or float64, y (N,) holds class labels or (N, K) is a 0/1 indicator, for samples of several
        labels. sample_weight, (N,) or (N, K), multiplies C; 0 leaves a sample out of all classes, or of one class
        (VOC's difficult images). Raises ValueError for NaN, shapes that do not agree, a single class, and, for
        `probability`, a class with a single sample.
        """
        # A copy is checked and fitted, so that a failure leaves an earlier fit whole.
        problem = SVMPath(X, y, sample_weight, estimator=copy.copy(self))
        solutions = problem.solve(problem.all_rows, [problem.per_class(self.C)])
        return problem.install([self], solutions)[0]

    @classmethod
    def path(
        cls,
        X: ArrayLike,
        y: ArrayLike,
        Cs: Iterable[float | ArrayLike],
        sample_weight: ArrayLike | None = None,
        **params: Any,
    ) -> list[LinearSVM]:
        """One fitted estimator per entry of Cs, in its order; each solution starts the next larger C's.

        params are the constructor's. Each entry of Cs is a float or (K,). To choose C by scores on other rows,
        `vggfeat.classifiers.estimator.SVMPath` is faster.
        """
        problem = SVMPath(X, y, sample_weight, estimator=cls(**params))
        return problem.fits(Cs)

    def decision_function(self, X: ArrayLike) -> NDArray[np.floating]:
        """Scores (N, K), or (N,) for two single-label classes; above 0 is on the class's side."""
        check_is_fitted(self)
        rows: NDArray[np.floating] = validated(self, X, reset=False)
        _check_finite(rows)
        scores = rows @ self.coef_.T + self.intercept_
        return scores[:, 0] if self._binary else scores

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Labels (N,) of the highest scores, or for a multi-label fit the indicator (N, K) of the scores above 0."""
        scores = self.decision_function(X)
        if self._multilabel:
            return (scores > 0).astype(np.int64)
        return self.classes_[(scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(axis=1)]

    @available_if(_calibrates)
    def predict_proba(self, X: ArrayLike) -> NDArray[np.floating]:
        """Class probabilities (n, K), or (n, 2) for two single-label classes.

        Those of single-label classes are divided by their sum. The class of the largest may be another than
        `predict`'s, because each class has its own sigmoid.
        """
        scores = self.decision_function(X)
        if scores.ndim > 1:
            return probabilities(scores, self.sigmoids_, normalise=not self._multilabel)
        found = probabilities(scores[:, None], self.sigmoids_, normalise=False)
        return np.concatenate([1 - found, found], axis=1)

    @property
    def _binary(self) -> bool:
        return not self._multilabel and len(self.classes_) == 2

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _more_tags(self) -> dict[str, bool]:  # the same, before scikit-learn 1.6
        return {"multilabel": True}


class SVMPath:
    """One data set to be fitted at many C: its Gram matrix is computed once for any choice of its rows.

    To choose C on held-out rows and then fit all of them:

        path = SVMPath(X, y, estimator=LinearSVM())
        scores = path.scores(Cs, train, validation)          # (len(Cs), n_validation, K)
        svm = path.fit(best_C)                               # on all rows, from the nearest solution so far

    X, y and sample_weight are as in `LinearSVM.fit`; `estimator` gives the settings, `limits` the sizes at which the
    engines change their method. `progress` is called, in the calling thread, with the number of classes that have just
    been solved at one C. Rows are indices or a mask.
    """

    def __init__(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        estimator: LinearSVM | None = None,
        limits: Limits | None = None,
        progress: Count = silent,
    ) -> None:
        self.estimator = LinearSVM() if estimator is None else estimator
        _check_parameters(self.estimator)
        if scipy.sparse.issparse(y):
            raise TypeError(SPARSE.format("y"))
        checked = validated(self.estimator, X, y, multi_output=True)
        self.X: NDArray[np.floating] = checked[0]
        _check_finite(self.X)
        labels: NDArray[Any] = checked[1]
        self.classes, self.positive, self.multilabel = encode_labels(labels)
        of_class = self.estimator.class_weight
        unit = unit_costs(self.positive, self.classes, self.multilabel, of_class, sample_weight)
        self._weight = None if sample_weight is None else sample_weights(sample_weight, self.positive.shape)
        scaling, tol = np.float64(self.estimator.intercept_scaling), float(self.estimator.tol)  # overflows to infinity
        problem = Problem(self.X, self.positive.T, unit.T, scaling, tol, limits or Limits())
        self.engine: Engine = choose_engine(problem, self.estimator.loss, self.estimator.solver)
        self.engine.progress = progress
        self.all_rows = np.arange(len(self.X))
        self.gaps: NDArray[np.float64] | None = None
        self._solved: tuple[NDArray[np.intp], list[NDArray[np.float64]], list[Solution]] | None = None
        if self.estimator.probability:
            self._folds(self.all_rows)  # refuses a class with too few samples before any fit

    @property
    def n_problems(self) -> int:
        """K: the number of one-vs-rest problems."""
        return self.positive.shape[1]

    def scores(self, Cs: Iterable[float | ArrayLike], train: ArrayLike, validation: ArrayLike) -> NDArray[np.floating]:
        """Scores (len(Cs), n_validation, K) of the validation rows after fits on the training rows, one for each C.

        K is 1 for two single-label classes. Afterwards `gaps` holds the fits' relative duality gaps (len(Cs), K).
        No weights over the D features are formed.
        """
        costs = self._grid(Cs)
        rows, asked = self._rows(train), self._rows(validation)
        solutions = self._solve(rows, costs)
        self._solved = (rows, costs, solutions)
        self.gaps = np.stack([solution.gap for solution in solutions])
        with np.errstate(**SILENT):
            return np.stack([self.engine.scores(solution, asked).T for solution in solutions])

    def fit(self, C: float | ArrayLike, rows: ArrayLike | None = None) -> LinearSVM:
        """A fitted copy of the estimator with this C, a float or (K,), on all rows or on the given ones."""
        cost = self.per_class(C)
        chosen = self.all_rows if rows is None else self._rows(rows)
        solutions = self.solve(chosen, [cost], start=self._nearest(cost))
        return self.install([clone(self.estimator).set_params(C=C)], solutions)[0]

    def fits(self, Cs: Iterable[float | ArrayLike]) -> list[LinearSVM]:
        """One fitted copy of the estimator per C (a float or (K,)), on all rows, in the order of Cs."""
        given = list(Cs)
        solutions = self._solve(self.all_rows, self._grid(given))
        return self.install([clone(self.estimator).set_params(C=C) for C in given], solutions)

    def per_class(self, C: float | ArrayLike) -> NDArray[np.float64]:
        """C as (K,) float64; ValueError if it is neither a positive number nor K of them."""
        try:
            values = np.asarray(C, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"C must be a number or one per class, got {C!r}") from error
        if values.shape not in ((), (self.n_problems,)):
            raise ValueError(f"C has shape {values.shape}; it must be a number or one per class, ({self.n_problems},)")
        if not np.all((values > 0) & np.isfinite(values)):
            raise ValueError(f"C must be positive and finite, got {C!r}")
        return np.broadcast_to(values, (self.n_problems,)).copy()

    def solve(
        self, rows: NDArray[np.intp], costs: Sequence[NDArray[np.float64]], start: list[Solution] | None = None
    ) -> list[Solution]:
        """The engine's solutions. Overflow is not an error here: it shows in the gaps."""
        with np.errstate(**SILENT):
            return self.engine.solve(rows, costs, start)

    def install(self, svms: list[LinearSVM], solutions: list[Solution]) -> list[LinearSVM]:
        """Sets the learnt attributes of each svm from its solution of this problem; returns the svms.

        Weights that are not finite have the gap infinity. Issues a ConvergenceWarning if a gap is above tol.
        """
        with np.errstate(**SILENT):
            finished = self.engine.finish(solutions)
            sigmoids = [self._sigmoids(one) if self.estimator.probability else None for one in solutions]
        self._warn_if_open(np.concatenate([fitted.gap for fitted in finished]))
        for svm, fitted, found in zip(svms, finished, sigmoids, strict=True):
            svm.coef_, svm.intercept_ = fitted.coef, fitted.intercept
            if found is not None:
                svm.sigmoids_ = found
            elif hasattr(svm, "sigmoids_"):
                del svm.sigmoids_
            svm.duality_gap_, svm.n_iter_ = fitted.gap, fitted.n_iter
            svm.classes_, svm._multilabel = self.classes, self.multilabel
            svm.n_features_in_ = self.X.shape[1]
            if hasattr(self.estimator, "feature_names_in_"):
                svm.feature_names_in_ = self.estimator.feature_names_in_
            elif hasattr(svm, "feature_names_in_"):
                del svm.feature_names_in_
        return svms

    def _sigmoids(self, solution: Solution) -> NDArray[np.float64]:
        """(K, 2) sigmoids of each class's score, from fits on folds of the solution's rows."""
        rows = solution.rows
        start = [solution] * self.n_problems
        scores = calibration.held_out_scores(self.engine, rows, self._folds(rows), solution.C, start)
        weight = None if self._weight is None else self._weight[rows]
        return calibration.fit_sigmoids(scores, self.positive[rows], weight)

    def _folds(self, rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        positive = self.positive[rows]
        if self._weight is not None:
            positive = positive & (self._weight[rows] > 0)
        if len(self.classes) == 2 and not self.multilabel:
            positive = np.concatenate([~positive, positive], axis=1)
        return calibration.held_out_folds(positive, self.classes.tolist())

    def _warn_if_open(self, gap: NDArray[np.float64]) -> None:
        """Issues a ConvergenceWarning if a gap is above the engine's limit."""
        open_ = gap > self.engine.open_above
        if open_.any():
            warn_caller(
                f"{np.count_nonzero(open_)} of {number_of(len(gap), 'fit')} stopped short of the optimum: the largest "
                f"relative duality gap is {np.nanmax(gap):.1e}, tol is {self.estimator.tol:.0e}; "
                "scale the features or lower C",
                ConvergenceWarning,
            )

    def _grid(self, Cs: Iterable[float | ArrayLike]) -> list[NDArray[np.float64]]:
        costs = [self.per_class(C) for C in Cs]
        if not costs:
            raise ValueError("Cs is empty: give at least one C")
        return costs

    def _solve(self, rows: NDArray[np.intp], costs: Sequence[NDArray[np.float64]]) -> list[Solution]:
        """Solutions in the order of costs, found from the smallest C to the largest."""
        order = sorted(range(len(costs)), key=lambda at: float(np.log(costs[at]).sum()))
        found = self.solve(rows, [costs[at] for at in order])
        return [found[order.index(at)] for at in range(len(costs))]

    def _nearest(self, cost: NDArray[np.float64]) -> list[Solution] | None:
        """For each class the earlier solution at the nearest C; None before the first."""
        if self._solved is None:
            return None
        _, costs, solutions = self._solved
        nearest = np.abs(np.log(np.stack(costs) / cost)).argmin(axis=0)
        return [solutions[at] for at in nearest]

    def _rows(self, rows: ArrayLike) -> NDArray[np.intp]:
        chosen = row_numbers(rows, len(self.X), "X")
        if not len(chosen):
            raise ValueError("rows must be a list of at least one row index, or a mask")
        return chosen


def _check_parameters(svm: LinearSVM) -> None:
    if svm.loss not in LOSSES:
        raise ValueError(f"loss is {svm.loss!r}; it must be one of {', '.join(LOSSES)}")
    if svm.solver not in SOLVERS:
        raise ValueError(f"solver is {svm.solver!r}; it must be one of {', '.join(SOLVERS)}")
    if svm.loss == "hinge" and svm.solver == "newton":
        raise ValueError("the plain hinge has no Newton solver; take solver='liblinear' or loss='squared_hinge'")
    if not isinstance(svm.probability, bool | np.bool_):
        raise ValueError(f"probability must be True or False, got {svm.probability!r}")
    if not (isinstance(svm.tol, Real) and 0 < svm.tol < 1):
        raise ValueError(f"tol must be a relative gap between 0 and 1, got {svm.tol!r}")
    if not (isinstance(svm.intercept_scaling, Real) and 0 <= svm.intercept_scaling < float("inf")):
        raise ValueError(f"intercept_scaling must be 0 or a positive number, got {svm.intercept_scaling!r}")


def _check_finite(X: NDArray[np.floating]) -> None:
    """Raises ValueError, naming the first row with a value that is NaN or infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(X.sum()):  # one pass, and no copy of X
            return
    for row, values in enumerate(X):
        if not np.isfinite(values).all():
            raise ValueError(f"Input X contains NaN or infinity, the first in row {row}")
