"""Boxes for images, and localisation error (Appendix A): both of the paper's protocols."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vggfeat.datasets import Dataset, Sample, load_dataset
from vggfeat.datasets.checks import checked
from vggfeat.datasets.ilsvrc import ilsvrc_numbers
from vggfeat.datasets.outage import MAX_READ_FAILURES
from vggfeat.errors import DatasetError, ImageError, UsageError
from vggfeat.inference.classes import columns_of, relabelled
from vggfeat.inference.posteriors import fuse, joined
from vggfeat.inference.scales import own_scales
from vggfeat.inference.settings import (
    LocalisationProtocol,
    LocalisedSubset,
    NetChoice,
    RunOptions,
    Scales,
    scales_of_nets,
)
from vggfeat.inference.submission import is_result_file, write_boxes
from vggfeat.metrics import TOP
from vggfeat.page.commands import localise_command, with_data, with_report
from vggfeat.page.html import check_page
from vggfeat.results import Result
from vggfeat.store import File, files_in, place_of
from vggfeat.system.arguments import with_checked_arguments
from vggfeat.system.bars import Progress, callback, with_bar
from vggfeat.system.files import check_replaceable, check_writable, is_file
from vggfeat.system.numbers import number_of

if TYPE_CHECKING:
    from vggfeat.inference.localiser import Guesses
    from vggfeat.nets.networks import VGG

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class LocalisingNet(Result):
    """One of the nets that predicted boxes."""

    net: str
    weights: str
    width: float
    scales: tuple[int, ...]
    """Smallest sides Q in pixels."""

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return super().as_json() | {"scales": list(self.scales)}


@dataclass(frozen=True)
class Localisation(Result):
    """What `localise` found; errors in %, None where nothing could be scored."""

    dataset: str
    protocol: LocalisationProtocol
    nets: tuple[LocalisingNet, ...]
    heads: tuple[str, ...]
    """ "pcr" (a box a class) or "scr" (one box for all), a net each."""
    scales: tuple[int, ...]
    """Of all nets."""
    precision: str
    """Number format of the nets, resolved."""
    flip: bool
    threshold: float | None
    """Match score up to which boxes were merged; None in protocol 1."""
    thresholds: dict[float, float]
    """Top-5 error on the images that chose the threshold, by threshold."""
    tried: int
    """Images that the nets were to look at."""
    images: int
    """Images that were scored."""
    top1_error: float | None
    top5_error: float | None
    whole_image: float | None
    """Error of the trivial answer of the whole image, with the same classes."""
    mean_box: float | None
    """Error of the trivial answer of training's mean box; None where the net does not record it."""
    failed: dict[str, str]
    """Reasons by id."""
    unlocated: int
    """Images without a box, which are not scored."""
    submission: str | None = None
    """The path of ILSVRC's result file."""
    drawn: str | None = None
    """The folder of pictures."""
    not_drawn: dict[str, str] | None = None
    """Reasons, by id, of pictures that could not be drawn."""
    report: str | None = None
    """The path of the page."""

    def as_json(self) -> dict[str, Any]:
        """Plain data; what was not asked for is left out."""
        plain = super().as_json() | {
            "nets": [net.as_json() for net in self.nets],
            "heads": list(self.heads),
            "scales": list(self.scales),
            "thresholds": {f"{threshold:g}": error for threshold, error in self.thresholds.items()},
        }
        optional = ("submission", "drawn", "not_drawn", "report")
        return {name: value for name, value in plain.items() if value is not None or name not in optional}


