"""Top-1 and top-5 errors of nets on images, or of posteriors that were kept (Sect. 3.2, 4)."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vggfeat.datasets import Dataset
from vggfeat.datasets.ilsvrc import ilsvrc_numbers
from vggfeat.datasets.outage import MAX_READ_FAILURES, until_outage
from vggfeat.datasets.split import Subset, evaluation_part, load_evaluation_set
from vggfeat.errors import DatasetError, UsageError, unknown_name
from vggfeat.inference.posteriors import (
    SCALE_RULES,
    VIEWS,
    Posteriors,
    ScaleRule,
    View,
    fuse,
    joined,
    scales_for,
    training_scale,
)
from vggfeat.nets.catalog import net_spec
from vggfeat.page.commands import evaluate_command
from vggfeat.page.evaluation import write_page
from vggfeat.page.evidence import Scored
from vggfeat.page.html import PAGE
from vggfeat.page.pictures import Pictures
from vggfeat.system.files import check_writable, replacing
from vggfeat.system.launch import default_workers

if TYPE_CHECKING:  # torch, which only images need: files of posteriors are fused without
    from vggfeat.inference.scorer import Scorer
    from vggfeat.nets.networks import VGG

    NetLike = str | VGG

WeightsLike = str | os.PathLike[str] | None
Progress = Callable[[int, int, int], None]


def evaluate(
    dataset: Dataset | str = "ilsvrc2012",
    *,
    data: str | Path = "data",
    subset: Subset = "val",
    net: NetLike | Sequence[NetLike] | None = None,
    weights: WeightsLike | Sequence[WeightsLike] = "published",
    view: View = "dense",
    scales: ScaleRule | Sequence[int] = "single",
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    per_class: bool = False,
    submission: str | Path | None = None,
    report: str | Path | None = None,
    max_read_failures: int = MAX_READ_FAILURES,
    width: float = 1.0,
    seed: int = 0,
    device: str | None = None,
    precision: str = "auto",
    workers: int | None = None,
    offline: bool | None = None,
    progress: Progress | None = None,
    fetching: Callable[[int, int | None], None] | None = None,
) -> dict[str, Any]:
    """Runs nets on a data set's images and scores their averaged soft-max posteriors.

    Args:
        dataset: name of a single-label data set below `data`, or a Dataset of your own.
        subset: "val", "test", "train" or "all". A data set without a validation part has those images for one that
            the first net's training held out.
        net: name of Table 1 ("D" by default), or a net from `load_net`; several are fused, their posteriors averaged.
        weights: as `load_net` takes them; one for all nets, or one a net.
        view: "dense", "crops", "both" or "center" (see `Scorer`).
        scales: smallest sides Q in pixels for all nets, or the paper's rule for each net's training scale: "single"
            (S, or the middle of a jittered net's range) or "multi" (S - 32, S, S + 32, or the range's ends and middle).
        output: keep the posteriors in this file (HDF5), for `evaluate_files` and for resuming.
        resume: go on with that file. overwrite: replace it.
        per_class: errors by class, and the most frequent confusions.
        submission: write ILSVRC's result file; it needs the devkit below `<data>/ilsvrc2012`.
        report: folder for a page that shows the result and the images behind it.
        max_read_failures: as `extract` has it.
        width, seed: of nets with random weights.
        device, precision, offline: as `load_net` takes them.
        workers: threads that decode ahead of the nets; as many as there are cores by default.
        progress: called with (images done, images, images failed).
        fetching: called with (bytes done, bytes in all or None) while published weights are fetched.

    Returns:
        Plain data: `dataset`, `rows` (a dictionary with `net`, `weights`, `view`, `scales`, `images`, and `top1_error`
        and `top5_error` in %, None where there are no labels), `failed` (reasons by id, left out of the errors),
        `posteriors` and `submission` (paths), `per_class` and `confusions`.

    Raises UsageError for settings that make no sense, DatasetError for the data, WeightsError and DownloadError for
    the weights, StoreError for the file.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite: choose one")
    if output is None and (resume or overwrite):
        raise UsageError(f"--{'resume' if resume else 'overwrite'} is about the file that -o names: give -o FILE")
    if view not in VIEWS:
        raise unknown_name("view", view, VIEWS)
    for name in [net] if isinstance(net, str) else net if isinstance(net, list | tuple) else ():
        if isinstance(name, str):
            net_spec(name)  # refuses an unknown one before any image is looked for
    numbers = None if submission is None else ilsvrc_numbers(data)
    images = dataset if isinstance(dataset, Dataset) else load_evaluation_set(dataset, data, subset)
    if not images.samples:
        raise UsageError("no images to evaluate on")
    labelled = all(sample.labels is not None for sample in images.samples)
    if not labelled and per_class:
        raise UsageError(f"{images.name} has no labels here, so no errors per class")
    if not labelled and report is not None:
        raise UsageError(f"{images.name} has no labels here, so no report")
    if not labelled and output is None and submission is None:
        raise UsageError(f"{images.name} has no labels here, so no errors: give --submission FILE or -o FILE")
    check_writable(submission, report and Path(report, PAGE))
    from vggfeat.inference.scorer import Scorer
    from vggfeat.nets.weights import load_nets

    nets = load_nets(
        net, weights, width=width, seed=seed, device=device, precision=precision, offline=offline, progress=fetching
    )
    if isinstance(dataset, str):
        images = evaluation_part(images, subset, nets[0].training_record)
    images, columns = aligned(images, nets)
    scorer = Scorer(
        nets,
        [_scales(one, scales) for one in nets],
        columns,
        view=view,
        exif=images.exif,
        workers=workers or default_workers(),
    )
    try:
        if output is None:
            posteriors = _computed(scorer, images, progress, max_read_failures)
        else:
            posteriors = _kept(Path(output), scorer, images, resume, overwrite, progress, max_read_failures)
    finally:
        scorer.close()
    result = _result(posteriors, [_row(posteriors)], per_class, submission, numbers)
    if report is not None:
        command = evaluate_command(scorer.provenance(), images.name)
        result["report"] = _page(report, posteriors, result, command, Pictures(images.samples, exif=images.exif))
    return result


