"""Descriptor files -> linear SVMs, their score by the data set's protocol, and, on request, the fitted model."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggfeat._version import __version__
from vggfeat.classifiers.choices import C_GRID
from vggfeat.classifiers.estimator import LinearSVM
from vggfeat.classifiers.groups import Count
from vggfeat.classifiers.model_file import Model, is_model, write_model
from vggfeat.classifiers.protocols import splits as splits_file
from vggfeat.classifiers.protocols.by_layer import layer_names, scores_by_layer
from vggfeat.classifiers.protocols.copies import Copy, copies_warning
from vggfeat.classifiers.protocols.fusion import Features, open_features
from vggfeat.classifiers.protocols.results import ByClass, SplitResult, SVMResult
from vggfeat.classifiers.protocols.rules import (
    ROUNDS,
    Protocol,
    Rounds,
    make_splits,
    protocol_of,
    rows_of,
    server_split,
)
from vggfeat.classifiers.protocols.selection import (
    MODEL,
    SPLIT,
    Outcome,
    check_calibration,
    fit_all,
    mean_of,
    measure_of,
    run_split,
    steps_of,
)
from vggfeat.classifiers.protocols.settings import Settings, check_kept, costs_of
from vggfeat.classifiers.protocols.splits import Split
from vggfeat.classifiers.protocols.voc_results import is_archive, write_archive
from vggfeat.errors import DatasetError, UsageError
from vggfeat.metrics import positive_share
from vggfeat.page.commands import (
    data_root,
    keeping_command,
    note_on,
    svm_command,
    with_data,
    with_probabilities,
    with_report,
)
from vggfeat.page.evidence import Scored
from vggfeat.page.html import check_page
from vggfeat.page.map import Placed, chosen_rows, place
from vggfeat.page.pictures import Pictures
from vggfeat.page.transfer import Report, provenance, write_page
from vggfeat.store import Descriptors, File, files_in, place_of
from vggfeat.store.finding import find_descriptors
from vggfeat.store.pooling import Aggregate, as_scales
from vggfeat.system.arguments import with_checked_arguments
from vggfeat.system.bars import Progress, counted, with_bar
from vggfeat.system.callers import warn_caller
from vggfeat.system.files import check_apart, check_replaceable
from vggfeat.system.numbers import number_of
from vggfeat.system.values import several

log = logging.getLogger(__name__)


@with_checked_arguments
@with_bar("svm", "step")
def svm(
    files: File | Sequence[File] = (),
    *,
    dataset: str | None = None,
    C: float | Sequence[float] | NDArray[np.floating] = C_GRID,
    solver: str = "auto",
    loss: str = "squared_hinge",
    aggregate: Aggregate | None = None,
    scales: int | Sequence[int] | None = None,
    layer: str | Sequence[str] = (),
    by_layer: bool = False,
    rounds: Rounds | None = None,
    splits: str | Path | None = None,
    write_splits: str | Path | None = None,
    output: str | Path | None = None,
    probabilities: bool = False,
    archive: str | Path | None = None,
    report: str | Path | None = None,
    data: str | Path | None = None,
    max_memory: float | None = None,
    progress: Progress | bool | None = True,
) -> SVMResult:
    """Fits one-vs-rest linear SVMs by the protocol of the descriptors' data set and returns their scores (Appendix B).

    Args:
        files: a descriptor file (its path, or what `read_descriptors` gave), or several of the same images, to be
            stacked (late fusion); by default the only `descriptors/<dataset>-*.h5`.
        dataset: the data set that the files must be of; by default the first file's.
        C: a value, or an ascending grid (a list, a tuple or an array) from which the validation part chooses: for
            multi-label sets per class by average precision, else one by mean class recall; the smallest of equals.
        solver: "newton", "liblinear", or "auto".
        loss: "squared_hinge", or "hinge" (LIBLINEAR only).
        aggregate: aggregate the kept scales again, in this way.
        scales: aggregate only these of the kept scales.
        layer: take this layer, or these, of each file, stacked; by default all that it has.
        by_layer: score each of these layers by itself too, on the same splits.
        rounds: how to split the images where the protocol leaves it open, such as `vggfeat.Rounds(folds=3)`. Its
            fields are `number` (of random splits; 3), `seed` (of the first one; 0), `folds`, `train_per_class`,
            `test_per_class` and `test_fraction` (0.25).
        splits: a splits file to use instead of the protocol's splits.
        write_splits: file to write the splits to.
        output: file to write the fitted model to.
        probabilities: calibrate the model's class probabilities on five held-out folds of its training images; the time
            is that of about four more fits at one C.
        archive: .tar file to write for VOC's evaluation server.
        report: folder for a page with the result, its images and how to repeat it.
        data: data root with the pictures for the page; by default where the file says that they were, else "data".
        max_memory: GiB that a fit may take. Descriptors that exceed it are kept in a temporary file beside theirs and
            read in blocks; the result is the same to the tolerance of the fits.
        progress: True, a bar on terminals and in notebooks; False, none; or a function, called with (steps done, steps,
            0), from the calling thread. A step is a class fitted at one C, or a split read or scored.

    Raises UsageError, DatasetError or StoreError, each naming what is missing or contradicts the protocol.
    """
    start = time.perf_counter()
    if not isinstance(rounds, Rounds | None):
        raise UsageError(f"{type(rounds).__name__} is not Rounds: give vggfeat.Rounds(folds=3), say")
    if data is not None and report is None:
        raise UsageError("`data` goes with `report`")
    opened = _files(files)
    layers = several("layer", layer) or _chosen_layers(opened)
    paths = [place_of(one) for one in opened]
    chosen_scales = None if scales is None else as_scales(scales)
    features = open_features(paths or [find_descriptors(dataset)], dataset, aggregate, chosen_scales, layers)
    protocol = protocol_of(features.dataset)
    settings = Settings(costs_of(C), solver, loss, protocol.definition, max_memory=max_memory)
    chosen = _splits(features, protocol, rounds or Rounds(), splits)
    alone = layer_names(features) if by_layer else []
    server = _server_split(features, protocol, archive, output)
    check_kept(probabilities, output)
    work = chosen if server is None else [*chosen, server]
    # The split whose fit the model keeps; a user's model is fitted on all images.
    kept = len(chosen) if server is not None else 0 if protocol.fixed else None
    if probabilities:
        check_calibration(features, _training_rows(features, None if kept is None else work[kept]))
    check_apart(output=output, archive=archive, write_splits=write_splits)
    check_replaceable(output, is_model, "a model")
    check_replaceable(archive, is_archive, "an archive of results")
    check_replaceable(write_splits, splits_file.is_splits, "a file of splits")
    check_page(report)
    if write_splits is not None:
        splits_file.write_splits(write_splits, features.dataset, chosen)
    outcomes: list[Outcome] = []
    of_split = [replace(settings, probabilities=probabilities and at == kept) for at in range(len(work))]
    of_model = replace(settings, probabilities=probabilities)
    total = sum(_steps(features, its) for its in of_split) + len(alone) * len(chosen) * _steps(features, settings)
    if output is not None and kept is None:
        total += _steps(features, of_model, MODEL)
    step = counted(progress, total)
    for done, (split, its) in enumerate(zip(work, of_split, strict=True)):
        outcomes.append(run_split(features, split, its, step))
        laps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in outcomes[-1].seconds.items())
        log.info("split %d of %d: score %.4f; %s", done + 1, len(work), outcomes[-1].value, laps)
    reported = outcomes[: len(chosen)]
    result = _result(features, reported, settings)
    if by_layer:
        result = replace(result, by_layer=tuple(scores_by_layer(features, chosen, settings, step)))
    if result.copies:
        warn_caller(copies_warning(result.copies))
    command = _command(features, settings, rounds or Rounds(), splits, by_layer)
    if archive is not None:
        assert protocol.archive is not None  # _server_split has refused the others
        path = write_archive(
            archive, protocol.archive, features.class_names, outcomes[-1].test_ids, outcomes[-1].scores
        )
        result = replace(result, archive=str(path))
    if output is not None:
        path = _write_model(output, features, protocol, reported, outcomes[-1], of_model, result, command, step)
        if kept is None and splits is None and _by_own_subsets(rounds or Rounds(), chosen):
            log.warning("the model is fitted on all images, those to test on too; the score is of a fit without them")
        result = replace(result, model=str(path))
    result = replace(result, seconds=round(time.perf_counter() - start, 3))
    if report is not None:
        changes = _changes(protocol, rounds or Rounds(), splits)
        path = _write_report(report, data, features, reported, result, command, changes)
        result = replace(result, report=str(path))
    return result


def _files(files: File | Sequence[File]) -> list[File]:
    """One file or several, as a list. Raises UsageError for descriptors in memory."""
    given = [] if hasattr(files, "shape") else files_in(files)
    if hasattr(files, "shape") or not all(isinstance(one, str | os.PathLike | Descriptors) for one in given):
        raise UsageError("svm takes descriptor files; vggfeat.LinearSVM fits arrays: LinearSVM(C=1.0).fit(X, y)")
    return given


def _chosen_layers(files: Sequence[File]) -> tuple[str, ...]:
    """The layers that opened files were narrowed to (`Descriptors.choose`); () for all that they have."""

    chosen = {file.chosen if isinstance(file, Descriptors) else () for file in files}
    if len(chosen) > 1:
        raise UsageError("layers were chosen in some of the opened files alone: name them by `layer`")
    return next(iter(chosen), ())


def _splits(features: Features, protocol: Protocol, rounds: Rounds, file: str | Path | None) -> list[Split]:
    if len(features.class_names) < 2 and not features.multi_label:
        raise DatasetError(f"{features.files[0].path} has images of only one class; a classifier needs two")
    if file is None:
        return make_splits(features, protocol, rounds)
    if rounds.asks or rounds.number is not None:
        others = "`number`, `folds`, `train_per_class` and `test_fraction`"
        raise UsageError(f"`splits` names the splits: leave out {others}")
    return splits_file.read_splits(file, features.dataset, features.ids)


def _server_split(
    features: Features, protocol: Protocol, archive: str | Path | None, output: str | Path | None
) -> Split | None:
    """VOC-2012's second split, trained on trainval: for the server's archive and the model."""
    if archive is not None and protocol.archive is None:
        raise UsageError(
            f"`archive` is for voc2012 and voc2012-action, whose test labels only a server has, not {features.dataset}"
        )
    if protocol.archive is None or (archive is None and output is None):
        return None
    split = server_split(features)
    if archive is not None and not split.test:
        raise DatasetError(
            f"{features.files[0].path} has no test images: unpack VOC2012test.tar into the VOCdevkit and extract again"
        )
    return split


def _steps(features: Features, settings: Settings, parts: Sequence[str] = SPLIT) -> int:
    return sum(steps_of(features, settings, parts).values())


def _training_rows(features: Features, split: Split | None) -> NDArray[np.intp]:
    """The described images that a model is fitted on: a split's training images, or all."""
    if split is None:
        return np.flatnonzero(features.described)
    rows = rows_of(features, [*split.train, *split.val])
    return rows[features.described[rows]]


