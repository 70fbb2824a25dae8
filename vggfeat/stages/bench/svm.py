"""The bench of SVM fits: ours against LIBLINEAR's on synthetic descriptors.

The descriptors resemble the paper's: rectified, L2-normalised, a quarter of the values non-zero, one large mean
direction and a slowly decaying spectrum, with classes that a linear SVM separates to about 85%.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.svm import LinearSVC

from vggfeat.classifiers.choices import C_GRID
from vggfeat.classifiers.estimator import LinearSVM, SVMPath
from vggfeat.results import Result
from vggfeat.stages.bench.problems import MIN_TIMED_CLASSES, SIZES, Size

VALIDATION_SHARE = 0.2

RUNS = 3
"""Of our fits, whose median counts. LIBLINEAR's time is that of hundreds of fits in a row already."""

R = TypeVar("R")


def descriptors(
    latent: NDArray[np.float32], dim: int, rng: np.random.Generator, *, noise: float = 0.5, nonzero: float = 0.26
) -> NDArray[np.float32]:
    """Rectified, L2-normalised features (N, dim) of latent (N, R): random directions of decaying weight, plus noise."""
    rank = latent.shape[1]
    weight = np.arange(1, rank + 1) ** -0.5
    directions = (
        rng.standard_normal((rank, dim), dtype=np.float32)
        * (weight / np.linalg.norm(weight)).astype(np.float32)[:, None]
    )
    X = latent @ directions
    for start in range(0, len(X), 1024):  # the noise of all rows at once would double the peak memory
        block = X[start : start + 1024]
        block += noise * rng.standard_normal(block.shape, dtype=np.float32)
    X -= np.quantile(X[:256], 1 - nonzero)
    np.maximum(X, 0, out=X)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return X


def problem(
    size: Size, seed: int = 0, rank: int = 512
) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.float64] | None]:
    """(X, y, sample_weight): labels (N,), or for VOC an indicator (N, K) and costs (N, K), 0 for 3% difficult ones."""
    rng = np.random.default_rng(seed)
    means = size.signal * rng.standard_normal((size.classes, rank), dtype=np.float32)
    if size.samples:
        shape = (size.samples, size.classes)
        share = np.geomspace(
            0.4, 0.04, size.classes
        )  # as VOC: person in four of ten images, most classes in one of twenty
        y = (rng.random(shape) < share).astype(np.int8)
        weight = (rng.random(shape) >= 0.03).astype(np.float64)
        # Objects in a scene share its descriptor and weigh unequally: small ones are hard to see.
        latent = (y * rng.uniform(0.15, 1, shape)).astype(np.float32) @ means
        latent += rng.standard_normal(latent.shape, dtype=np.float32)
        return descriptors(latent, size.dim, rng), y, weight
    labels = rng.permutation(np.repeat(np.arange(size.classes), size.per_class))
    latent = means[labels] + rng.standard_normal((len(labels), rank), dtype=np.float32)
    return descriptors(latent, size.dim, rng), labels, None


@dataclass(frozen=True)
class SizeFigures(Result):
    """Our fits and LIBLINEAR's on one problem; seconds are for the whole grid of C on all rows."""

    rows: int
    features: int
    classes: int
    newton_seconds: float
    """Ours, with Gram matrix, weights and float64 certificates: the median of `RUNS`."""
    liblinear_seconds: float
    """One process, LinearSVC's default tolerance."""
    ratio: float
    """liblinear_seconds / newton_seconds."""
    liblinear_two_processes_seconds: float
    """Two processes at once, each with half of the classes; NaN where fork is missing or unsafe."""
    ratio_two_processes: float
    liblinear_classes_timed: int
    liblinear_scaled: bool
    """Whether LIBLINEAR was timed on some classes and scaled to all."""
    cold_C: float
    """The C of the grid nearest to 1, fitted alone for the next three figures."""
    cold_newton_seconds: float
    cold_liblinear_seconds: float
    cold_ratio: float
    max_gap: float
    """Our largest relative duality gap."""
    max_objective_excess: float
    """The most that our objective is above LIBLINEAR's, relative."""
    max_objective_difference: float
    """The most that the two objectives differ, relative."""
    score_difference: float
    """The most that the two scores of a row differ."""
    liblinear_unconverged_fits: int
    chosen_C: float | list[float]
    """By mean class recall, or per class by AP for indicators, on 20% of the rows."""
    chosen_C_liblinear: float | list[float]
    chosen_C_classes: int
    """Number of classes that chose."""
    chosen_C_equal: bool
    fits_per_second: float
    peak_bytes: int | None
    """Largest resident size of this process after our fits; None on Windows."""