@with_checked_arguments
@with_bar("localise")
def localise(
    dataset: Dataset | str = "ilsvrc2012",
    *,
    data: str | Path = "data",
    subset: LocalisedSubset = "val",
    weights: Files | VGG | Sequence[VGG],
    protocol: LocalisationProtocol = "2",
    scales: Scales | None = None,
    posteriors: File | Sequence[File] | None = None,
    classifier: str | os.PathLike[str] | VGG | None = None,
    flip: bool = True,
    threshold: float | None = None,
    submission: str | Path | None = None,
    draw: str | Path | None = None,
    report: str | Path | None = None,
    max_read_failures: int = MAX_READ_FAILURES,
    device: str | None = None,
    precision: str = "auto",
    workers: int | None = None,
    progress: Progress | bool | None = True,
) -> Localisation:
    """Predicts boxes with nets that were trained for localisation, and scores them (Appendix A).

    Protocol 1: the central crop's box of the image's own class. Protocol 2: boxes over the whole image, for the five
    classes that the posteriors or the classifier prefer, merged; several nets' boxes are united before.

    Args:
        dataset: "ilsvrc2012" below `data`, or a Dataset whose samples have boxes.
        subset: "val", or "test", which has no boxes to score and needs `submission`, `threshold` and, for the classes,
            `classifier` or `posteriors`.
        weights: checkpoints of the localisation nets, or nets from `load_net`.
        scales: smallest sides Q in pixels for all nets, or a list of them for each net; by default the scale at which
            each was trained.
        posteriors: files that `evaluate` wrote (`output`), by path or as `read_descriptors` gave them; several are
            averaged.
        classifier: a checkpoint, or a net, that guesses the classes and rates each window.
        flip: in protocol 2 the mirrored images too.
        threshold: match score up to which boxes are merged; by default the best on every tenth image, which the errors
            then leave out.
        submission: write ILSVRC's result file: five classes, each with its box, an image.
        draw: write pictures with the predicted and the true boxes into this folder, at most 100. A picture that cannot
            be drawn costs nothing else.
        report: folder for a page with the errors and images with their boxes.
        max_read_failures: images in a row that cannot be read before the run stops; 0: never.
        device, precision: as `load_net` takes them.
        workers: threads that decode ahead of the nets; as many as there are cores by default.
        progress: True, a bar on terminals and in notebooks; False, none; or a function, called with (images done,
            images, images failed).

    Raises UsageError for settings that make no sense, DatasetError for the data, WeightsError for a checkpoint,
    OutageError where the images can no longer be reached.
    """
    _check(protocol, scales, posteriors, classifier, threshold, subset, submission)
    options = RunOptions(workers, max_read_failures, callback(progress))
    central = protocol == "1"
    several = isinstance(weights, Iterable) and not isinstance(weights, str | os.PathLike)
    given: list[Any] = list(weights) if several else [weights]  # type: ignore[arg-type]
    if not given:
        raise UsageError("no net to localise with: name a checkpoint that was trained for it with `weights`")
    for one in given if classifier is None else [*given, classifier]:
        if isinstance(one, str | os.PathLike):
            NetChoice(None, one).check_weights()
    with _boxes_first(given):
        numbers = None if submission is None else ilsvrc_numbers(data)
        everything = checked(dataset) if isinstance(dataset, Dataset) else _read(dataset, data, subset)
    everything = _part(everything, subset)
    located = _located(everything, subset)
    check_replaceable(submission, is_result_file, "a result file")
    check_writable(draw and Path(draw, "picture"))
    check_page(report)
    kept = [] if posteriors is None else files_in(posteriors)

    # From here on torch is needed, which takes seconds to import.
    from vggfeat.inference.drawing import draw_boxes
    from vggfeat.inference.localisation import merged_boxes, score, single_boxes
    from vggfeat.inference.localiser import Localiser, box_head

    nets = [_loaded(one, device, precision) for one in given]
    heads = [box_head(net) for net in nets]
    if central and len(nets) > 1:
        raise UsageError("protocol 1 looks at the central crop with one net: name one, or take `protocol=2`")
    of_nets = scales_of_nets([own_scales(net, "single") for net in nets] if scales is None else scales, len(nets))
    class_names = heads[0].class_names
    samples = relabelled(replace(everything, samples=located), class_names)
    flip = flip and not central
    guesses = _own_class if central else None if posteriors is None else _guesses(kept, samples, class_names)
    localiser = Localiser(
        nets,
        scales=of_nets,
        view="center" if central else "dense",
        guesses=guesses,
        classifier=None if classifier is None else _loaded(classifier, device, precision),
        flip=flip,
        exif=everything.exif,
        workers=options.threads,
    )
    try:
        if central:
            answers = single_boxes(localiser, samples, options)
        else:
            answers = merged_boxes(localiser, samples, threshold, options)
    finally:
        localiser.close()
    errors = score(samples, answers, nets[0].training_record.get("mean_box"), central=central)
    result = Localisation(
        dataset=everything.name,
        protocol=protocol,
        nets=tuple(
            LocalisingNet(net.net, net.weights_name, net.width, its) for net, its in zip(nets, of_nets, strict=True)
        ),
        heads=tuple("pcr" if head.per_class else "scr" for head in heads),
        scales=tuple(sorted({Q for its in of_nets for Q in its})),
        precision=nets[0].precision,
        flip=flip,
        threshold=answers.threshold,
        thresholds=answers.curve,
        tried=len(samples),
        images=errors.images,
        top1_error=errors.top1,
        top5_error=errors.top5,
        whole_image=errors.whole_image,
        mean_box=errors.mean_box,
        failed=answers.failed,
        unlocated=len(everything.samples) - len(located),
    )
    if submission is not None and numbers is not None:
        result = replace(result, submission=write_boxes(submission, samples, answers.by_id, class_names, numbers))
    if draw is not None:
        not_drawn = draw_boxes(Path(draw), samples, answers.by_id, class_names, exif=everything.exif)
        result = replace(result, drawn=str(draw), not_drawn=not_drawn)
    if report is not None:
        from vggfeat.page.localisation import write_page

        command = _command(weights, kept, classifier, result, threshold, subset)
        commands = [with_data(with_report(command, report), data)] if isinstance(dataset, str) else []
        page = write_page(report, result.as_json(), samples, answers.by_id, class_names, commands, everything.exif)
        result = replace(result, report=str(page))
    return result