def _result(features: Features, outcomes: Sequence[Outcome], settings: Settings) -> SVMResult:
    values = [outcome.value for outcome in outcomes]
    per_class = [mean_of(column) for column in np.stack([outcome.per_class for outcome in outcomes]).T]
    return SVMResult(
        dataset=features.dataset,
        measure=measure_of(features),
        mean=float(np.mean(values)),
        std=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        splits=tuple(_split_result(features, outcome, settings) for outcome in outcomes),
        per_class=dict(zip(features.class_names, per_class, strict=True)),
        descriptors=features.provenance(),
        C=list(settings.Cs),
        solver=settings.solver,
        loss=settings.loss,
        left_out=[features.ids[row] for row in np.flatnonzero(~features.described)],
        chance=_chance(features, outcomes),
        definition=settings.definition if features.multi_label else None,
        copies=tuple(_copies(outcomes)),
    )


def _copies(outcomes: Sequence[Outcome]) -> list[Copy]:
    """The copies of all splits, each pair once, the most similar first."""
    found = {frozenset((copy.test, copy.train)): copy for outcome in outcomes for copy in outcome.copies}
    return sorted(found.values(), key=lambda copy: (-copy.cosine, copy.test, copy.train))


def _chance(features: Features, outcomes: Sequence[Outcome]) -> float | None:
    """What guessing scores: a random ranking has an average precision of about the share of positive images.

    Classes without a positive test image have no average precision, so they count in neither mean.
    """
    if not features.multi_label:
        return 1 / len(features.class_names)
    shares = [np.where(np.isnan(one.per_class), np.nan, positive_share(one.test_labels)) for one in outcomes]
    return mean_of(np.concatenate(shares))


