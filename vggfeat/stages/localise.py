"""Boxes for images, and localisation error (Appendix A): both of the paper's protocols."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vggfeat.boxes import Boxes
from vggfeat.datasets import Dataset, Sample, images, load_dataset
from vggfeat.datasets.ilsvrc import ilsvrc_numbers
from vggfeat.datasets.outage import MAX_READ_FAILURES, until_outage
from vggfeat.errors import DatasetError, ImageError, UsageError
from vggfeat.inference.blocks import blocks_of, describe_blocks
from vggfeat.inference.localiser import (
    BoxHead,
    Candidates,
    Guesses,
    Localiser,
    Scales,
    best_boxes,
    box_head,
    columns_of,
    scales_of_nets,
)
from vggfeat.inference.posteriors import TOP, fuse, joined, training_scale
from vggfeat.metrics import localisation_error
from vggfeat.nets.networks import VGG
from vggfeat.nets.weights import load_net
from vggfeat.system.files import check_writable, replacing
from vggfeat.system.launch import default_workers

THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0)
"""Match scores up to which boxes may be merged; the validation part says which is best."""

VALIDATION_STEP = 10
"""One image in so many, evenly over the list, chooses the threshold and is left out of the errors."""

DRAWN = 100
"""Pictures that are drawn, evenly over the list."""

Protocol = Literal["1", "2"]
Progress = Callable[[int, int, int], None]
Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def localise(
    dataset: Dataset | str = "ilsvrc2012",
    *,
    data: str | Path = "data",
    subset: Literal["val", "test"] = "val",
    weights: Files | VGG | Sequence[VGG],
    protocol: Protocol = "2",
    scales: Scales | None = None,
    posteriors: Files | None = None,
    classifier: str | os.PathLike[str] | VGG | None = None,
    flip: bool = True,
    threshold: float | None = None,
    submission: str | Path | None = None,
    draw: str | Path | None = None,
    max_read_failures: int = MAX_READ_FAILURES,
    device: str | None = None,
    precision: str = "auto",
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Predicts boxes with nets of `train --task localise` and scores them.

    Protocol 1: the central crop's box of the image's own class. Protocol 2: boxes over the whole image, for the five
    classes that the posteriors or the classifier prefer, merged; several nets' boxes are united before.

    Args:
        dataset: "ilsvrc2012" below `data`, or a Dataset whose samples have boxes.
        subset: "val", or "test", which has no boxes to score and needs `submission`, `threshold` and, for the classes,
            `classifier` or `posteriors`.
        weights: checkpoints of the localisation nets, or nets from `load_net`.
        scales: smallest sides Q in pixels for all nets, or a list of them for each net; by default the one that each
            was trained at.
        posteriors: files of `evaluate -o`; several are averaged.
        classifier: a checkpoint, or a net, that guesses the classes and rates each window.
        flip: in protocol 2 the mirrored images too.
        threshold: match score up to which boxes are merged; by default the one that is best on every tenth image,
            which the errors then leave out.
        submission: write ILSVRC's result file: five classes, each with its box, an image.
        draw: write pictures with the predicted and the true boxes into this folder, at most 100. One that cannot be
            drawn costs nothing else.
        max_read_failures: images in a row that cannot be read before the run stops; 0: never.
        device, precision: as `load_net` takes them.
        workers: threads that decode ahead of the nets; as many as there are cores by default.
        progress: called with (images done, images, images failed).

    Returns:
        Plain data: `dataset`, `protocol`, `nets` (with their `scales`), `scales` (of them all), `flip`, `threshold`,
        `thresholds` (top-5 error in % on the images that chose, by threshold), `tried` (images that the nets were to
        look at), `images` (scored), `top1_error`,
        `top5_error`, and of the two trivial answers `whole_image` and `mean_box` with the same classes; errors in %.
        `failed` (reasons by id), `unlocated` (images without a box, which are not scored), `submission`, `drawn` (the
        folder), `not_drawn` (reasons by id).

    Raises UsageError for settings that make no sense, DatasetError for the data, WeightsError for a checkpoint,
    OutageError where the images can no longer be reached.
    """
    _check(protocol, scales, posteriors, classifier, threshold, subset, submission)
    numbers = None if submission is None else ilsvrc_numbers(data)
    everything = dataset if isinstance(dataset, Dataset) else _read(dataset, data, subset)
    located = tuple(sample for sample in everything.samples if sample.boxes or subset == "test")
    if not located:
        raise DatasetError(f"{everything.name}: none of {len(everything.samples)} images has a box to compare with")
    check_writable(submission, draw and Path(draw, "picture"))
    nets = _nets(weights, device, precision)
    heads = [box_head(net) for net in nets]
    if protocol == "1" and len(nets) > 1:
        raise UsageError("protocol 1 looks at the central crop with one net: name one, or take --protocol 2")
    of_nets = scales_of_nets([(_trained_at(net),) for net in nets] if scales is None else scales, len(nets))
    samples = _in_classes(replace(everything, samples=located), heads[0])
    run = _Run(
        samples,
        heads[0].class_names,
        tuple(sorted({Q for its in of_nets for Q in its})),
        protocol == "1",
        flip and protocol == "2",
        everything.exif,
        max_read_failures,
    )
    rater = (
        classifier
        if isinstance(classifier, VGG) or classifier is None
        else load_net(None, classifier, device=device, precision=precision)
    )
    localiser = Localiser(
        nets,
        scales=of_nets,
        view="center" if run.central else "dense",
        guesses=_own_class if run.central else None if posteriors is None else _guesses(posteriors, samples, heads[0]),
        classifier=rater,
        flip=run.flip,
        exif=everything.exif,
        workers=workers or default_workers(),
    )
    try:
        answers = run.answers(localiser, threshold, progress)
    finally:
        localiser.close()
    result = run.scored(answers, nets[0].training_record.get("mean_box")) | {
        "dataset": everything.name,
        "nets": [
            {"net": net.net, "weights": net.weights_name, "width": net.width, "scales": list(its)}
            for net, its in zip(nets, of_nets, strict=True)
        ],
        "heads": ["pcr" if head.per_class else "scr" for head in heads],
        "unlocated": len(everything.samples) - len(located),
    }
    if submission is not None and numbers is not None:
        _write_submission(submission, samples, answers, run.class_names, numbers)
        result["submission"] = str(submission)
    if draw is not None:
        result |= {"drawn": str(draw), "not_drawn": run.draw(Path(draw), answers)}
    return result


