"""The two tasks: class scores (Sect. 3.1) and bounding boxes (Appendix A)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vggfeat.boxes import CORRECT_IOU, to_targets, visible
from vggfeat.datasets.images import rescaled_size
from vggfeat.datasets.sample import Box
from vggfeat.nets.catalog import INPUT_SIDE
from vggfeat.training.augment import CropView
from vggfeat.training.recipe import Recipe


class Task(Protocol):
    """The outputs of the last layer, their loss, and the answers that count as wrong."""

    @property
    def outputs(self) -> int:
        """Length of the last layer."""

    @property
    def chance(self) -> float:
        """Loss at chance level."""

    @property
    def needs_boxes(self) -> bool:
        """Whether batches carry the boxes of their images' objects."""

    def losses(self, outputs: Tensor, labels: Tensor, boxes: Tensor | None) -> Tensor:
        """(N, outputs) float32, (N,) classes, (N, M, 4) targets as in `crops.Batch` -> (N,)."""

    def wrong(self, outputs: Tensor, labels: Tensor, boxes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Which images are wrong at the first guess, and at all of five: (N,) of bool each."""


@dataclass(frozen=True)
class Classification:
    """Multinomial logistic regression (Sect. 3.1)."""

    classes: int
    needs_boxes = False

    @property
    def outputs(self) -> int:
        """One score a class."""
        return self.classes

    @property
    def chance(self) -> float:
        """The logarithm of the number of classes."""
        return math.log(self.classes)

    def losses(self, outputs: Tensor, labels: Tensor, boxes: Tensor | None = None) -> Tensor:
        """(N,) minus the log-posterior of each image's class, in nats."""
        return F.cross_entropy(outputs, labels, reduction="none")

    def wrong(self, outputs: Tensor, labels: Tensor, boxes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Whether the class is not the best-scored one, and not among the best five."""
        hits = best_classes(outputs) == labels[:, None]  # (N, 5)
        return ~hits[:, 0], ~hits.any(dim=1)


def best_classes(outputs: Tensor) -> Tensor:
    """The (up to) five best-scored classes of each image, best first: (N, K) -> (N, 5)."""
    return outputs.topk(min(5, outputs.shape[1]), dim=1).indices


@dataclass(frozen=True)
class Localisation:
    """Bounding-box regression with the class given (Appendix A): one guess, so both errors are the same."""

    classes: int
    per_class: bool
    """PCR: a box for each class; otherwise SCR: one box shared by all classes."""
    needs_boxes = True
    chance = 1.25
    """Loss of an all-zero answer to an object that fills the crop: (0.25 + 0.25 + 1 + 1) / 2."""

    @property
    def outputs(self) -> int:
        """Four numbers a box."""
        return 4 * self.classes if self.per_class else 4

    def losses(self, outputs: Tensor, labels: Tensor, boxes: Tensor | None) -> Tensor:
        """Half the squared Euclidean distance from the target box (the first)."""
        assert boxes is not None
        return (self.chosen(outputs, labels) - boxes[:, 0].nan_to_num()).square().sum(dim=1) / 2

    def wrong(self, outputs: Tensor, labels: Tensor, boxes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Whether the box has an IoU of at most one half with every object of the image."""
        assert boxes is not None
        missed = ~(_iou(self.chosen(outputs.float(), labels)[:, None], boxes) > CORRECT_IOU).any(dim=1)
        return missed, missed

    def chosen(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The box predicted for each image's own class: (N, outputs), (N,) -> (N, 4)."""
        if not self.per_class:
            return outputs
        return outputs.view(len(outputs), self.classes, 4)[torch.arange(len(outputs), device=outputs.device), labels]


def task_of(recipe: Recipe, classes: int) -> Task:
    """The task of a recipe."""
    if recipe.task == "localise":
        return Localisation(classes, recipe.localise.head == "pcr")
    return Classification(classes)


def box_targets(
    boxes: Sequence[Box], view: CropView, size: tuple[int, int], least_seen: float
) -> tuple[NDArray[np.float64], bool]:
    """A picture's boxes in the coordinates of one crop: ((M, 4) targets, whether the crop shows enough of one).

    Boxes are fractions of the picture, targets are in units of the crop. The first target is the one to learn: among
    the boxes with at least `least_seen` of their area inside the crop, the one that fills most of it. OverFeat's limit
    is one half; the choice among several is ours.
    """
    width, height = rescaled_size(*size, view.Q)
    window = np.array([view.left, view.top, view.left + INPUT_SIDE, view.top + INPUT_SIDE], dtype=np.float64)
    window /= (width, height, width, height)
    share, area = visible(boxes, window)
    seen = share >= least_seen
    order = np.lexsort((-area, ~seen))
    return to_targets(np.asarray(boxes)[order], window, view.flip), bool(seen.any())


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """`boxes.iou` of targets (.., 4), pair by pair, on the device; 0 where b is NaN."""
    low = torch.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    high = torch.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    inside = (high - low).clamp(min=0).prod(dim=-1)
    areas = a[..., 2:].clamp(min=0).prod(dim=-1) + b[..., 2:].prod(dim=-1)
    return (inside / (areas - inside)).nan_to_num()
