"""What a training run is given: its recipe, its images, its files and the processes that it runs in."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vggfeat.datasets.split import TrainingSet
from vggfeat.nets.catalog import Filter
from vggfeat.training.augment import Augmentation, Colours
from vggfeat.training.crops import CropLoader, CropRule
from vggfeat.training.files import RunFiles
from vggfeat.training.observer import Observer
from vggfeat.training.ranks import Ranks
from vggfeat.training.recipe import Recipe
from vggfeat.training.tasks import Task, task_of

SAVE_SECONDS = 900.0
"""Longest time between checkpoints, and so the most work that a killed run loses."""


@dataclass(frozen=True)
class RunSetup:
    """What stays the same throughout a run, in one process."""

    recipe: Recipe
    """With nothing left to this machine or data set: precision and measure are resolved."""
    dataset: TrainingSet
    files: RunFiles
    ranks: Ranks
    workers: int
    """Decoding threads of this process."""
    observer: Observer
    micro_batch: int | None = None
    """Images at a time; None: as many as fit."""
    save_seconds: float = SAVE_SECONDS
    cache: bool = True
    """Keep the outputs of frozen layers on disk."""

    @property
    def computed(self) -> bool:
        """Whether the frozen layers run once for each fixed crop, not at every update."""
        return bool(self.cache and self.recipe.frozen and self.recipe.augment.crops)

    @property
    def task(self) -> Task:
        """What the last layer learns."""
        return task_of(self.recipe, len(self.dataset.class_names))

    def augmentation(self, colours: Colours, seed: int) -> Augmentation:
        """Chooses the crops to train on."""
        augment = self.recipe.augment
        return Augmentation(augment.S, augment.flip, augment.colour_std, colours, seed, fixed=augment.crops > 0)

    @property
    def steps(self) -> int:
        """Updates an epoch."""
        return math.ceil(len(self.dataset.train) / self.recipe.sgd.batch_size)

    def loader(self, rule: CropRule, filter: Filter, least_seen: float) -> CropLoader:
        """Reads this run's images; `least_seen` counts where boxes are learned."""
        return CropLoader(
            rule,
            filter,
            exif=self.dataset.exif,
            workers=self.workers,
            pin=self.ranks.device.type == "cuda",
            least_seen=least_seen if self.task.needs_boxes else None,
        )