@dataclass(frozen=True)
class Answer:
    """What was found for one image: (k,) classes and (k, 4) boxes in pixels."""

    size: tuple[int, int]
    classes: NDArray[np.intp]
    boxes: Boxes


@dataclass
class Answers:
    """Those of all images."""

    by_id: dict[str, Answer]
    failed: dict[str, str]
    threshold: float | None
    curve: dict[float, float]
    """Top-5 error in % on the validation part, by threshold."""
    chose: frozenset[str]
    """Ids of the validation part; empty where the threshold was given."""


@dataclass(frozen=True)
class _Run:
    """One protocol on one list of images, whose labels are the nets' classes."""

    samples: tuple[Sample, ...]
    class_names: tuple[str, ...]
    scales: tuple[int, ...]
    central: bool
    flip: bool
    exif: bool
    max_read_failures: int

    def answers(self, localiser: Localiser, threshold: float | None, progress: Progress | None) -> Answers:
        """Runs the nets over all images; those that choose the threshold come first."""
        single = self.central  # one box a class: nothing to merge
        chosen = self.samples[::VALIDATION_STEP] if threshold is None and not single else ()
        ids = frozenset(sample.id for sample in chosen)
        rest = tuple(sample for sample in self.samples if sample.id not in ids)
        answers = Answers({}, {}, threshold, {}, ids)
        proposals: list[tuple[Candidates, Boxes]] = []
        proposals.extend(self._merged(localiser, chosen, THRESHOLDS, answers, progress))
        if chosen:
            answers.threshold, answers.curve = self._choose(proposals)
            place = THRESHOLDS.index(answers.threshold)
            for candidates, best in proposals:
                answers.by_id[candidates.id] = Answer(candidates.size, candidates.classes, best[place])
        fixed = [0.0 if answers.threshold is None else answers.threshold]
        for candidates, (best,) in self._merged(localiser, rest, fixed, answers, progress):
            answers.by_id[candidates.id] = Answer(candidates.size, candidates.classes, best)
        return answers

    def draw(self, folder: Path, answers: Answers) -> dict[str, str]:
        """Draws some of the pictures, evenly over the list, and says which could not be, and why."""
        failed = {}
        for sample in self.samples[:: max(1, -(-len(self.samples) // DRAWN))]:
            if sample.id in answers.by_id:
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    self._draw(folder, sample, answers.by_id[sample.id])
                except (ImageError, OSError) as error:  # the picture has gone, or the disk is full
                    failed[sample.id] = str(error)
        return failed

    def _merged(
        self,
        localiser: Localiser,
        samples: tuple[Sample, ...],
        thresholds: Sequence[float],
        answers: Answers,
        progress: Progress | None,
    ) -> Iterator[tuple[Candidates, Boxes]]:
        blocks = describe_blocks(localiser, samples, blocks_of(len(samples)))
        for rows, located in until_outage(blocks, samples, self.max_read_failures, resumable=False):
            yield from zip(located.candidates, best_boxes(located.candidates, thresholds), strict=True)
            answers.failed |= {samples[rows.start + row].id: reason for row, reason in located.failures.items()}
            if progress is not None:
                before = len(self.samples) - len(samples) if answers.curve else 0
                progress(before + rows.stop, len(self.samples), len(answers.failed))

    def _choose(self, proposals: Sequence[tuple[Candidates, Boxes]]) -> tuple[float, dict[float, float]]:
        """The threshold of least error (the lowest of equals), and the error in % of each."""
        if not proposals:
            raise DatasetError("no image of the part that chooses the threshold could be read: give --threshold")
        of = {sample.id: sample for sample in self.samples}
        curve = {
            threshold: self._error(
                [of[c.id] for c, _ in proposals], [Answer(c.size, c.classes, best[place]) for c, best in proposals], TOP
            )
            for place, threshold in enumerate(THRESHOLDS)
        }
        return min(curve, key=lambda threshold: curve[threshold]), curve

    def _error(self, samples: Sequence[Sample], answers: Sequence[Answer], k: int) -> float:
        """In %."""
        truth = [np.array(s.boxes) * (a.size * 2) for s, a in zip(samples, answers, strict=True)]
        classes, boxes = np.array([a.classes for a in answers]), np.array([a.boxes for a in answers])
        labels = [int(s.labels) for s in samples]  # type: ignore[arg-type]  # single-label
        return 100 * localisation_error(labels, truth, classes, boxes, min(k, classes.shape[1]))

    def scored(self, answers: Answers, mean_box: Sequence[float] | None) -> dict[str, Any]:
        """The errors, beside those of the trivial answers."""
        scored = [s for s in self.samples if s.boxes and s.id in answers.by_id and s.id not in answers.chose]
        found = [answers.by_id[sample.id] for sample in scored]

        def always(box: Sequence[float]) -> list[Answer]:
            return [replace(a, boxes=np.tile(np.array(box) * (a.size * 2), (len(a.classes), 1))) for a in found]

        def error(given: list[Answer], k: int) -> float | None:
            return self._error(scored, given, k) if scored else None

        return {
            "protocol": "1" if self.central else "2",
            "scales": list(self.scales),
            "flip": self.flip,
            "threshold": None if self.central else answers.threshold,
            "thresholds": {f"{threshold:g}": value for threshold, value in answers.curve.items()},
            "tried": len(self.samples),
            "images": len(scored),
            "top1_error": error(found, 1),
            "top5_error": None if self.central else error(found, TOP),
            "whole_image": error(always((0, 0, 1, 1)), 1 if self.central else TOP),
            "mean_box": None if mean_box is None else error(always(mean_box), 1 if self.central else TOP),
            "failed": answers.failed,
        }

    def _draw(self, folder: Path, sample: Sample, answer: Answer) -> None:
        """The true boxes in white, the surest guess's in colour: green where it is right."""
        right = bool(sample.boxes) and self._error([sample], [answer], 1) == 0
        true = [((np.array(box) * (answer.size * 2)).tolist(), "white", "") for box in sample.boxes]
        name = self.class_names[answer.classes[0]]
        guess = (answer.boxes[0].tolist(), "lime" if right else "orange", name)
        picture = images.decode(sample.source(), exif=self.exif)
        file = folder / Path(sample.id.replace("/", "_")).with_suffix(".jpg")
        images.write_outlined(file, picture, [*true, guess])


def _check(
    protocol: str,
    scales: Scales | None,
    posteriors: Files | None,
    classifier: object,
    threshold: float | None,
    subset: str,
    submission: str | Path | None,
) -> None:
    if protocol not in ("1", "2"):
        raise UsageError(
            f"no protocol {protocol!r}; valid: 1 (central crop, class given), 2 (whole image, five classes)"
        )
    sources = (posteriors is not None) + (classifier is not None)
    if protocol == "2" and sources != 1:
        raise UsageError("protocol 2 takes its classes from --posteriors FILE.h5 or from --classifier CKPT: give one")
    if protocol == "1" and (sources or submission is not None or subset == "test"):
        raise UsageError(
            "protocol 1 is told the class: it takes no posteriors, no classifier, no submission, no test set"
        )
    if protocol == "1" and scales is not None and len(scales_of_nets(scales, 1)[0]) != 1:
        raise UsageError("protocol 1 looks at the central crop at one scale: name one, or take --protocol 2")
    if threshold is not None and not threshold >= 0:
        raise UsageError(f"threshold {threshold} is not 0 or more")
    if subset == "test" and (threshold is None or submission is None):
        raise UsageError("the test set has no boxes here to choose or score with: give --threshold and --submission")


def _read(name: str, data: str | Path, subset: str) -> Dataset:
    if name != "ilsvrc2012":
        raise UsageError(f"{name} has no bounding boxes; localisation is scored on ilsvrc2012")
    return load_dataset(name, data, parts=(subset,), boxes=subset != "test")


def _nets(weights: Files | VGG | Sequence[VGG], device: str | None, precision: str) -> list[VGG]:
    given = [weights] if isinstance(weights, VGG | str | os.PathLike) else list(weights)
    if not given:
        raise UsageError("no net to localise with: name a checkpoint of train --task localise by --weights")
    return [one if isinstance(one, VGG) else load_net(None, one, device=device, precision=precision) for one in given]


def _trained_at(net: VGG) -> int:
    S = training_scale(net.weights_name, net.training_record)
    if S is None:
        raise UsageError(f"{net.weights_name} does not say at which scale it was trained: give --scales, such as 256")
    return sum(S) // 2


def _in_classes(dataset: Dataset, head: BoxHead) -> tuple[Sample, ...]:
    """The samples with the nets' class numbers as labels. Raises DatasetError for a class that the nets lack."""
    lacking = next((name for name in dataset.class_names if name not in head.class_names), None)
    if lacking is not None:
        raise DatasetError(f"the localisation net has no class {lacking!r}, which {dataset.name} has")
    place = {label: head.class_names.index(name) for label, name in enumerate(dataset.class_names)}
    return tuple(
        sample if sample.labels is None else replace(sample, labels=place[sample.labels])  # type: ignore[index]
        for sample in dataset.samples
    )


def _own_class(sample: Sample) -> Guesses:
    """Protocol 1: the class is given."""
    return np.array([sample.labels], dtype=np.intp), np.ones(1)


def _guesses(files: Files, samples: Sequence[Sample], head: BoxHead) -> Callable[[Sample], Guesses]:
    """Protocol 2: the five best classes of posteriors that were kept. Raises DatasetError for an image without any."""
    paths = [files] if isinstance(files, str | os.PathLike) else list(files)
    fused = fuse(joined([Path(path) for path in paths]))
    columns = columns_of(head.class_names, fused.class_names, ", ".join(map(str, paths)))
    rows = {id: row for row, id in enumerate(fused.ids) if id not in fused.failures}
    missing = next((sample.id for sample in samples if sample.id not in rows), None)
    if missing is not None:
        reason = fused.failures.get(missing, "not in the file")
        raise DatasetError(f"{paths[0]} has no posteriors of {missing}: {reason}")

    def of(sample: Sample) -> Guesses:
        posteriors = fused.values[rows[sample.id]][columns].astype(np.float64)
        best = np.argsort(-posteriors, kind="stable")[:TOP]
        return best, posteriors[best]

    return of


def _write_submission(
    path: str | Path, samples: Sequence[Sample], answers: Answers, class_names: Sequence[str], numbers: dict[str, int]
) -> None:
    """A line an image in the list's order: class number, xmin, ymin, xmax, ymax for each guess, surest first.

    Pixels are ILSVRC's own: 0-based and inclusive. A failed image's line guesses class 0, which is none.
    """
    strange = next((name for name in class_names if name not in numbers), None)
    if strange is not None:
        raise DatasetError(f"class {strange!r} has no ILSVRC2012_ID, so no submission can name it")
    lines = []
    for sample in samples:
        answer = answers.by_id.get(sample.id)
        if answer is None:
            lines.append(" ".join(["0 0 0 0 0"] * TOP))
            continue
        corners = np.rint(answer.boxes).astype(int) - (0, 0, 1, 1)
        corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2])  # at least one pixel
        lines.append(
            " ".join(
                f"{numbers[class_names[label]]} {' '.join(map(str, corner))}"
                for label, corner in zip(answer.classes, corners.tolist(), strict=True)
            )
        )
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