@dataclass(frozen=True)
class SVMBench(Result):
    """The figures of some sizes on this machine."""

    cpus: int | None
    grid: list[float]
    sizes: dict[str, SizeFigures]

    def as_json(self) -> dict[str, Any]:
        """See Result."""
        return super().as_json() | {"sizes": {name: figures.as_json() for name, figures in self.sizes.items()}}


def bench_svm(
    size: str | Size = "all", *, Cs: Sequence[float] = C_GRID, timed_classes: int | None = None, seed: int = 0
) -> SVMBench:
    """Times our fits and LIBLINEAR's on one size of `SIZES`, on all of them, or on a `Size`.

    timed_classes is the number of classes to time LIBLINEAR on, at least 8; the default is each size's own. Raises
    ValueError for an unknown size.
    """
    if isinstance(size, str) and size not in (*SIZES, "all"):
        raise ValueError(f"unknown size {size!r}; choose one of {', '.join(SIZES)}, all")
    sizes = {"given": size} if isinstance(size, Size) else SIZES if size == "all" else {size: SIZES[size]}
    measured = {name: _measure(one, Cs, timed_classes, seed) for name, one in sizes.items()}
    return SVMBench(os.cpu_count(), list(Cs), measured)


def _measure(size: Size, Cs: Sequence[float], timed_classes: int | None, seed: int) -> SizeFigures:
    X, y, weight = problem(size, seed)
    count = min(size.classes, max(MIN_TIMED_CLASSES, timed_classes or size.timed_classes or size.classes))
    timed = np.linspace(0, size.classes - 1, count).round().astype(int)
    at_one = int(np.argmin(np.abs(np.asarray(Cs) - 1)))

    fits, ours = _median_of_runs(lambda: LinearSVM.path(X, y, Cs, sample_weight=weight))
    peak = _peak_bytes()
    _, cold = _median_of_runs(lambda: LinearSVM(C=Cs[at_one]).fit(X, y, sample_weight=weight))

    rivals = _Rivals(X, y, weight)
    theirs = rivals.one_process(timed, Cs)
    scale = size.classes / count
    seconds = theirs.scaled(scale, len(Cs))
    halves = rivals.two_processes(timed, Cs)
    two = max((half.scaled(scale, len(Cs)) for half in halves), default=float("nan"))
    cold_seconds = theirs.seconds_by_cost[at_one] * scale + theirs.copying
    return SizeFigures(
        rows=len(X),
        features=size.dim,
        classes=size.classes,
        newton_seconds=ours,
        liblinear_seconds=seconds,
        ratio=seconds / ours,
        liblinear_two_processes_seconds=two,
        ratio_two_processes=two / ours,
        liblinear_classes_timed=count,
        liblinear_scaled=count < size.classes,
        cold_C=float(Cs[at_one]),
        cold_newton_seconds=cold,
        cold_liblinear_seconds=cold_seconds,
        cold_ratio=cold_seconds / cold,
        max_gap=float(max(fit.duality_gap_.max() for fit in fits)),
        **_agreement(X, y, weight, timed, Cs, fits, theirs),
        **_choices(X, y, weight, timed, Cs, seed),
        fits_per_second=size.classes * len(Cs) / ours,
        peak_bytes=peak,
    )


