"""Descriptor files -> linear SVMs, their score by the data set's protocol, and, on request, the fitted model."""

from __future__ import annotations

import logging
import platform
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggfeat._version import __version__
from vggfeat.classifiers.choices import C_GRID
from vggfeat.classifiers.estimator import LinearSVM
from vggfeat.classifiers.model_file import Model, write_model
from vggfeat.classifiers.protocols import splits as splits_file
from vggfeat.classifiers.protocols.fusion import Features, open_features
from vggfeat.classifiers.protocols.rules import Protocol, Rounds, make_splits, protocol_of, server_split
from vggfeat.classifiers.protocols.selection import Outcome, Settings, fit_all, mean_of, measure_of, run_split
from vggfeat.classifiers.protocols.splits import Split
from vggfeat.classifiers.protocols.voc_results import write_archive
from vggfeat.datasets import NAMES
from vggfeat.errors import DatasetError, UsageError, unknown_name
from vggfeat.page.commands import extract_command
from vggfeat.page.evidence import Scored
from vggfeat.page.html import PAGE
from vggfeat.page.pictures import Pictures
from vggfeat.page.transfer import Run, provenance, write_page
from vggfeat.store.pooling import Aggregate
from vggfeat.store.shards import is_shard_name
from vggfeat.system.files import check_writable

log = logging.getLogger(__name__)

FOLDER = Path("descriptors")
"""Where `extract` puts its files unless told otherwise."""

Progress = Callable[[int, int, int], None]


