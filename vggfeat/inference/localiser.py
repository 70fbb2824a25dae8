"""Images -> candidate boxes of localisation nets: the central crop, or densely over whole images (Appendix A)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from vggfeat.boxes import Boxes, best_merged, clip, from_targets
from vggfeat.datasets import Sample
from vggfeat.datasets.decoding import Decoded
from vggfeat.datasets.images import rescaled_size
from vggfeat.errors import ImageError, UsageError
from vggfeat.inference.classes import columns_of
from vggfeat.inference.crops import centre_crop
from vggfeat.inference.dense import DenseNet
from vggfeat.inference.runner import Rescaled, Runner, Wanted
from vggfeat.inference.settings import Scales, scales_of_nets
from vggfeat.metrics import TOP
from vggfeat.nets.catalog import INPUT_SIDE, STRIDE
from vggfeat.nets.networks import VGG
from vggfeat.system.numbers import number_of

TOGETHER = 4
"""Images whose boxes are merged side by side: more of them leave the processor's cache."""

Guesses = tuple[NDArray[np.intp], NDArray[np.float64]]
"""(k,) classes, surest first, and their posteriors."""


@dataclass(frozen=True)
class BoxHead:
    """What the last layer of a localisation net predicts."""

    class_names: tuple[str, ...]
    per_class: bool
    """PCR: a box a class; otherwise SCR, one box shared by all."""


def box_head(net: VGG) -> BoxHead:
    """What a checkpoint trained for localisation records. Raises UsageError for a net that predicts no boxes."""
    recipe = net.training_record.get("recipe")
    if not isinstance(recipe, Mapping) or recipe.get("task") != "localise":
        raise UsageError(f"{net.weights_name} predicts classes, no boxes", advice="train boxes")
    head = BoxHead(tuple(net.training_record["class_names"]), recipe["localise"]["head"] == "pcr")
    if net.num_classes != (4 * len(head.class_names) if head.per_class else 4):
        raise UsageError(
            f"{net.weights_name}: {number_of(net.num_classes, 'output does', 'outputs do')} not fit its "
            f"{number_of(len(head.class_names), 'class')}"
        )
    return head


@dataclass(frozen=True)
class Candidates:
    """All boxes that the nets propose for one image."""

    id: str
    size: tuple[int, int]
    """The image's (width, height)."""
    classes: NDArray[np.intp]
    """(k,) guessed classes, surest first."""
    boxes: Boxes
    """(k, n, 4) in the image's pixels, cut at its border: one a window, scale, mirroring and net."""
    ratings: NDArray[np.float64]
    """(k, n) the class's posterior at each box's window."""


def best_boxes(candidates: Sequence[Candidates], thresholds: Sequence[float]) -> list[Boxes]:
    """For each image, (T, k, 4): at each of rising thresholds, each class's best rated box once close ones are merged.

    Images with equal numbers of boxes are merged side by side, which takes half the time and changes no box.
    """
    found: dict[int, Boxes] = {}
    for shape in dict.fromkeys(image.boxes.shape for image in candidates):
        rows = [row for row, image in enumerate(candidates) if image.boxes.shape == shape]
        for start in range(0, len(rows), TOGETHER):
            some = rows[start : start + TOGETHER]
            boxes, ratings = (
                np.concatenate([getattr(candidates[row], name) for row in some]) for name in ("boxes", "ratings")
            )
            found |= zip(some, np.split(best_merged(boxes, ratings, thresholds), len(some), axis=1), strict=True)
    return [found[row] for row in range(len(candidates))]


@dataclass(frozen=True)
class Outputs:
    """What the nets gave for some images; on a GPU perhaps still being computed."""

    images: list[tuple[Sample, tuple[int, int]]]
    """Each with its (width, height)."""
    boxes: list[list[list[Tensor]]]
    """By net, its views (scale and mirroring) and image: (h w, outputs)."""
    scores: list[list[Tensor]]
    """The classifier's by view and image; empty without a classifier."""


@dataclass(frozen=True)
class Located:
    """The results of some samples."""

    candidates: list[Candidates]
    """Of the images that did not fail, in order."""
    failures: dict[int, str]
    """Reasons by row."""
    unread: frozenset[int]
    """Failures that are not the images' fault: their bytes could not be read."""


