"""One split: choose C on the validation part, fit all training images, score the test part (Appendix B)."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggfeat.classifiers.calibration import FOLDS, held_out_folds
from vggfeat.classifiers.estimator import LinearSVM, SVMPath
from vggfeat.classifiers.groups import Count, silent
from vggfeat.classifiers.protocols.copies import Copy, CopyFinder
from vggfeat.classifiers.protocols.fusion import Features
from vggfeat.classifiers.protocols.rules import Measure, rows_of
from vggfeat.classifiers.protocols.settings import Settings
from vggfeat.classifiers.protocols.splits import Split
from vggfeat.classifiers.spool import GIB, Budget, spooled
from vggfeat.datasets.sample import OWN
from vggfeat.errors import DatasetError, TrainingError, UsageError
from vggfeat.metrics import average_precision, class_recalls

log = logging.getLogger(__name__)

MAX_GAP = 0.01
"""Largest relative duality gap of a fit whose score is reported: beyond, it is not the SVM that was asked for."""

NAMED = 5
"""Most classes that a warning names."""


@dataclass(frozen=True)
class Outcome:
    """The result of one split."""

    split: Split
    C: NDArray[np.float64]
    """(K,) chosen class by class for a multi-label set, else all equal."""
    curve: NDArray[np.float64] | None
    """(len(Cs), K) validation value of each C and class; None if only one C was given."""
    svm: LinearSVM
    """Fitted on the train and val parts."""
    scores: NDArray[np.float32]
    """(n_test, K); minus infinity for test images without a descriptor."""
    test_ids: list[str]
    test_labels: NDArray[Any]
    """(n_test,) class indices, or (n_test, K) of 1, 0, -1."""
    per_class: NDArray[np.float64]
    """(K,) recall or average precision on the test part; nan for a class without images to test or to train on."""
    counts: dict[str, int]
    """Numbers of images used, by part."""
    seconds: dict[str, float]
    copies: tuple[Copy, ...] = ()
    """Test images that are among the training images too."""

    @property
    def value(self) -> float:
        """Mean over the classes with test images."""
        return mean_of(self.per_class)

    @property
    def gap(self) -> float:
        """Largest relative duality gap of the classes: it proves that the optimum was found."""
        return float(np.max(self.svm.duality_gap_))


def measure_of(features: Features) -> Measure:
    """mAP for multi-label sets, mean class recall for others."""
    return "mAP" if features.multi_label else "mean_class_recall"


SPLIT, MODEL = ("read", "choose", "fit", "score"), ("read", "fit")
"""The parts of `run_split` and of `fit_all`, in order."""


def steps_of(features: Features, settings: Settings, parts: Sequence[str] = SPLIT) -> dict[str, int]:
    """The steps of progress of each part: one for a class at one C, and one each for reading and scoring."""
    classes = len(features.class_names)
    size = {
        "read": 1,
        "choose": classes * len(settings.Cs) if len(settings.Cs) > 1 else 0,
        "fit": classes * (1 + FOLDS) if settings.probabilities else classes,
        "score": 1,
    }
    return {part: size[part] for part in parts}


def run_split(features: Features, split: Split, settings: Settings, progress: Count = silent) -> Outcome:
    """Chooses C, refits and scores; `progress` is called with the number of steps, of `steps_of`, just done.

    A class of one's own multi-label set without an image to train on in this split is not scored, which a warning says.
    Raises DatasetError for other classes without any training image, StoreError for descriptors that are not finite,
    TrainingError for a fit that is far from its optimum.
    """
    clock = _Clock(steps_of(features, settings), progress)
    train, val, test = (rows_of(features, ids) for ids in (split.train, split.val, split.test))
    train, val = train[features.described[train]], val[features.described[val]]
    if not features.multi_label:
        test = test[features.described[test]]
    for part, ids, rows in (("train", split.train, train), ("test", split.test, test)):
        if ids and not len(rows):
            raise DatasetError(f"{features.files[0].path}: no {part!r} image of the split has a descriptor")
    fitted = np.concatenate([train, val])
    untrained = _untrained(features, fitted)
    _warn_of_untrained(features, split, untrained)
    problem = _problem(features, fitted, settings, clock, len(val))
    curve = None
    if len(settings.Cs) > 1:
        if not len(val):
            raise UsageError("the split has no validation images to choose C with: give one value, such as `C=1`")
        at = np.arange(len(fitted))
        scores = problem.scores(settings.Cs, at[: len(train)], at[len(train) :])
        for cost, one in zip(settings.Cs, scores, strict=True):
            _refuse_unless(bool(np.isfinite(one).all()), cost)
        _warn_of_gaps(settings.Cs, problem)
        curve = _learned(features, train, np.stack([_per_class(features, val, one, settings) for one in scores]))
    C = choose(curve, settings.Cs, features.multi_label, len(features.class_names))
    clock.lap("choose")
    svm = fit(problem, C)
    clock.lap("fit")
    scores, copies = _scores(features, svm, test, CopyFinder(problem.X), fitted)
    per_class = np.where(untrained, np.nan, _per_class(features, test, scores, settings))
    clock.lap("score")
    counts = {"train": len(train), "val": len(val), "test": len(test)}
    test_ids = [features.ids[row] for row in test]
    labels = features.labels[test]
    return Outcome(split, C, curve, svm, scores, test_ids, labels, per_class, counts, clock.seconds, copies)


def _learned(features: Features, train: NDArray[np.intp], curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """The validation curve (len(Cs), K), nan for the classes of a multi-label set that had no image to train on.

    Their scores say nothing of C. Where no other class has a value, all count.
    """
    if not features.multi_label:
        return curve
    only = np.where(_with_images(features, train), curve, np.nan)
    return curve if np.isnan(only).all() else only


def fit_all(
    features: Features, outcomes: list[Outcome], settings: Settings, progress: Count = silent
) -> tuple[LinearSVM, NDArray[np.float64]]:
    """A fit on every image with the C that is best on average over the splits; and that C (K,).

    `progress` is called as in `run_split`, with the steps of the parts MODEL.
    """
    curves = [outcome.curve for outcome in outcomes if outcome.curve is not None]
    curve = _mean_curve(np.stack(curves)) if curves else None
    C = choose(curve, settings.Cs, features.multi_label, len(features.class_names))
    clock = _Clock(steps_of(features, settings, MODEL), progress)
    rows = np.flatnonzero(features.described)
    _untrained(features, rows)  # refuses a class without an image
    svm = fit(_problem(features, rows, settings, clock), C)
    clock.lap("fit")
    return svm, C


def _mean_curve(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """(len(Cs), K) means over the splits, (splits, len(Cs), K), in which a class has a value; nan where none has."""
    known = ~np.isnan(curves)
    with np.errstate(invalid="ignore"):
        return np.where(known, curves, 0).sum(axis=0) / np.asarray(known.sum(axis=0))


def check_calibration(features: Features, rows: NDArray[np.intp]) -> None:
    """Raises DatasetError for a class with too few of these images to calibrate its probabilities."""
    try:
        held_out_folds(_targets(features, rows)[0] > 0, features.class_names)
    except ValueError as error:
        raise DatasetError(str(error)) from None


def choose(
    curve: NDArray[np.float64] | None, Cs: tuple[float, ...], multi_label: bool, num_classes: int
) -> NDArray[np.float64]:
    """(K,) values of C from the validation curve (len(Cs), K): the best, and among equals the smallest.

    Multi-label: class by class; a class without positive validation images takes the C that is best for the mean.
    Single-label: one C for all, by the mean over the classes.
    """
    if curve is None:
        return np.full(num_classes, Cs[0])
    # Means of equal recalls may differ in their last bits, which is still a tie.
    known = ~np.isnan(curve).all(axis=0)
    if not known.any():
        raise DatasetError("the validation part has no positive image of any class: give one value, such as `C=1`")
    common = np.round(np.nanmean(curve[:, known], axis=1), 12).argmax()
    best = np.full(num_classes, common)
    if multi_label:
        best[known] = np.round(curve[:, known], 12).argmax(axis=0)
    return np.asarray(Cs)[best]


def fit(problem: SVMPath, C: NDArray[np.float64]) -> LinearSVM:
    """A fit on all rows of the problem. Raises TrainingError if it is far from its optimum."""
    svm = problem.fit(float(C[0]) if (C[0] == C).all() else C)
    far = svm.duality_gap_ > MAX_GAP
    _refuse_unless(not far.any(), C[int(far.argmax())])
    return svm


def _refuse_unless(solved: bool, C: float) -> None:
    if not solved:
        raise TrainingError(f"`C={C:g}`: no SVM found, the duality gap stays above {MAX_GAP:.0%}; take a smaller C")


def _warn_of_gaps(Cs: tuple[float, ...], problem: SVMPath) -> None:
    """Says at which C the last scores are not those of the optimum; LIBLINEAR's gaps are NaN, unknown."""
    assert problem.gaps is not None
    far = problem.gaps > MAX_GAP
    if far.any():
        log.warning(
            "C %s: the validation values are not those of the optimum, because fits stopped short (largest duality "
            "gap %.1e, allowed %g); scale the features, or take a smaller C",
            ", ".join(f"{C:g}" for C, its in zip(Cs, far, strict=True) if its.any()),
            problem.gaps[far].max(),
            MAX_GAP,
        )


