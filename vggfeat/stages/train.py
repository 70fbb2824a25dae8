"""ILSVRC training (Sect. 3.1): a recipe and a data set -> the best checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vggfeat.datasets.split import TrainingSet, load_training_set
from vggfeat.errors import UsageError
from vggfeat.metrics import TOP
from vggfeat.nets.catalog import NETS
from vggfeat.results import Result
from vggfeat.store.locking import OutputLock
from vggfeat.system.arguments import with_checked_arguments
from vggfeat.system.bars import on_screen
from vggfeat.system.devices import resolve_device, resolve_precision
from vggfeat.system.launch import default_workers
from vggfeat.training.begin import begin
from vggfeat.training.files import RunFiles
from vggfeat.training.observer import BarObserver, Errors, Observer
from vggfeat.training.predicted import Predicted
from vggfeat.training.ranks import Ranks, process_group
from vggfeat.training.recipe import Recipe, load_recipe
from vggfeat.training.request import check_request
from vggfeat.training.run import Run
from vggfeat.training.setup import SAVE_SECONDS, RunSetup
from vggfeat.training.signals import stop_signals


@dataclass(frozen=True)
class TrainResult(Result):
    """The files and the errors of a run."""

    best: Path | None
    """The best checkpoint; None before the first validation, and where no validation image could be read."""
    last: Path
    net: str
    finished: bool
    """False where a signal stopped it; `resume` goes on."""
    epoch: int
    step: int
    errors: Errors | None
    """On the centre view of the validation images, after the last epoch done in this call."""
    failed: tuple[str, ...]
    """Ids of unreadable images."""
    predicted: Predicted | None = None
    """What the best checkpoint's net predicts for the validation images; None before the first, and for boxes."""
    first: bool = True
    """Whether this process speaks for all under torchrun."""

    def as_json(self) -> dict[str, Any]:
        """Plain data, under the names of the command's JSON."""
        return {
            "path": str(self.best) if self.best else None,
            "last": str(self.last),
            "net": self.net,
            "epoch": self.epoch,
            "step": self.step,
            "validation": dataclasses.asdict(self.errors) if self.errors else None,
            "failed": list(self.failed),
        }


@with_checked_arguments
def train(
    recipe: Recipe | str | Path | Mapping[str, Any],
    dataset: TrainingSet | str | Path = "data",
    *,
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    device: str | None = None,
    micro_batch: int | None = None,
    save_seconds: float = SAVE_SECONDS,
    cache: bool = True,
    progress: bool = True,
    observer: Observer | None = None,
) -> TrainResult:
    """Trains a net by the recipe and returns where its checkpoints lie.

    Under torchrun every process calls it, with the same arguments. SIGTERM, SIGINT and a closed terminal (SIGHUP, or
    SIGBREAK on Windows) end it after the current update with a checkpoint from which `resume` reaches the same weights
    as an undisturbed run on a CPU, on a GPU to rounding: its fastest kernels add in any order, and are chosen anew.

    Args:
        recipe: everything that decides the result: the path of a recipe file, a `vggfeat.training.recipe.Recipe`, or
            keys of one that differ from the paper's, such as {"net": "A", "width": 0.125, "data.dataset": "folder",
            "schedule.epochs": 20}.
        dataset: the images: from `load_training_set`, or a path: the data root, or for the data set "folder" the tree
            of classes.
        output: a folder, or a file ending in .pt; by default `checkpoints/<dataset>-<net>-<S>`, then
            `-<trainable>` unless that is "all", and `-localise-<head>` for boxes.
        resume: go on with the run in `output`, or begin it where there is none. overwrite: begin anew.
        workers: decoding threads of each process; 0 decodes between updates; by default one a core.
        device: a name of torch's; by default the best one here.
        micro_batch: images at a time; by default as many as fit.
        save_seconds: longest time between checkpoints.
        cache: if the recipe freezes the first layers and fixes the crops (`augment.crops`), compute these layers once
            for each crop and keep their outputs beside the checkpoints, as float16. False: at every update.
        progress: show a bar and a line for each epoch on terminals and in notebooks; the observer's business if there
            is one.
        observer: receives the progress: a subclass of `vggfeat.training.observer.Observer`.

    Raises UsageError and RecipeError for settings that make no sense, WeightsError for `init.checkpoint`,
    TrainingError for a loss that is not finite or does not move, and for too many unreadable images.
    """
    _check_counts(workers, micro_batch)
    source = recipe if isinstance(recipe, str | Path) else None
    recipe = _recipe(recipe)
    files = RunFiles.of(output or Path("checkpoints", recipe.name))
    check_request(recipe, files, resume=resume, overwrite=overwrite, source=source)
    dataset = _images(dataset, recipe)
    place = resolve_device(device)
    recipe = _resolved(recipe, dataset, place)
    with process_group(place) as ranks:
        threads = default_workers(ranks.local_world) if workers is None else workers
        heard = _heard(observer, progress) if ranks.first else Observer()
        setup = RunSetup(recipe, dataset, files, ranks, threads, heard, micro_batch, save_seconds, cache)
        with _alone(files, ranks, resume=resume, overwrite=overwrite):
            run = Run(setup, begin(setup, resume))  # a signal meanwhile acts at once: there is no update to keep yet
            with contextlib.closing(run.trainer), stop_signals() as stop:
                finished = run.epochs(stop)
        state, best = run.state, files.best if files.best.exists() else None
        failed = tuple(state.failed)
        return TrainResult(
            best,
            files.last,
            recipe.net,
            finished,
            state.epoch,
            state.step,
            run.latest,
            failed,
            run.predicted,
            ranks.first,
        )


