"""Top-1 and top-5 errors of nets on images, or of posteriors that were kept (Sect. 3.2, 4)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vggfeat.datasets import Dataset
from vggfeat.datasets.checks import checked
from vggfeat.datasets.ilsvrc import ilsvrc_numbers
from vggfeat.datasets.outage import MAX_READ_FAILURES, until_outage
from vggfeat.datasets.split import Subset, evaluation_part, load_evaluation_set, own_part
from vggfeat.errors import UsageError, unknown_name
from vggfeat.inference.blocks import describe_blocks, fill
from vggfeat.inference.classes import aligned
from vggfeat.inference.evaluation import Evaluation, Row
from vggfeat.inference.posteriors import Made, Posteriors, fuse, joined
from vggfeat.inference.prediction import is_net
from vggfeat.inference.scales import own_scales
from vggfeat.inference.settings import (
    SCALE_RULES,
    VIEWS,
    NetChoice,
    PreprocessingLike,
    RunOptions,
    ScaleRule,
    View,
    WeightsLike,
)
from vggfeat.inference.submission import is_result_file
from vggfeat.page.commands import data_root, evaluate_again, fuse_command, with_data, with_report
from vggfeat.page.evaluation import write_page
from vggfeat.page.evidence import Scored
from vggfeat.page.html import check_page
from vggfeat.page.pictures import Pictures, title_of
from vggfeat.store import DescriptorWriter, File, as_descriptors, check_output, files_in, place_of
from vggfeat.store.naming import Naming, weights_files
from vggfeat.store.pooling import as_scales
from vggfeat.system.arguments import with_checked_arguments
from vggfeat.system.bars import Fetching, Progress, callback, with_bar
from vggfeat.system.files import check_apart, check_replaceable

if TYPE_CHECKING:  # torch, which only images need: files of posteriors are fused without
    from vggfeat.inference.scorer import Scorer
    from vggfeat.inference.settings import NetLike
    from vggfeat.nets.networks import VGG


@with_checked_arguments
@with_bar("evaluate")
def evaluate(
    dataset: Dataset | str = "ilsvrc2012",
    *,
    data: str | Path = "data",
    subset: Subset = "val",
    net: NetLike | Sequence[NetLike] | None = None,
    weights: WeightsLike | Sequence[WeightsLike] = "published",
    view: View = "dense",
    scales: ScaleRule | int | Sequence[int] = "single",
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    per_class: bool = False,
    submission: str | Path | None = None,
    report: str | Path | None = None,
    max_read_failures: int = MAX_READ_FAILURES,
    width: float | None = None,
    seed: int = 0,
    device: str | None = None,
    precision: str = "auto",
    preprocessing: PreprocessingLike | Sequence[PreprocessingLike] = None,
    workers: int | None = None,
    offline: bool | None = None,
    progress: Progress | bool | None = True,
    fetching: Fetching | None = None,
) -> Evaluation:
    """Runs nets on a data set's images and scores their averaged soft-max posteriors.

    Args:
        dataset: name of a single-label data set below `data`, or a Dataset of your own.
        subset: "val", "test", "train" or "all". Where a data set has no validation part, "val" is what the
            training of every net held out; of a Dataset of your own that names no subsets, otherwise every image.
        net: name of Table 1 ("D" by default), or a net from `load_net`; several are fused, their posteriors averaged.
        weights: as `load_net` takes them; one for all nets, or one a net.
        view: "dense", the whole image and its mirror image; "crops", 5x5 crops and their mirror images; "both", the
            average of these two; or "center", the central crop alone.
        scales: smallest sides Q in pixels for all nets, or the paper's rule for each net's training scale: "single"
            (S, or the middle of a jittered net's range) or "multi" (S - 32, S, S + 32, or the range's ends and middle).
        output: keep the posteriors in this file (HDF5), for `evaluate_files` and for resuming.
        resume: continue that file. overwrite: replace it.
        per_class: errors by class, and the most frequent confusions.
        submission: write ILSVRC's result file; it needs the devkit below `<data>/ilsvrc2012`.
        report: folder for a page that shows the result and the images behind it.
        max_read_failures: as `extract` has it.
        width, seed: of nets with random weights.
        device, precision, offline: as `load_net` takes them.
        preprocessing: what the weights expect of an image, as `load_net` takes it; one for all nets, or one a net.
        workers: threads that decode ahead of the nets; as many as there are cores by default.
        progress: True, a bar on terminals and in notebooks; False, none; or a function, called with (images done,
            images, images failed).
        fetching: called with (bytes done, bytes in all or None) while published weights are fetched; by default a bar
            where `progress` is one.

    Raises UsageError for settings that make no sense, DatasetError for the data, WeightsError and DownloadError for
    the weights, StoreError for the file.
    """
    options = RunOptions(workers, max_read_failures, callback(progress), resume, overwrite)
    if output is None and (resume or overwrite):
        flag = "`resume`" if resume else "`overwrite`"
        raise UsageError(f"{flag} is about the file that `output` names: give `output=FILE`")
    if view not in VIEWS:
        raise unknown_name("view", view, VIEWS)
    choice = NetChoice(net, weights, width, seed, device, precision, offline, fetching, preprocessing)
    choice.check_names()
    if submission is not None and isinstance(dataset, str) and dataset != "ilsvrc2012":
        raise UsageError("`submission` goes with `dataset=ilsvrc2012`")
    check_apart(output=output, submission=submission)
    numbers = None if submission is None else ilsvrc_numbers(data)
    images = checked(dataset) if isinstance(dataset, Dataset) else load_evaluation_set(dataset, data, subset)
    _check_labels(images, output, per_class, submission, report)
    check_replaceable(submission, is_result_file, "a result file")
    check_page(report)
    if output is not None:
        check_output(output, resume=resume, overwrite=overwrite)
    choice.check_weights()
    from vggfeat.inference.calibration import calibrate
    from vggfeat.inference.scorer import Scorer

    nets = choice.load(("scores",))
    part = evaluation_part if isinstance(dataset, str) else own_part
    images = part(images, subset, [one.training_record for one in nets])
    images, columns = aligned(images, nets)
    of_nets = [_scales(one, scales) for one in nets]
    resumed = Path(output) if output is not None and resume else None
    for one, its_scales in zip(nets, of_nets, strict=True):
        calibrate([one], images.samples, its_scales, exif=images.exif, resumed=resumed)
    scorer = Scorer(nets, of_nets, columns, view=view, exif=images.exif, workers=options.threads)
    try:
        if output is None:
            posteriors = _in_memory(scorer, images, options)
        else:
            naming = Naming(images.origin, weights_files(weights, len(nets)), part="" if subset == "val" else subset)
            posteriors = _in_file(Path(output), scorer, images, naming, options)
    finally:
        scorer.close()
    result = _result(posteriors, [Row.of(posteriors)], per_class, submission, numbers)
    if report is None:
        return result
    again: dict[str, Any] = {
        "weights": _typed(weights),
        "preprocessing": _typed(preprocessing),
        "subset": None if subset == "val" else subset,
        "per-class": per_class,
        "submission": submission,
    }
    command = evaluate_again(scorer.provenance(), images.name, again)
    title = ""
    if isinstance(dataset, str):
        command, title = with_data(command, data), title_of(dataset, data)
    return _reported(result, report, posteriors, command, Pictures(images.samples, exif=images.exif, title=title))


@with_checked_arguments
def evaluate_files(
    files: File | Sequence[File],
    *,
    data: str | Path | None = None,
    per_class: bool = False,
    submission: str | Path | None = None,
    report: str | Path | None = None,
) -> Evaluation:
    """Scores posteriors that `evaluate` kept: each file's, and their average, every net weighing the same.

    Args:
        files: one or several that `evaluate` wrote (`output`): their paths, or what `read_descriptors` gave.
        data: the data root; by default where the first file says that its images were, else "data".
        per_class, submission, report: as `evaluate` takes them.

    Returns a row a file and, for several, one of their fusion.

    Raises StoreError and DatasetError, naming the file and the first offending id or class.
    """
    check_replaceable(submission, is_result_file, "a result file")
    check_page(report)
    named = files_in(files)
    for one in named:
        if isinstance(one, str | os.PathLike) and is_net(Path(one)):
            raise UsageError(f"{one} is a net: give it as `weights={one}`")
    given = [as_descriptors(one) for one in named]
    root = data_root(data, given[0].naming) if given else data or "data"
    numbers = None if submission is None else ilsvrc_numbers(root)
    rows: list[Row] = []

    def scored() -> Iterator[Posteriors]:
        for member in joined(given):
            rows.append(Row.of(member))
            yield member

    fused = fuse(scored())
    if len(rows) > 1:
        rows.append(Row.of(fused))
    if report is not None and fused.labels is None:  # before the submission is written
        raise UsageError(f"{fused.dataset} has no labels here, so no report")
    result = _result(fused, rows, per_class, submission, numbers)
    if report is None:
        return result
    command = with_data(
        fuse_command([place_of(one) for one in given], {"per-class": per_class, "submission": submission}), data
    )
    return _reported(result, report, fused, command, Pictures.of(fused.dataset, root, fused.ids))


def _typed(choice: Any) -> list[str] | None:
    """Names or files, one or several, as text; None where they are not all that."""
    several = list(choice) if isinstance(choice, list | tuple) else [choice]
    if not all(isinstance(one, str | os.PathLike) for one in several):
        return None
    # The name of what "published" chose is recorded.
    return None if several == ["published"] else [os.fspath(one) for one in several]


def _check_labels(
    images: Dataset,
    output: str | os.PathLike[str] | None,
    per_class: bool,
    submission: str | os.PathLike[str] | None,
    report: str | os.PathLike[str] | None,
) -> None:
    """Refuses what images without labels cannot give."""
    if not images.samples:
        raise UsageError("no images to evaluate on")
    if all(sample.labels is not None for sample in images.samples):
        return
    lacking = f"{images.name} has no labels here, so no"
    if per_class:
        raise UsageError(f"{lacking} errors per class")
    if report is not None:
        raise UsageError(f"{lacking} report")
    if output is None and submission is None:
        raise UsageError(f"{lacking} errors: give `submission=FILE` or `output=FILE`")


def _scales(net: VGG, scales: ScaleRule | int | Sequence[int]) -> tuple[int, ...]:
    """The smallest sides to test a net at."""
    if not isinstance(scales, str):
        return as_scales(scales)
    if scales not in SCALE_RULES:
        raise unknown_name("rule for scales", scales, SCALE_RULES)
    return own_scales(net, scales)


def _in_memory(scorer: Scorer, images: Dataset, options: RunOptions) -> Posteriors:
    """Posteriors that no file keeps."""
    samples = images.samples
    values = np.empty((len(samples), scorer.dim), dtype=np.float32)
    failures: dict[str, str] = {}
    described = describe_blocks(scorer, samples)
    for rows, block in until_outage(described, samples, options.max_read_failures, resumable=False):
        values[rows.start : rows.stop] = block.descriptors
        failures |= {samples[rows.start + row].id: reason for row, reason in block.failures.items()}
        if options.progress is not None:
            options.progress(rows.stop, len(samples), len(failures))
    labels = [sample.labels for sample in samples]
    return Posteriors(
        images.name,
        [sample.id for sample in samples],
        None if None in labels else np.asarray(labels, dtype=np.int64),
        images.class_names,
        values,
        failures,
        len(scorer.nets),
        Made.by(scorer.provenance()),
    )


def _in_file(path: Path, scorer: Scorer, images: Dataset, naming: Naming, options: RunOptions) -> Posteriors:
    """Posteriors by way of their file."""
    with DescriptorWriter(
        path,
        images,
        scorer.provenance(),
        dim=scorer.dim,
        layer_dims=(scorer.dim,),
        naming=naming,
        resume=options.resume,
        overwrite=options.overwrite,
    ) as writer:
        fill(writer, scorer, options)
    return next(joined([path]))


def _result(
    posteriors: Posteriors,
    rows: Sequence[Row],
    per_class: bool,
    submission: str | Path | None,
    numbers: Mapping[str, int] | None,
) -> Evaluation:
    """The result, and ILSVRC's file where it is asked for."""
    by_class, confusions = posteriors.per_class() if per_class else (None, None)
    written = None
    if submission is not None and numbers is not None:
        from vggfeat.inference.submission import write_classes

        written = write_classes(submission, posteriors, numbers)
    return Evaluation(
        posteriors.dataset,
        len(posteriors.class_names),
        tuple(rows),
        posteriors.failures,
        posteriors.made.path,
        by_class,
        confusions,
        written,
    )


def _reported(
    result: Evaluation, folder: str | Path, posteriors: Posteriors, command: str, pictures: Pictures
) -> Evaluation:
    """The result with the path of its page, which is written here. The images have labels."""
    assert posteriors.labels is not None
    done = np.flatnonzero(posteriors.done).tolist()
    scored = Scored([posteriors.ids[row] for row in done], posteriors.labels[done], posteriors.values[done])
    page = write_page(folder, result, posteriors.class_names, scored, [with_report(command, folder)], pictures)
    return replace(result, report=str(page))