def _split_result(features: Features, outcome: Outcome, settings: Settings) -> SplitResult:
    names = features.class_names
    return SplitResult(
        seed=outcome.split.seed,
        fold=outcome.split.fold,
        C=_by_class(names, outcome.C) if features.multi_label else float(outcome.C[0]),
        value=outcome.value,
        **outcome.counts,
        validation=_validation(features, outcome, settings),
        per_class=_by_class(names, outcome.per_class),
        duality_gap=outcome.gap,
        seconds=outcome.seconds,
    )


def _validation(features: Features, outcome: Outcome, settings: Settings) -> list[dict[str, Any]] | None:
    """The validation curve: for each C its mean value, and for multi-label sets each class's."""
    if outcome.curve is None:
        return None
    return [
        {"C": C, "value": mean_of(values)}
        | ({"per_class": _by_class(features.class_names, values)} if features.multi_label else {})
        for C, values in zip(settings.Cs, outcome.curve, strict=True)
    ]


def _by_class(names: Sequence[str], values: NDArray[np.float64]) -> ByClass:
    return dict(zip(names, values.tolist(), strict=True))


def _write_model(
    path: str | Path,
    features: Features,
    protocol: Protocol,
    reported: list[Outcome],
    last: Outcome,
    settings: Settings,
    result: SVMResult,
    command: str,
    progress: Count,
) -> Path:
    """Writes the model. A benchmark's is fitted on its protocol's training images, so that its test images stay unseen:
    VOC-2012's on trainval, the others' on those of the first split. A user's is fitted on all labelled images.
    """
    fitted: LinearSVM
    if protocol.fixed:
        outcome = last if protocol.archive else reported[0]
        fitted, C, used = outcome.svm, outcome.C, outcome.counts["train"] + outcome.counts["val"]
    else:
        fitted, C = fit_all(features, reported, settings, progress)
        used = int(features.described.sum())
    record = {name: result[name] for name in ("dataset", "measure", "mean", "std", "chance")} | {
        "fitted_on": used,
        "loss": settings.loss,
        "descriptors": [file["path"] for file in result.descriptors],
        "naming": [file.naming.attributes() for file in features.files],
        **_made_by(features),
        "command": with_probabilities(command) if settings.probabilities else command,
    }
    return write_model(
        path,
        Model(
            coef=np.asarray(fitted.coef_, dtype=np.float32),
            intercept=np.asarray(fitted.intercept_, dtype=np.float32),
            C=C,
            class_names=features.class_names,
            multi_label=features.multi_label,
            inputs=tuple(features.settings()),
            record=record,
            sigmoids=fitted.sigmoids_ if settings.probabilities else None,
        ),
    )