def _median_of_runs(work: Callable[[], R]) -> tuple[R, float]:
    """What the last of the runs gave, and the seconds of the median one."""
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - start)
    return found, statistics.median(seconds)


@dataclass
class _Timed:
    """LIBLINEAR on some classes: weights (len(Cs), classes, D + 1), and seconds, in all and by C, without `copying`.

    copying is the time of one call that does not depend on the classes; unconverged counts fits that fell short.
    """

    weights: NDArray[np.float64]
    seconds: float
    seconds_by_cost: list[float]
    copying: float
    unconverged: int

    def scaled(self, factor: float, calls: int) -> float:
        """Seconds that calls for `factor` times the classes take."""
        return self.seconds * factor + self.copying * calls


class _Rivals:
    """LinearSVC on the same rows, one class after another on one core."""

    def __init__(self, X: NDArray[np.float32], y: NDArray[Any], weight: NDArray[np.float64] | None) -> None:
        self.X, self.y, self.weight = X, y, weight

    def target(self, k: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | slice]:
        """Class k's positives, on the rows with a cost for it."""
        positive = self.y == k if self.y.ndim == 1 else self.y[:, k] > 0
        if self.weight is None:
            return positive, slice(None)
        rows = self.weight[:, k] > 0
        return positive[rows], rows

    def one_process(self, classes: NDArray[np.intp], Cs: Sequence[float]) -> _Timed:
        """Times the fits of these classes, without the one conversion of X to float64.

        One call of LinearSVC checks and copies X once for all classes. Fitting them one by one does so each time, which
        is subtracted, unless classes have different rows: then one call cannot fit all.
        """
        X = self.X.astype(np.float64)
        weights = np.empty((len(Cs), len(classes), X.shape[1] + 1))
        own_rows = self.weight is not None
        copying = 0.0 if own_rows else self._copying(X, classes)
        seconds, unconverged = [0.0] * len(Cs), 0
        for at, k in enumerate(classes):
            positive, rows = self.target(int(k))
            part = X[rows] if own_rows else X
            for turn, C in enumerate(Cs):
                start = time.perf_counter()
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", ConvergenceWarning)
                    svc = LinearSVC(C=C, dual="auto", random_state=0).fit(part, positive)
                seconds[turn] += max(time.perf_counter() - start - copying, 0.0)
                unconverged += bool(caught)
                weights[turn, at] = np.append(svc.coef_[0], svc.intercept_[0])
        return _Timed(weights, sum(seconds), seconds, copying, unconverged)

    def _copying(self, X: NDArray[np.float64], classes: NDArray[np.intp]) -> float:
        """Seconds of a fit of one sweep, nearly all of which is checking and copying X."""
        best = float("inf")
        for k in classes[:3]:
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                LinearSVC(max_iter=1, dual="auto", random_state=0).fit(X, self.target(int(k))[0])
            best = min(best, time.perf_counter() - start)
        return best

    def two_processes(self, classes: NDArray[np.intp], Cs: Sequence[float]) -> list[_Timed]:
        """Two processes at once, each with half of the classes; empty where they cannot share X by fork."""
        if sys.platform != "linux":  # Windows has no fork, and macOS's libraries may crash after it
            return []
        # Pool ends its processes with SIGTERM, which must not be handled as in the command.
        fork, usual = multiprocessing.get_context("fork"), (signal.SIGTERM, signal.SIG_DFL)
        with fork.Pool(2, signal.signal, usual) as pool:
            return pool.starmap(self.one_process, [(classes[0::2], Cs), (classes[1::2], Cs)], chunksize=1)


