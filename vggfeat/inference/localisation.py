"""Candidate boxes -> answers: the merging threshold, each class's box, and the localisation error (Appendix A)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from vggfeat.boxes import Boxes
from vggfeat.datasets import Sample
from vggfeat.datasets.outage import until_outage
from vggfeat.errors import DatasetError
from vggfeat.inference.blocks import describe_blocks
from vggfeat.inference.localiser import Localiser, best_boxes
from vggfeat.inference.settings import RunOptions
from vggfeat.metrics import TOP, localisation_error, percent

THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0)
"""Match scores up to which boxes may be merged; the validation part says which is best."""

VALIDATION_STEP = 10
"""Every tenth image, evenly over the list, chooses the threshold and is left out of the errors."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What was found for one image: (k,) classes and (k, 4) boxes in pixels."""

    size: tuple[int, int]
    classes: NDArray[np.intp]
    boxes: Boxes


@dataclass(frozen=True)
class Answers:
    """What was found for all images."""

    by_id: dict[str, Answer]
    failed: dict[str, str]
    """Reasons by id."""
    threshold: float | None = None
    """Match score up to which boxes were merged; None where there was one box a class."""
    curve: dict[float, float] = field(default_factory=dict)
    """Top-5 error in % on the validation part, by threshold; empty where the threshold was given."""
    chose: frozenset[str] = frozenset()
    """Ids of the validation part; empty where the threshold was given."""


def single_boxes(localiser: Localiser, samples: Sequence[Sample], options: RunOptions) -> Answers:
    """Each image's only box (protocol 1): nothing is merged."""
    found = _proposed(localiser, samples, [0.0], options)
    return Answers({id: one.at(0) for id, one in found.by_id.items()}, found.failed)


def merged_boxes(
    localiser: Localiser, samples: Sequence[Sample], threshold: float | None, options: RunOptions
) -> Answers:
    """Each guessed class's best box once close ones are merged (protocol 2).

    `threshold`: match score up to which boxes are merged; None: the one that is best on every tenth image, which comes
    first. Raises DatasetError where none of these can be read.
    """
    if threshold is not None:
        found = _proposed(localiser, samples, [threshold], options)
        return Answers({id: one.at(0) for id, one in found.by_id.items()}, found.failed, threshold)
    part = samples[::VALIDATION_STEP]
    chose = frozenset(sample.id for sample in part)
    rest = [sample for sample in samples if sample.id not in chose]
    tried = _proposed(localiser, part, THRESHOLDS, options, of=len(samples))
    threshold, curve = _best_threshold(part, tried.by_id)
    found = _proposed(localiser, rest, [threshold], options, before=len(part), failures=len(tried.failed))
    place = THRESHOLDS.index(threshold)
    by_id = {id: one.at(place) for id, one in tried.by_id.items()} | {id: one.at(0) for id, one in found.by_id.items()}
    return Answers(by_id, tried.failed | found.failed, threshold, curve, chose)


def error_of(samples: Sequence[Sample], answers: Sequence[Answer], k: int) -> float:
    """Localisation error in % of the first k guesses, for labelled samples with boxes."""
    truth = [np.array(s.boxes) * (a.size * 2) for s, a in zip(samples, answers, strict=True)]
    classes, boxes = np.array([a.classes for a in answers]), np.array([a.boxes for a in answers])
    labels = [int(s.labels) for s in samples]  # type: ignore[arg-type]  # single-label
    return percent(localisation_error(labels, truth, classes, boxes, min(k, classes.shape[1])))


@dataclass(frozen=True)
class BoxErrors:
    """Localisation errors in %, each None where nothing could be scored."""

    images: int
    top1: float | None
    top5: float | None
    """None in protocol 1."""
    whole_image: float | None
    """Of answering with the whole image, the classes being the same."""
    mean_box: float | None
    """Of answering with training's mean box; None where the net does not record it."""


def score(samples: Sequence[Sample], answers: Answers, mean_box: Sequence[float] | None, *, central: bool) -> BoxErrors:
    """The errors beside those of two trivial answers, on images that have boxes and did not choose the threshold.

    `central`: protocol 1, whose only guess is the image's own class.
    """
    scored = [s for s in samples if s.boxes and s.id in answers.by_id and s.id not in answers.chose]
    found = [answers.by_id[sample.id] for sample in scored]
    most = 1 if central else TOP

    def always(box: Sequence[float]) -> float | None:
        given = [replace(a, boxes=np.tile(np.array(box) * (a.size * 2), (len(a.classes), 1))) for a in found]
        return error_of(scored, given, most) if scored else None

    return BoxErrors(
        len(scored),
        error_of(scored, found, 1) if scored else None,
        error_of(scored, found, TOP) if scored and not central else None,
        always((0, 0, 1, 1)),
        None if mean_box is None else always(mean_box),
    )


@dataclass(frozen=True)
class _Proposal:
    """One image's boxes at several thresholds."""

    size: tuple[int, int]
    classes: NDArray[np.intp]
    boxes: Boxes
    """(T, k, 4)."""

    def at(self, place: int) -> Answer:
        return Answer(self.size, self.classes, self.boxes[place])


@dataclass(frozen=True)
class _Proposed:
    by_id: dict[str, _Proposal]
    failed: dict[str, str]


def _proposed(
    localiser: Localiser,
    samples: Sequence[Sample],
    thresholds: Sequence[float],
    options: RunOptions,
    *,
    before: int = 0,
    failures: int = 0,
    of: int | None = None,
) -> _Proposed:
    """Runs the nets. `before` and `failures` count images of an earlier part, `of` all images, for the progress."""
    total = before + len(samples) if of is None else of
    by_id: dict[str, _Proposal] = {}
    failed: dict[str, str] = {}
    blocks = describe_blocks(localiser, samples)
    for rows, located in until_outage(blocks, samples, options.max_read_failures, resumable=False):
        merged = best_boxes(located.candidates, thresholds)
        for one, boxes in zip(located.candidates, merged, strict=True):
            by_id[one.id] = _Proposal(one.size, one.classes, boxes)
        failed |= {samples[rows.start + row].id: reason for row, reason in located.failures.items()}
        if options.progress is not None:
            options.progress(before + rows.stop, total, failures + len(failed))
    return _Proposed(by_id, failed)


def _best_threshold(samples: Sequence[Sample], proposals: Mapping[str, _Proposal]) -> tuple[float, dict[float, float]]:
    """The threshold of least error (the lowest of equals), and the error in % of each."""
    if not proposals:
        raise DatasetError("no image of the part that chooses the threshold could be read: give `threshold`")
    there = [sample for sample in samples if sample.id in proposals]
    curve = {
        threshold: error_of(there, [proposals[sample.id].at(place) for sample in there], TOP)
        for place, threshold in enumerate(THRESHOLDS)
    }
    return min(curve, key=lambda threshold: curve[threshold]), curve