def evaluate_files(
    files: Sequence[str | Path],
    *,
    data: str | Path = "data",
    per_class: bool = False,
    submission: str | Path | None = None,
    report: str | Path | None = None,
) -> dict[str, Any]:
    """Scores posteriors that `evaluate` kept: each file's, and their average, every net weighing the same.

    Returns what `evaluate` returns, with a row a file and, for several, one of them all.

    Raises StoreError and DatasetError, naming the file and the first offending id or class.
    """
    numbers = None if submission is None else ilsvrc_numbers(data)
    rows: list[dict[str, Any]] = []

    def scored() -> Iterator[Posteriors]:
        for member in joined(files):
            rows.append(_row(member))
            yield member

    fused = fuse(scored())
    if len(rows) > 1:
        fused = replace(fused, made=_made_of(rows))
        rows.append(_row(fused))
    result = _result(fused, rows, per_class, submission, numbers)
    if report is not None:
        if fused.labels is None:
            raise UsageError(f"{fused.dataset} has no labels here, so no report")
        command = shlex.join(["vggfeat", "evaluate", *map(str, files)])
        result["report"] = _page(report, fused, result, command, Pictures.of(fused.dataset, data))
    return result


def aligned(images: Dataset, nets: Sequence[VGG]) -> tuple[Dataset, list[NDArray[np.intp]]]:
    """The data set with the K classes that the nets score, and for each net which of its outputs is each of them.

    The data set's classes come first, in its order, so that its labels stay; then those that only the nets know. A
    net that names its outputs must have every class; one that does not has the data set's classes in their order (for
    ILSVRC that of the sorted wnids, as all published nets have them).

    Raises DatasetError, naming the net and the first class that it lacks.
    """
    named = [name for net in nets for name in net.class_names]
    class_names = tuple(dict.fromkeys((*images.class_names, *named)))
    columns = []
    for net in nets:
        what = f"net {net.net} ({net.weights_name})"
        if net.class_names:
            place = {name: output for output, name in enumerate(net.class_names)}
            lacking = next((name for name in class_names if name not in place), None)
            if lacking is not None:
                source = images.name if lacking in images.class_names else "another net"
                raise DatasetError(f"{what} has no class {lacking!r}, which {source} has")
            columns.append(np.array([place[name] for name in class_names]))
        elif net.num_classes == len(class_names) == len(images.class_names):
            columns.append(np.arange(net.num_classes))
        else:
            there = f"{images.name} has {len(class_names)}" if class_names else f"{images.name} names none here either"
            raise DatasetError(f"{what} scores {net.num_classes} classes without naming them, and {there}")
    return replace(images, class_names=class_names), columns