def _command(
    weights: Any,
    posteriors: Sequence[File],
    classifier: Any,
    result: Localisation,
    threshold: float | None,
    subset: str,
) -> str:
    """The command line that repeats the run."""
    settings = {
        "protocol": result.protocol,
        "posteriors": [place_of(one) for one in posteriors],
        "classifier": _paths(classifier),
        "scales": [",".join(map(str, net.scales)) for net in result.nets],
        "precision": result.precision,
        "no-flip": not result.flip and result.protocol != "1",
        "threshold": threshold,
        "subset": subset,
    }
    return localise_command(_paths(weights), settings)


def _paths(files: Any) -> list[str]:
    """The files among one or several files or nets, as text."""
    several = isinstance(files, Iterable) and not isinstance(files, str | os.PathLike)
    return [os.fspath(one) for one in (files if several else [files]) if isinstance(one, str | os.PathLike)]


def _check(
    protocol: str,
    scales: Scales | None,
    posteriors: object,
    classifier: object,
    threshold: float | None,
    subset: str,
    submission: str | Path | None,
) -> None:
    """Refuses settings that contradict each other before anything is read."""
    if protocol not in ("1", "2"):
        raise UsageError(
            f"no protocol {protocol!r}; valid: 1 (central crop, class given), 2 (whole image, five classes)"
        )
    sources = (posteriors is not None) + (classifier is not None)
    if protocol == "2" and sources != 1:
        raise UsageError("protocol 2 takes its classes from `posteriors=FILE.h5` or from `classifier=CKPT`: give one")
    if protocol == "1" and (sources or submission is not None or subset == "test"):
        raise UsageError(
            "protocol 1 is told the class: it takes no posteriors, no classifier, no submission, no test set"
        )
    if protocol == "1" and scales is not None and len(scales_of_nets(scales, 1)[0]) != 1:
        raise UsageError("protocol 1 looks at the central crop at one scale: name one, or take `protocol=2`")
    if protocol == "1" and threshold is not None:
        raise UsageError("`threshold` goes with `protocol=2`: protocol 1 merges no boxes")
    if threshold is not None and not threshold >= 0:
        raise UsageError(f"threshold {threshold} is not 0 or more")
    if subset == "test" and (threshold is None or submission is None):
        raise UsageError("the test set has no boxes here to choose or score with: give `threshold` and `submission`")