def _agreement(
    X: NDArray[np.float32],
    y: NDArray[Any],
    weight: NDArray[np.float64] | None,
    classes: NDArray[np.intp],
    Cs: Sequence[float],
    fits: Sequence[LinearSVM],
    theirs: _Timed,
) -> dict[str, Any]:
    """Objectives of both on the timed classes, in float64, and their scores on the training rows."""
    cost = np.ones((len(X), len(classes))) if weight is None else weight[:, classes]
    positive = y[:, None] == classes if y.ndim == 1 else y[:, classes] > 0
    sign = np.where(positive, 1.0, -1.0)
    excess, apart = [], 0.0
    for turn, C in enumerate(Cs):
        ours = np.column_stack([fits[turn].coef_[classes], fits[turn].intercept_[classes]]).astype(np.float64)
        scores = [_margins(X, weights) for weights in (ours, theirs.weights[turn])]
        losses = [(cost * np.maximum(1 - sign * f, 0) ** 2).sum(axis=0) for f in scores]
        mine, other = (
            (w**2).sum(axis=1) / 2 + C * loss for w, loss in zip((ours, theirs.weights[turn]), losses, strict=True)
        )
        excess.append((mine - other) / other)
        apart = max(apart, float(np.abs(scores[0] - scores[1]).max()))
    return {
        "max_objective_excess": float(np.max(excess)),
        "max_objective_difference": float(np.abs(excess).max()),
        "score_difference": apart,
        "liblinear_unconverged_fits": theirs.unconverged,
    }


def _margins(X: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, K) in float64, by blocks of rows."""
    f = np.empty((len(X), len(weights)))
    for start in range(0, len(X), 1024):
        f[start : start + 1024] = X[start : start + 1024].astype(np.float64) @ weights[:, :-1].T
    return f + weights[:, -1]


def _choices(
    X: NDArray[np.float32],
    y: NDArray[Any],
    weight: NDArray[np.float64] | None,
    classes: NDArray[np.intp],
    Cs: Sequence[float],
    seed: int,
) -> dict[str, Any]:
    """The C that each solver's scores on a fifth of the rows choose, of some of the classes."""
    classes = classes[np.linspace(0, len(classes) - 1, MIN_TIMED_CLASSES).round().astype(int)]
    shuffled = np.random.default_rng(seed).permutation(len(X))
    held = round(VALIDATION_SHARE * len(X))
    validation, train = np.sort(shuffled[:held]), np.sort(shuffled[held:])
    ours = SVMPath(X, y, weight).scores(Cs, train, validation)[:, :, classes]
    rivals = _Rivals(X[train], y[train], None if weight is None else weight[train])
    theirs = np.stack([_margins(X[validation], weights) for weights in rivals.one_process(classes, Cs).weights])
    figures: dict[str, Any] = {}
    for name, scores in (("chosen_C", ours), ("chosen_C_liblinear", theirs)):
        if y.ndim == 1:
            figures[name] = _best_by_recall(scores, y[validation], classes, Cs)
        else:
            counts = None if weight is None else weight[validation][:, classes] > 0
            figures[name] = _best_by_precision(scores, y[validation][:, classes], counts, Cs)
    return figures | {
        "chosen_C_classes": len(classes),
        "chosen_C_equal": figures["chosen_C"] == figures["chosen_C_liblinear"],
    }


def _best_by_recall(
    scores: NDArray[np.floating], labels: NDArray[Any], classes: NDArray[np.intp], Cs: Sequence[float]
) -> float:
    """The smallest C of the best mean class recall among these classes alone."""
    rows = np.isin(labels, classes)
    right = classes[scores[:, rows].argmax(axis=2)] == labels[rows]
    recall = np.mean([right[:, labels[rows] == k].mean(axis=1) for k in np.unique(labels[rows])], axis=0)
    return float(Cs[int(recall.argmax())])


def _best_by_precision(
    scores: NDArray[np.floating], y: NDArray[Any], counts: NDArray[np.bool_] | None, Cs: Sequence[float]
) -> list[float]:
    """Per class the smallest C of the best average precision."""
    best = []
    for k in range(y.shape[1]):
        rows = slice(None) if counts is None else counts[:, k]
        precisions = [average_precision_score(y[rows, k], one[rows, k]) for one in scores]
        best.append(float(Cs[int(np.argmax(precisions))]))
    return best


def _peak_bytes() -> int | None:
    """Largest resident size of this process so far; None where the system does not tell."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