@contextlib.contextmanager
def _alone(files: RunFiles, ranks: Ranks, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """The first process's lock on the run's files, which it checks again: another run may have ended in between."""
    if not ranks.first:
        yield
        return
    with OutputLock(files.best):
        files.check(resume=resume, overwrite=overwrite)
        yield


def _check_counts(workers: int | None, micro_batch: int | None) -> None:
    if workers is not None and workers < 0:
        raise UsageError(f"`workers` {workers} is not 0 or more")
    if micro_batch is not None and micro_batch < 1:
        raise UsageError(f"`micro_batch` {micro_batch} is not 1 or more")


def _recipe(recipe: Recipe | str | Path | Mapping[str, Any]) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return load_recipe(overrides=dict(recipe))
    if isinstance(recipe, str) and recipe in NETS:
        raise UsageError(f"{recipe!r} is a net, not a recipe: give {{'net': {recipe!r}}}")
    if isinstance(recipe, str | Path):
        return load_recipe(recipe)
    raise UsageError(f"{type(recipe).__name__} is not a recipe: give a recipe file, or keys such as {{'net': 'A'}}")


def _images(dataset: TrainingSet | str | Path, recipe: Recipe) -> TrainingSet:
    if isinstance(dataset, TrainingSet):
        return dataset
    if isinstance(dataset, str | Path):
        return load_training_set(
            recipe.data.dataset,
            dataset,
            fraction=recipe.data.validation_fraction,
            seed=recipe.seed,
            boxes=recipe.task == "localise",
        )
    raise UsageError(
        f"{type(dataset).__name__} is not a training set: give the folder of the images, whose classes are its folders"
    )


def _heard(observer: Observer | None, progress: bool) -> Observer:
    return observer or (BarObserver() if progress and on_screen() else Observer())


def _resolved(recipe: Recipe, dataset: TrainingSet, device: torch.device) -> Recipe:
    """The recipe with nothing left to this machine or data set: its number format, and a measure that can tell."""
    schedule = recipe.schedule
    if schedule.measure == "top5" and len(dataset.class_names) <= TOP:
        schedule = dataclasses.replace(schedule, measure="top1")  # among five classes, top-5 is always right
    precision = resolve_precision(recipe.precision, device, training=True)
    return dataclasses.replace(recipe, precision=precision, schedule=schedule)