def _made_by(features: Features) -> dict[str, Any]:
    """What a model's record says of files that it reads otherwise than they were made: the settings that made them."""
    otherwise = features.aggregate or features.scales or any(file.chosen for file in features.files)
    return {"made_by": [file.made_by for file in features.files]} if otherwise else {}


def _command(features: Features, settings: Settings, rounds: Rounds, splits: str | Path | None, by_layer: bool) -> str:
    """The command line that repeats the run, without options at their defaults."""
    options = {
        "C": settings.Cs,
        "solver": settings.solver,
        "loss": settings.loss,
        "aggregate": features.aggregate,
        "scales": features.scales,
        "layer": features.layers or None,
        "by_layer": by_layer or None,
        **asdict(rounds if splits is None else Rounds()),  # a file of splits has no seed
        "splits": splits,
        "max_memory": settings.max_memory,
    }
    usual = {"C": C_GRID, "solver": Settings().solver, "loss": Settings().loss, **asdict(Rounds())}
    changed = {name: value for name, value in options.items() if value is not None and value != usual.get(name)}
    return svm_command([str(file.path) for file in features.files], changed)


def _write_report(
    folder: str | Path,
    data: str | Path | None,
    features: Features,
    outcomes: Sequence[Outcome],
    result: SVMResult,
    command: str,
    changes: Sequence[str],
) -> Path:
    """Writes the report page."""
    described = [{**file.attributes, **one} for file, one in zip(features.files, result.descriptors, strict=True)]
    versions = {"vggfeat": __version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in ("numpy", "scikit-learn")}
    run = Report(
        result,
        [Scored(one.test_ids, one.test_labels, one.scores) for one in outcomes],
        provenance(described, result, versions),
        [*(keeping_command(file, data) for file in features.files), with_data(with_report(command, folder), data)],
        [note_on(file) for file in features.files],
        _placed(features, outcomes[0]),
        changes,
    )
    exif = bool(features.files[0].attributes["settings"]["exif"])
    naming = features.files[0].naming
    root = data_root(data, naming)
    return write_page(folder, run, Pictures.of(features.dataset, root, features.ids, exif=exif, origin=naming.origin))


def _by_own_subsets(rounds: Rounds, chosen: Sequence[Split]) -> bool:
    """Whether the images of a user's set name their parts, which then make its only split."""
    return not rounds.asks and rounds.number is None and len(chosen) == 1


def _changes(protocol: Protocol, rounds: Rounds, splits: str | Path | None) -> list[str]:
    """What was chosen otherwise than a benchmark's protocol prescribes, in words."""
    if not protocol.fixed:
        return []
    words = [] if splits is None else [f"the splits of {Path(splits).name}"]
    if rounds.number not in (None, ROUNDS):
        words.append(number_of(rounds.number, "random split"))
    for part, asked, usual in (
        ("training", rounds.train_per_class, protocol.train_per_class),
        ("test", rounds.test_per_class, protocol.test_per_class),
    ):
        if asked not in (None, usual):
            words.append(f"{number_of(asked, f'{part} image')} of each class in place of {usual or 'all others'}")
    return words


def _placed(features: Features, outcome: Outcome) -> Placed | None:
    """The places of a split's described test images on a map."""
    rows = rows_of(features, outcome.test_ids)
    rows = rows[features.described[rows]]
    if not len(rows):
        return None
    chosen = rows[chosen_rows(len(rows))]
    return place([features.ids[row] for row in chosen], features.read(chosen), len(rows))