class Localiser(Runner[Outputs, Located]):
    """Runs localisation nets, and perhaps a classifier, over samples.

    Args:
        nets: trained for localisation, on the same classes.
        scales: smallest sides Q in pixels for all nets, or a list of them for each net.
        view: "dense", each window of the whole image, or "center", the central crop alone.
        guesses: an image's classes; None: the classifier's five best.
        classifier: runs at all of the nets' scales and rates each window with its posterior there; without it every
            window has the guess's posterior.
        flip: the mirrored images too (dense view).
        exif: honour the EXIF orientation.
        workers: threads that decode and rescale ahead of the nets.

    Raises UsageError for nets that predict no boxes, for classes that differ, and for scales that make no sense.
    """

    def __init__(
        self,
        nets: Sequence[VGG],
        *,
        scales: Scales,
        view: Literal["dense", "center"] = "dense",
        guesses: Callable[[Sample], Guesses] | None = None,
        classifier: VGG | None = None,
        flip: bool = True,
        exif: bool = False,
        workers: int = 2,
    ) -> None:
        heads = [box_head(net) for net in nets]
        self.class_names = heads[0].class_names
        self._columns = [
            columns_of(self.class_names, head.class_names, net.weights_name) if head.per_class else None
            for head, net in zip(heads, nets, strict=True)
        ]
        self._nets = [DenseNet(net, "scores") for net in nets]
        self._rater: list[DenseNet] = []
        self._score_columns = np.empty(0, dtype=np.intp)
        if classifier is not None:
            self._rater = [DenseNet(classifier, "scores")]
            self._score_columns = columns_of(self.class_names, classifier.class_names, classifier.weights_name)
        elif guesses is None:
            raise UsageError("localisation needs guesses of the classes: a classifier, or posteriors")
        self._guesses, self._view = guesses, view
        mirrorings = (False, True) if flip else (False,)
        of_nets = scales_of_nets(scales, len(nets))
        self._views_of = [[(Q, mirrored) for Q in its for mirrored in mirrorings] for its in of_nets]
        self._views = list(dict.fromkeys(view for its in self._views_of for view in its))
        dense = (*self._nets, *self._rater)
        wanted: list[Wanted] = [("image", net.filter, Q) for net in dense for Q, _ in self._views]
        super().__init__(dense, wanted, exif=exif, workers=workers)

    def run(self, rescaled: Sequence[Rescaled]) -> Outputs:
        """Every net at each of its views, the classifier at all of them."""
        boxes = [
            [self._maps(net, rescaled, *view) for view in its]
            for net, its in zip(self._nets, self._views_of, strict=True)
        ]
        scores = [self._maps(net, rescaled, *view) for net in self._rater for view in self._views]
        return Outputs([(one.sample, one.size) for one in rescaled], boxes, scores)

    def gather(self, decoded: Decoded, work: Outputs) -> Located:
        """The candidates of each image."""
        found, failures = [], dict(decoded.failures)
        for row, (sample, size) in enumerate(work.images):
            outputs = [[view[row].cpu().numpy().astype(np.float64) for view in net] for net in work.boxes]
            scores = [view[row].cpu().numpy().astype(np.float64) for view in work.scores]
            if not all(np.isfinite(values).all() for values in (*scores, *(v for net in outputs for v in net))):
                failures[decoded.rows[row]] = "the net's outputs are not finite"
                continue
            try:
                found.append(self._candidates(sample, size, outputs, scores))
            except ImageError as error:  # its classes are not known
                failures[decoded.rows[row]] = str(error)
        return Located(found, failures, decoded.unread)

    def _maps(self, net: DenseNet, rescaled: Sequence[Rescaled], Q: int, mirrored: bool) -> list[Tensor]:
        pictures = [one.pictures["image", net.filter, Q] for one in rescaled]
        if self._view == "center":
            pictures = [centre_crop(picture) for picture in pictures]
        return net.maps(pictures, flip=mirrored)

    def _candidates(
        self, sample: Sample, size: tuple[int, int], outputs: Sequence[Sequence[Boxes]], scores: Sequence[Boxes]
    ) -> Candidates:
        """One image's boxes of its guessed classes, from its maps: by net and view, and by view."""
        posteriors = [softmax(view, axis=1)[:, self._score_columns] for view in scores]  # by view (h w, K)
        if self._guesses is None:
            whole = np.mean([softmax(view.mean(axis=0))[self._score_columns] for view in scores], axis=0)
            classes = np.argsort(-whole, kind="stable")[:TOP]
        else:
            classes, given = self._guesses(sample)
        boxes, ratings = [], []
        for net, views, columns in zip(outputs, self._views_of, self._columns, strict=True):
            for (Q, mirrored), values in zip(views, net, strict=True):
                windows = self._windows(size, Q, mirrored)  # (h w, 4)
                its_own = values.reshape(len(windows), 1, 4) if columns is None else values.reshape(len(windows), -1, 4)
                of_classes = its_own[:, np.zeros(len(classes), dtype=int) if columns is None else columns[classes]]
                boxes.append(from_targets(of_classes, windows[:, None], mirrored))  # (h w, k, 4)
                if posteriors:
                    ratings.append(posteriors[self._views.index((Q, mirrored))][:, classes])
                else:
                    ratings.append(np.broadcast_to(given, (len(windows), len(classes))))
        all_boxes = clip(np.concatenate(boxes).transpose(1, 0, 2), size)
        return Candidates(sample.id, size, classes, all_boxes, np.concatenate(ratings).T)

    def _windows(self, size: tuple[int, int], Q: int, mirrored: bool) -> Boxes:
        """Where the windows lie in the image, in its pixels: (h w, 4), in the order of the net's map."""
        width, height = rescaled_size(*size, Q)
        if self._view == "center":
            left, top = np.array([(width - INPUT_SIDE) // 2]), np.array([(height - INPUT_SIDE) // 2])
        else:
            left, top = (STRIDE * np.arange(positions(side)) for side in (width, height))
        if mirrored:
            left = width - INPUT_SIDE - left
        corners = np.stack([a.ravel() for a in np.meshgrid(left, top)], axis=1).astype(np.float64)  # row by row
        scale = np.array([size[0] / width, size[1] / height])
        return np.concatenate([corners * scale, (corners + INPUT_SIDE) * scale], axis=1)


def positions(side: int) -> int:
    """Windows along a side of `side` pixels: five poolings that round up, then a window of 7."""
    return -(-side // STRIDE) - INPUT_SIDE // STRIDE + 1