def _scales(net: VGG, scales: ScaleRule | Sequence[int]) -> tuple[int, ...]:
    """The smallest sides to test a net at."""
    if not isinstance(scales, str):
        return tuple(scales)
    if scales not in SCALE_RULES:
        raise unknown_name("rule for scales", scales, SCALE_RULES)
    S = training_scale(net.weights_name, net.training_record)
    if S is None:
        raise UsageError(
            f"net {net.net} ({net.weights_name}) does not say at which scale it was trained: give --scales, such as 256"
        )
    return scales_for(S, scales)


def _computed(scorer: Scorer, images: Dataset, progress: Progress | None, max_read_failures: int) -> Posteriors:
    """Posteriors that are kept in memory alone."""
    from vggfeat.inference.blocks import blocks_of, describe_blocks

    samples = images.samples
    values = np.empty((len(samples), scorer.dim), dtype=np.float32)
    failures: dict[str, str] = {}
    described = describe_blocks(scorer, samples, blocks_of(len(samples)))
    for rows, block in until_outage(described, samples, max_read_failures, resumable=False):
        values[rows.start : rows.stop] = block.descriptors
        failures |= {samples[rows.start + row].id: reason for row, reason in block.failures.items()}
        if progress is not None:
            progress(rows.stop, len(samples), len(failures))
    labels = [sample.labels for sample in samples]
    return Posteriors(
        images.name,
        [sample.id for sample in samples],
        None if None in labels else np.asarray(labels, dtype=np.int64),
        images.class_names,
        values,
        failures,
        len(scorer.nets),
        _made_by(scorer.provenance()),
    )


def _kept(
    path: Path,
    scorer: Scorer,
    images: Dataset,
    resume: bool,
    overwrite: bool,
    progress: Progress | None,
    max_read_failures: int,
) -> Posteriors:
    """Posteriors by way of their file."""
    from vggfeat.inference.blocks import fill
    from vggfeat.store import DescriptorWriter

    writer = DescriptorWriter(
        path, images, scorer.provenance(), dim=scorer.dim, layer_dims=(scorer.dim,), resume=resume, overwrite=overwrite
    )
    with writer:
        fill(writer, scorer, progress, max_read_failures)
    return next(joined([path]))


def _page(folder: str | Path, posteriors: Posteriors, result: dict[str, Any], command: str, pictures: Pictures) -> str:
    """Writes the report page of labelled images and returns its path."""
    assert posteriors.labels is not None  # refused above
    done = np.flatnonzero(posteriors.done).tolist()
    scored = Scored([posteriors.ids[row] for row in done], posteriors.labels[done], posteriors.values[done])
    lines = [f"{command} --report {shlex.quote(str(folder))}"]
    return str(write_page(folder, result, posteriors.class_names, scored, lines, pictures))


def _made_by(provenance: dict[str, Any]) -> dict[str, Any]:
    """How posteriors were made, in the words of a file's attributes."""
    nets = provenance["nets"]
    return {
        "net": "+".join(net["net"] for net in nets),
        "weights": "+".join(net["weights"] for net in nets),
        **{name: provenance[name] for name in ("view", "scales", "flip", "precision")},
    }


def _made_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How the fusion of several files was made: what they have in common once, what they have not side by side."""
    made: dict[str, Any] = {name: "+".join(row[name] for row in rows) for name in ("net", "weights")}
    made["view"] = "+".join(dict.fromkeys(row["view"] for row in rows))
    made["scales"] = sorted({Q for row in rows for Q in row["scales"]})
    return made


def _row(posteriors: Posteriors) -> dict[str, Any]:
    return {**posteriors.made, **posteriors.errors()}


def _result(
    posteriors: Posteriors,
    rows: list[dict[str, Any]],
    per_class: bool,
    submission: str | Path | None,
    numbers: dict[str, int] | None,
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "dataset": posteriors.dataset,
        "classes": len(posteriors.class_names),
        "rows": rows,
        "failed": posteriors.failures,
        "posteriors": posteriors.made.get("path"),
    }
    if per_class:
        result["per_class"], result["confusions"] = posteriors.per_class()
    if submission is not None and numbers is not None:
        text = posteriors.submission(numbers)
        with replacing(submission) as temporary:
            temporary.write_text(text, encoding="ascii")
        result["submission"] = str(submission)
    return result
