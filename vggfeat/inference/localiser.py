"""Images -> candidate boxes of localisation nets: the central crop, or densely over whole images (Appendix A)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from vggfeat.boxes import Boxes, best_merged, clip, from_targets
from vggfeat.datasets import Sample, images
from vggfeat.datasets.decoding import Decoded, Decoders, collected
from vggfeat.datasets.images import Picture, rescaled_size
from vggfeat.errors import UsageError
from vggfeat.inference.dense import DenseNet
from vggfeat.inference.posteriors import TOP
from vggfeat.inference.scorer import centre_crop
from vggfeat.nets.catalog import INPUT_SIDE, Filter
from vggfeat.nets.networks import VGG
from vggfeat.store.pooling import check_scales

STRIDE = 32
"""Pixels between neighbouring windows of the dense form: five poolings by 2."""

TOGETHER = 4
"""Images whose boxes are merged side by side: more of them leave the processor's cache."""

Scales = Sequence[int] | Sequence[Sequence[int]]
"""Smallest sides Q in pixels for all nets, or a list of them for each net."""

Guesses = tuple[NDArray[np.intp], NDArray[np.float64]]
"""(k,) classes, surest first, and their posteriors."""


@dataclass(frozen=True)
class BoxHead:
    """What the last layer of a localisation net predicts."""

    class_names: tuple[str, ...]
    per_class: bool
    """PCR: a box a class; otherwise SCR, one box shared by all."""


def box_head(net: VGG) -> BoxHead:
    """What a checkpoint of `train --task localise` says of itself. UsageError for a net that predicts no boxes."""
    recipe = net.training_record.get("recipe")
    if not isinstance(recipe, Mapping) or recipe.get("task") != "localise":
        raise UsageError(
            f"{net.weights_name} predicts classes, no boxes: 'vggfeat train --task localise' makes a net that does"
        )
    head = BoxHead(tuple(net.training_record["class_names"]), recipe["localise"]["head"] == "pcr")
    if net.num_classes != (4 * len(head.class_names) if head.per_class else 4):
        raise UsageError(
            f"{net.weights_name}: {net.num_classes} outputs do not fit its {len(head.class_names)} classes"
        )
    return head


def scales_of_nets(scales: Scales, nets: int) -> list[tuple[int, ...]]:
    """For each of so many nets its own smallest sides. Raises UsageError where they make no sense."""
    lists = [tuple(one) if isinstance(one, Sequence) else (one,) for one in scales]
    if not any(isinstance(one, Sequence) for one in scales):
        lists = [tuple(Q for one in lists for Q in one)]
    for one in lists:
        check_scales(one)
    if len(lists) not in (1, nets):
        of = "1 net" if nets == 1 else f"{nets} nets"
        raise UsageError(f"{len(lists)} lists of scales for {of}: give one for all, or one for each net")
    return lists * nets if len(lists) == 1 else lists


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

    Some images with as many boxes are merged side by side, which takes half the time and changes no box.
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
class _Prepared:
    sample: Sample
    size: tuple[int, int]
    pictures: dict[tuple[Filter, int], Picture]


@dataclass(frozen=True)
class Locating:
    """Work that the nets were given; on a GPU perhaps still being done."""

    decoded: Decoded
    images: list[_Prepared]
    boxes: list[list[list[Tensor]]]
    """Outputs by net, its views (scale and mirroring) and image: (h w, outputs)."""
    scores: list[list[Tensor]]
    """The classifier's by view and image; empty where others guess."""


@dataclass(frozen=True)
class Located:
    """What became of some samples."""

    candidates: list[Candidates]
    """Of the images that did not fail, in order."""
    failures: dict[int, str]
    """Reasons by row."""
    unread: frozenset[int]
    """Those of the failures that are no fault of the images: their bytes could not be had."""