def svm(
    files: Sequence[str | Path] = (),
    *,
    dataset: str | None = None,
    C: float | Sequence[float] = C_GRID,
    solver: str = "auto",
    loss: str = "squared_hinge",
    aggregate: Aggregate | None = None,
    scales: Sequence[int] | None = None,
    rounds: Rounds | None = None,
    splits: str | Path | None = None,
    write_splits: str | Path | None = None,
    output: str | Path | None = None,
    archive: str | Path | None = None,
    report: str | Path | None = None,
    data: str | Path = "data",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fits one-vs-rest linear SVMs by the protocol of the descriptors' data set and returns their scores (Appendix B).

    Args:
        files: descriptor files of the same images, stacked (late fusion); none: the only `descriptors/<dataset>-*.h5`.
        dataset: the data set that the files must be of; by default the first one's own.
        C: a value, or an ascending grid of which the validation part chooses: per class by average precision for
            multi-label sets, one value by mean class recall for others; among equals the smallest.
        solver: "newton", "liblinear", or "auto". loss: "squared_hinge" or "hinge" (liblinear's).
        aggregate: aggregate the kept scales anew, this way. scales: these of them alone.
        rounds: numbers of splits, folds and images a class, where the protocol leaves them open.
        splits: a splits file in place of the protocol's splits. write_splits: where to keep those used.
        output: where to keep the fitted model. archive: where to write VOC's evaluation server's .tar.
        report: folder for a page that shows the result, the images behind it and how to repeat it.
        data: the data root, where the page's pictures are looked for.
        progress: called with (splits done, splits, 0).

    Returns:
        Plain data: dataset, measure, mean, std (n - 1), splits, per_class, descriptors, seconds and more.

    Raises UsageError, DatasetError or StoreError, each naming what is missing or contradicts the protocol.
    """
    start = time.perf_counter()
    tick = progress or (lambda done, total, failed: None)
    features = open_features(files or [find_descriptors(dataset)], dataset, aggregate, scales)
    protocol = protocol_of(features.dataset)
    Cs = tuple(float(value) for value in C) if isinstance(C, Sequence) else (float(C),)
    settings = Settings(Cs, solver, loss, protocol.definition)
    chosen = _splits(features, protocol, rounds or Rounds(), splits)
    server = _server_split(features, protocol, archive, output)
    check_writable(output, archive, write_splits, report and Path(report, PAGE))
    if write_splits is not None:
        splits_file.write_splits(write_splits, features.dataset, chosen)
    work = chosen if server is None else [*chosen, server]
    outcomes: list[Outcome] = []
    for done, split in enumerate(work):
        tick(done, len(work), 0)
        outcomes.append(run_split(features, split, settings))
        laps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in outcomes[-1].seconds.items())
        log.info("split %d of %d: score %.4f; %s", done + 1, len(work), outcomes[-1].value, laps)
    tick(len(work), len(work), 0)
    reported = outcomes[: len(chosen)]
    result = _result(features, reported, settings)
    again = _command(features, settings, rounds or Rounds(), splits)
    if archive is not None:
        assert protocol.archive is not None  # _server_split has refused the others
        path = write_archive(
            archive, protocol.archive, features.class_names, outcomes[-1].test_ids, outcomes[-1].scores
        )
        result["archive"] = str(path)
    if output is not None:
        result["model"] = str(_keep(output, features, protocol, reported, outcomes[-1], settings, result, again))
    result["seconds"] = round(time.perf_counter() - start, 3)
    if report is not None:
        result["report"] = str(_page(report, data, features, reported, result, again))
    return result


def find_descriptors(dataset: str | None) -> Path:
    """The only file `descriptors/<dataset>-*.h5`; UsageError, with what to run, where there is none or several."""
    if dataset is None:
        raise UsageError("no descriptors: name files that vggfeat extract wrote, or the data set with --dataset")
    if dataset not in NAMES:
        raise unknown_name("data set", dataset, NAMES)
    # voc2012-*.h5 would match voc2012-action's files too.
    longer = tuple(f"{name}-" for name in NAMES if name.startswith(f"{dataset}-"))
    found = sorted(
        path
        for path in FOLDER.glob(f"{dataset}-*.h5")
        if not path.name.startswith(longer) and not is_shard_name(path.name)
    )
    if not found:
        raise UsageError(
            f"no {FOLDER}/{dataset}-*.h5 here: make it with 'vggfeat extract --dataset {dataset}'"
            f" (the data: 'vggfeat download --dataset {dataset}'), or name the files"
        )
    if len(found) > 1:
        names = " ".join(map(str, found))
        raise UsageError(f"several descriptor files of {dataset}: name one, or those to stack: {names}")
    return found[0]


def _splits(features: Features, protocol: Protocol, rounds: Rounds, file: str | Path | None) -> list[Split]:
    if len(features.class_names) < 2 and not features.multi_label:
        raise DatasetError(f"{features.files[0].path} has images of one class alone; a classifier needs two")
    if file is None:
        return make_splits(features, protocol, rounds)
    if rounds.asks:
        raise UsageError("--splits brings its own splits: no --folds, --train-per-class or --test-fraction beside it")
    return splits_file.read_splits(file, features.dataset, features.ids)


def _server_split(
    features: Features, protocol: Protocol, archive: str | Path | None, output: str | Path | None
) -> Split | None:
    """VOC-2012's second run, on trainval: for the server's archive, and for the model that is kept."""
    if archive is not None and protocol.archive is None:
        raise UsageError(
            f"--archive is for voc2012 and voc2012-action, whose test labels a server has, not {features.dataset}"
        )
    if protocol.archive is None or (archive is None and output is None):
        return None
    split = server_split(features)
    if archive is not None and not split.test:
        raise DatasetError(
            f"{features.files[0].path} has no test images: unpack VOC2012test.tar into the VOCdevkit and extract again"
        )
    return split


def _result(features: Features, outcomes: Sequence[Outcome], settings: Settings) -> dict[str, Any]:
    values = [outcome.value for outcome in outcomes]
    per_class = [mean_of(column) for column in np.stack([outcome.per_class for outcome in outcomes]).T]
    return {
        "dataset": features.dataset,
        "measure": measure_of(features),
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "splits": [_split_result(features, outcome, settings) for outcome in outcomes],
        "per_class": dict(zip(features.class_names, per_class, strict=True)),
        "descriptors": features.provenance(),
        "C": list(settings.Cs),
        "solver": settings.solver,
        "loss": settings.loss,
        "left_out": [features.ids[row] for row in np.flatnonzero(~features.described)],
    } | ({"definition": settings.definition} if features.multi_label else {})


def _split_result(features: Features, outcome: Outcome, settings: Settings) -> dict[str, Any]:
    names = features.class_names
    return {
        "seed": outcome.split.seed,
        **({} if outcome.split.fold is None else {"fold": outcome.split.fold}),
        "C": _by_class(names, outcome.C) if features.multi_label else float(outcome.C[0]),
        "value": outcome.value,
        **outcome.counts,
        "validation": _validation(features, outcome, settings),
        "per_class": _by_class(names, outcome.per_class),
        "duality_gap": outcome.gap,
        "seconds": outcome.seconds,
    }


def _validation(features: Features, outcome: Outcome, settings: Settings) -> list[dict[str, Any]] | None:
    """The validation curve: per C its mean value, and for multi-label sets each class's."""
    if outcome.curve is None:
        return None
    return [
        {"C": C, "value": mean_of(values)}
        | ({"per_class": _by_class(features.class_names, values)} if features.multi_label else {})
        for C, values in zip(settings.Cs, outcome.curve, strict=True)
    ]


def _by_class(names: Sequence[str], values: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def _keep(
    path: str | Path,
    features: Features,
    protocol: Protocol,
    reported: list[Outcome],
    last: Outcome,
    settings: Settings,
    result: dict[str, Any],
    command: str,
) -> Path:
    """Writes the model. A benchmark's is fitted on what its protocol trains on, so that its test images stay unseen:
    VOC-2012's on trainval, the others' on the first split's. A user's own is fitted on all labelled images.
    """
    fitted: LinearSVM
    if protocol.fixed:
        outcome = last if protocol.archive else reported[0]
        fitted, C, used = outcome.svm, outcome.C, outcome.counts["train"] + outcome.counts["val"]
    else:
        fitted, C = fit_all(features, reported, settings)
        used = int(features.described.sum())
    record = {name: result[name] for name in ("dataset", "measure", "mean", "std")} | {
        "fitted_on": used,
        "loss": settings.loss,
        "descriptors": [file["path"] for file in result["descriptors"]],
        "command": command,
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
        ),
    )


def _command(features: Features, settings: Settings, rounds: Rounds, splits: str | Path | None) -> str:
    """The command line that repeats the run; what is at its default is left out."""
    words = ["vggfeat", "svm", *(str(file.path) for file in features.files)]
    flags = {
        "C": settings.Cs,
        "solver": settings.solver,
        "loss": settings.loss,
        "aggregate": features.aggregate,
        "scales": features.scales,
    }
    usual = {"C": C_GRID, "solver": Settings().solver, "loss": Settings().loss, **asdict(Rounds())}
    for name, value in {**flags, **asdict(rounds), "splits": splits}.items():
        if value is not None and value != usual.get(name):
            flag = "num-splits" if name == "number" else name.replace("_", "-")
            words += [f"--{flag}", ",".join(map(repr, value)) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)


def _page(
    folder: str | Path,
    data: str | Path,
    features: Features,
    outcomes: Sequence[Outcome],
    result: dict[str, Any],
    command: str,
) -> Path:
    """Writes the report page."""
    described = [{**file.attributes, **one} for file, one in zip(features.files, result["descriptors"], strict=True)]
    versions = {"vggfeat": __version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in ("numpy", "scikit-learn")}
    where = "" if str(data) == "data" else f" --data {shlex.quote(str(data))}"
    lines = [
        extract_command(file.attributes["settings"], features.dataset, output=str(file.path)) + where
        for file in features.files
    ]
    run = Run(
        result,
        [Scored(one.test_ids, one.test_labels, one.scores) for one in outcomes],
        provenance(described, result, versions),
        [*lines, f"{command} --report {shlex.quote(str(folder))}{where}"],
    )
    return write_page(folder, run, Pictures.of(features.dataset, data))