def mean_of(per_class: NDArray[np.float64]) -> float:
    """Mean over the classes that are not nan; nan if all are."""
    known = per_class[~np.isnan(per_class)]
    return float(known.mean()) if known.size else float("nan")


def _problem(
    features: Features, rows: NDArray[np.intp], settings: Settings, clock: _Clock, validation: int = 0
) -> SVMPath:
    """The rows' descriptors and targets; an image that is difficult for a class costs 0 there."""
    most = None if settings.max_memory is None else round(settings.max_memory * GIB)
    budget = Budget(
        len(rows),
        features.dim,
        len(features.class_names),
        masked=features.multi_label,
        scores=validation * len(settings.Cs),
        most=most,
    )
    limits = budget.limits()
    targets, weight = _targets(features, rows)
    if budget.spools:
        log.info("%.1f GiB of descriptors are read from a temporary file in blocks", budget.descriptors / GIB)
        X = spooled(features.blocks(rows), len(rows), features.dim, features.files[0].path.parent)
    else:
        X = features.read(rows)
    clock.lap("read")
    svm = LinearSVM(loss=settings.loss, solver=settings.solver, probability=settings.probabilities)
    return SVMPath(X, targets, weight, estimator=svm, limits=limits, progress=clock.step)


def _untrained(features: Features, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """(K,) whether none of these rows is an image of the class.

    Raises DatasetError for such a class, but for a tag of one's own multi-label images that other rows have: a rare one
    may have a single image.
    """
    lacking = ~_with_images(features, rows)
    refused = lacking
    if lacking.any() and features.multi_label and features.dataset in OWN:
        refused = lacking & ~_with_images(features, np.flatnonzero(features.described))
    if refused.any():
        name = features.class_names[int(refused.argmax())]
        raise DatasetError(f"class {name!r} has no training image with a descriptor")
    return lacking


def _with_images(features: Features, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """(K,) whether one of these rows is an image of the class; without the (n, K) targets, which may be gigabytes."""
    labels = features.labels[rows]
    found = (
        (labels == 1).any(axis=0)
        if features.multi_label
        else np.bincount(labels, minlength=len(features.class_names)) > 0
    )
    return np.asarray(found, dtype=bool)


def _warn_of_untrained(features: Features, split: Split, untrained: NDArray[np.bool_]) -> None:
    names = [name for name, lacks in zip(features.class_names, untrained, strict=True) if lacks]
    if names:
        which = f"seed {split.seed}" if split.fold is None else f"fold {split.fold}"
        shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        log.warning("%s: not scored in this split, for lack of a training image: %s", which, shown)


def _targets(features: Features, rows: NDArray[np.intp]) -> tuple[NDArray[np.int8], NDArray[np.float32] | None]:
    """(n, K) indicator, and (n, K) costs, or None if no image is difficult for a class."""
    labels = features.labels[rows]
    if not features.multi_label:
        return (labels[:, None] == np.arange(len(features.class_names))).astype(np.int8), None
    known = labels != 0
    return (labels == 1).astype(np.int8), None if known.all() else known.astype(np.float32)


def _scores(
    features: Features, svm: LinearSVM, rows: NDArray[np.intp], finder: CopyFinder, fitted: NDArray[np.intp]
) -> tuple[NDArray[np.float32], tuple[Copy, ...]]:
    """(n, K) scores, minus infinity where there is no descriptor; and which rows are copies of the `fitted` ones."""
    copies: list[Copy] = []
    scores = np.full((len(rows), len(features.class_names)), -np.inf, dtype=np.float32)
    present = np.flatnonzero(features.described[rows])
    for part, X in features.blocks(rows[present]):
        scores[present[part]] = X @ svm.coef_.T + svm.intercept_
        nearest, cosines = finder.look(X)
        for place in np.flatnonzero(cosines):
            test, train = rows[present[part]][place], fitted[nearest[place]]
            copies.append(Copy(features.ids[test], features.ids[train], float(cosines[place])))
    return scores, tuple(copies)


def _per_class(
    features: Features, rows: NDArray[np.intp], scores: NDArray[Any], settings: Settings
) -> NDArray[np.float64]:
    """(K,) average precisions or recalls of these rows."""
    labels = features.labels[rows]
    if features.multi_label:
        columns = zip(labels.T, scores.T, strict=True)
        return np.array([average_precision(truth, score, settings.definition) for truth, score in columns])
    return class_recalls(labels, scores.argmax(axis=1), len(features.class_names))


class _Clock:
    """Seconds by the name of each part, and the steps done, which it reports."""

    def __init__(self, steps: dict[str, int], progress: Count) -> None:
        self._progress = progress
        self._left = dict(steps)
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def step(self, count: int) -> None:
        """Reports steps of the part that runs, at most those that it has left."""
        part = next(iter(self._left))
        count = min(count, self._left[part])
        self._left[part] -= count
        if count:
            self._progress(count)

    def lap(self, name: str) -> None:
        """Ends the part that runs. Steps that it did not take are reported now: few images have fewer folds."""
        now = time.perf_counter()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - self._last, 3)
        self._last = now
        self.step(self._left[name])
        del self._left[name]