class Localiser:
    """Runs localisation nets, and perhaps a classifier, over samples.

    Args:
        nets: trained with `train --task localise`, for the same classes.
        scales: smallest sides Q in pixels for all nets, or a list of them for each net.
        view: "dense", each window of the whole image, or "center", the central crop alone.
        guesses: an image's classes; None: the classifier's five best.
        classifier: runs at all of the nets' scales and rates each window with its posterior there; without it every
            window has the guess's own.
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
        self._classifier, self._score_columns = None, np.empty(0, dtype=np.intp)
        if classifier is not None:
            self._classifier = DenseNet(classifier, "scores")
            self._score_columns = columns_of(self.class_names, classifier.class_names, classifier.weights_name)
        elif guesses is None:
            raise UsageError("localisation needs guesses of the classes: a classifier, or posteriors")
        self._guesses, self._view, self._exif = guesses, view, exif
        mirrorings = (False, True) if flip else (False,)
        of_nets = scales_of_nets(scales, len(nets))
        self._views_of = [[(Q, mirrored) for Q in its for mirrored in mirrorings] for its in of_nets]
        self._views = list(dict.fromkeys(view for its in self._views_of for view in its))
        self._filters = tuple(dict.fromkeys(net.filter for net in (*self._nets, *self._rater)))
        self._pool = Decoders(workers)

    @property
    def in_background(self) -> bool:
        """Whether `start` returns before the nets are done."""
        return self._nets[0].device.type == "cuda"

    @property
    def _rater(self) -> list[DenseNet]:
        return [self._classifier] if self._classifier is not None else []

    def prepare(self, samples: Sequence[Sample]) -> list[Future[_Prepared]]:
        """Starts decoding and rescaling in the background; `start` takes what this returns."""
        return [self._pool.submit(self._prepare, sample) for sample in samples]

    def start(self, prepared: Sequence[Future[_Prepared]]) -> Locating:
        """Gives the nets their work; `collect` takes what this returns."""
        decoded, there = collected(prepared)
        boxes = [
            [self._run(net, there, *view) for view in its] for net, its in zip(self._nets, self._views_of, strict=True)
        ]
        scores = [self._run(net, there, *view) for net in self._rater for view in self._views]
        return Locating(decoded, there, boxes, scores)

    def collect(self, running: Locating) -> Located:
        """What `start` began."""
        found, failures = [], dict(running.decoded.failures)
        for row, image in enumerate(running.images):
            outputs = [[view[row].cpu().numpy().astype(np.float64) for view in net] for net in running.boxes]
            scores = [view[row].cpu().numpy().astype(np.float64) for view in running.scores]
            if not all(np.isfinite(values).all() for values in (*scores, *(v for net in outputs for v in net))):
                failures[running.decoded.rows[row]] = "the net's outputs are not finite"
                continue
            found.append(self._candidates(image, outputs, scores))
        return Located(found, failures, running.decoded.unread)

    def close(self) -> None:
        """Ends the decoding threads."""
        self._pool.end()

    def _prepare(self, sample: Sample) -> _Prepared:
        picture = images.decode(sample.source(), exif=self._exif)
        scales = dict.fromkeys(Q for Q, _ in self._views)
        pictures = {(filter, Q): images.rescale(picture, Q, filter) for filter in self._filters for Q in scales}
        return _Prepared(sample, picture.size, pictures)

    def _run(self, net: DenseNet, prepared: Sequence[_Prepared], Q: int, mirrored: bool) -> list[Tensor]:
        pictures = [image.pictures[net.filter, Q] for image in prepared]
        if self._view == "center":
            pictures = [centre_crop(picture) for picture in pictures]
        return net.maps(pictures, flip=mirrored)

    def _candidates(self, image: _Prepared, outputs: Sequence[Sequence[Boxes]], scores: Sequence[Boxes]) -> Candidates:
        """One image's boxes of its guessed classes, from its maps: by net and view, and by view."""
        posteriors = [softmax(view, axis=1)[:, self._score_columns] for view in scores]  # by view (h w, K)
        if self._guesses is None:
            whole = np.mean([softmax(view.mean(axis=0))[self._score_columns] for view in scores], axis=0)
            classes = np.argsort(-whole, kind="stable")[:TOP]
        else:
            classes, given = self._guesses(image.sample)
        boxes, ratings = [], []
        for net, views, columns in zip(outputs, self._views_of, self._columns, strict=True):
            for (Q, mirrored), values in zip(views, net, strict=True):
                windows = self._windows(image.size, Q, mirrored)  # (h w, 4)
                its_own = values.reshape(len(windows), 1, 4) if columns is None else values.reshape(len(windows), -1, 4)
                of_classes = its_own[:, np.zeros(len(classes), dtype=int) if columns is None else columns[classes]]
                boxes.append(from_targets(of_classes, windows[:, None], mirrored))  # (h w, k, 4)
                if posteriors:
                    ratings.append(posteriors[self._views.index((Q, mirrored))][:, classes])
                else:
                    ratings.append(np.broadcast_to(given, (len(windows), len(classes))))
        all_boxes = clip(np.concatenate(boxes).transpose(1, 0, 2), image.size)
        return Candidates(image.sample.id, image.size, classes, all_boxes, np.concatenate(ratings).T)

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
    """Windows along a side of so many pixels: five poolings that round up, then a window of 7."""
    return -(-side // STRIDE) - INPUT_SIDE // STRIDE + 1


def columns_of(wanted: Sequence[str], names: Sequence[str], of: str) -> NDArray[np.intp]:
    """Which of a net's classes each wanted one is: (K,). Raises UsageError where they are not the same."""
    if set(wanted) != set(names):
        odd = next(iter(sorted(set(wanted) ^ set(names))))
        raise UsageError(
            f"{of} has {len(names)} classes, the first localisation net {len(wanted)}: {odd!r} is in one alone"
        )
    place = {name: column for column, name in enumerate(names)}
    return np.array([place[name] for name in wanted], dtype=np.intp)