def _part(dataset: Dataset, subset: str) -> Dataset:
    """The images of a part; all of a Dataset whose samples name no subsets."""
    if not any(sample.subset for sample in dataset.samples):
        return dataset
    return replace(dataset, samples=tuple(sample for sample in dataset.samples if sample.subset == subset))


def _located(dataset: Dataset, subset: str) -> tuple[Sample, ...]:
    """The images with a box to compare with; the test set's, whose boxes only a server has. Raises DatasetError."""
    found = tuple(sample for sample in dataset.samples if sample.boxes or subset == "test")
    if not found:
        images = number_of(len(dataset.samples), "image")
        raise DatasetError(f"{dataset.name}: none of {images} has a box to compare with")
    return found


def _read(name: str, data: str | Path, subset: str) -> Dataset:
    if name != "ilsvrc2012":
        raise UsageError(f"{name} has no bounding boxes; localisation is scored on ilsvrc2012")
    return load_dataset(name, data, parts=(subset,), boxes=subset != "test")


@contextlib.contextmanager
def _boxes_first(nets: Sequence[str | os.PathLike[str] | VGG]) -> Iterator[None]:
    """Looks at the nets where the data cannot be read: nobody should fetch ILSVRC for nets that predict no boxes."""
    try:
        yield
    except DatasetError:
        _check_boxes(nets)
        raise


def _check_boxes(nets: Sequence[str | os.PathLike[str] | VGG]) -> None:
    """Raises UsageError for the first net that is here and predicts no boxes."""
    here = [net for net in nets if not isinstance(net, str | os.PathLike) or is_file(net)]
    if here:
        from vggfeat.inference.localiser import box_head

        for net in here:
            box_head(_loaded(net, "cpu", "fp32"))


def _loaded(net: str | os.PathLike[str] | VGG, device: str | None, precision: str) -> VGG:
    """A net from its checkpoint, or itself."""
    if isinstance(net, str | os.PathLike):
        return NetChoice(None, net, device=device, precision=precision).load()[0]
    return net


def _own_class(sample: Sample) -> Guesses:
    """Protocol 1: the class is given."""
    return np.array([sample.labels], dtype=np.intp), np.ones(1)


def _guesses(
    files: Sequence[File], samples: Sequence[Sample], class_names: Sequence[str]
) -> Callable[[Sample], Guesses]:
    """Protocol 2: the five best classes of posteriors that were kept; an image that failed there fails here, too.

    Raises DatasetError for an image that the files do not have.
    """
    paths = [place_of(file) for file in files]
    fused = fuse(joined(files))
    columns = columns_of(class_names, fused.class_names, ", ".join(map(str, paths)))
    rows = {id: row for row, id in enumerate(fused.ids)}
    missing = next((sample.id for sample in samples if sample.id not in rows), None)
    if missing is not None:
        raise DatasetError(f"{paths[0]} has no posteriors of {missing}: not in the file")

    def of(sample: Sample) -> Guesses:
        if sample.id in fused.failures:
            raise ImageError(f"no posteriors: {fused.failures[sample.id]}")
        posteriors = fused.values[rows[sample.id]][columns].astype(np.float64)
        best = np.argsort(-posteriors, kind="stable")[:TOP]
        return best, posteriors[best]

    return of
