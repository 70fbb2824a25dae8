"""ILSVRC training (Sect. 3.1): a recipe and a data set -> the best checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from vggfeat.datasets.split import TrainingSet
from vggfeat.errors import DatasetError, RecipeError, TrainingError
from vggfeat.nets.catalog import Preprocessing
from vggfeat.nets.networks import VGG, gaussian_, glorot_
from vggfeat.nets.weights import load_net
from vggfeat.system.devices import resolve_device, resolve_precision
from vggfeat.system.files import replacing
from vggfeat.system.launch import default_workers
from vggfeat.training.augment import Augmentation, CentreView, Colours, epoch_order
from vggfeat.training.crops import Batch, CropLoader, Job, colours_of
from vggfeat.training.initial import copy_layers, deepen, standardise_
from vggfeat.training.observer import EpochReport, Errors, Observer, StepReport
from vggfeat.training.ranks import Ranks, joined
from vggfeat.training.recipe import Recipe, differences, dump_recipe
from vggfeat.training.schedule import Plateau
from vggfeat.training.state import Progress, RunFiles, append_metrics, cut_metrics, load_last, save_last
from vggfeat.training.tasks import task_of
from vggfeat.training.trainer import Trainer, errors, preprocessed

CUDA_READ_EVERY = 10
"""Updates between looks at the loss on a CUDA device, where each look waits for the device."""

METRICS_EVERY = 100
"""Updates between lines in metrics.jsonl."""

SAVE_SECONDS = 900.0
"""After so long without a checkpoint one is written in the middle of an epoch: the most that a killed run loses."""

VALIDATION_BATCH = 64

EXAMPLES = 64
"""Training images that data-dependent weights are scaled to."""

WILD_LOSS = 100.0
"""A first loss beyond so many times chance comes from weights of the wrong size."""

MOVED = 0.99
"""A loss below this share of chance has left the start, wherever it began: a trained net's need not fall at all."""

SMOOTHING = 0.02
"""Share of a new value in the running mean of the loss."""


@dataclass(frozen=True)
class TrainResult:
    """What a run came to."""

    best: Path | None
    """The best checkpoint; None where the run was stopped before its first validation."""
    last: Path
    finished: bool
    """False where a signal stopped it; `resume` goes on."""
    epoch: int
    step: int
    errors: Errors | None
    """On the centre view of the validation images, after the last epoch done in this call."""
    failed: tuple[str, ...]
    """Ids of images that could not be read."""
    first: bool = True
    """Whether this is the process that speaks for all under torchrun."""


def train(
    recipe: Recipe,
    dataset: TrainingSet,
    *,
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    device: str | None = None,
    micro_batch: int | None = None,
    observer: Observer | None = None,
) -> TrainResult:
    """Trains a net as the recipe says and returns where its checkpoints lie.

    Under torchrun every process calls it, with the same arguments. SIGTERM and SIGINT end it after the current update
    with a checkpoint from which `resume` reaches the same weights as an undisturbed run.

    Args:
        recipe: what decides the result.
        dataset: the images.
        output: a folder, or a file ending in .pt; by default `checkpoints/<dataset>-<net>-<S>`.
        resume: go on with the run in `output`, or begin it where there is none. overwrite: begin anew.
        workers: decoding threads of each process; 0 decodes between updates; by default one a core.
        device: a name of torch's; None is the best here.
        micro_batch: images at a time; by default as many as fit.
        observer: hears of the progress.

    Raises UsageError and RecipeError for what makes no sense, WeightsError for `init.checkpoint`, TrainingError for a
    loss that is not finite or does not move, and for too many unreadable images.
    """
    files = RunFiles.of(output or Path("checkpoints", recipe.name))
    files.check(resume=resume, overwrite=overwrite)
    place = resolve_device(device)
    recipe = _resolved(recipe, dataset, place)
    with joined(place) as ranks:
        threads = default_workers(ranks.local_world) if workers is None else workers
        run = _Run(recipe, dataset, files, ranks, threads, micro_batch, observer or Observer())
        run.begin(resume)  # a signal meanwhile acts at once: there is no update to keep yet
        with _stop_signals() as stop:
            finished = run.epochs(stop)
        return run.result(finished)


class _Stop:
    """Whether a signal has asked the run to end."""

    asked = False


@contextlib.contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """SIGINT and SIGTERM set the flag; a second one acts as usual. In other threads than the main one: nothing."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    usual: dict[signal.Signals, Any] = {}

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.asked = True
        signal.signal(number, usual[signal.Signals(number)])

    for watched in (signal.SIGINT, signal.SIGTERM):
        usual[watched] = signal.signal(watched, ask)
    try:
        yield stop
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def _resolved(recipe: Recipe, dataset: TrainingSet, device: torch.device) -> Recipe:
    """The recipe with nothing left to this machine or data set: the number format, and a measure that can tell."""
    schedule = recipe.schedule
    if schedule.measure == "top5" and len(dataset.class_names) <= 5:
        schedule = dataclasses.replace(schedule, measure="top1")  # of five classes, top-5 is always right
    precision = resolve_precision(recipe.precision, device)
    return dataclasses.replace(recipe, precision=precision, schedule=schedule)


class _Run:
    """One process's part in a run: its net, its data, its place in time."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: TrainingSet,
        files: RunFiles,
        ranks: Ranks,
        workers: int,
        micro_batch: int | None,
        observer: Observer,
    ) -> None:
        self.recipe, self.dataset, self.files, self.ranks, self.workers = recipe, dataset, files, ranks, workers
        self.observer = observer if ranks.first else Observer()
        self.micro_batch = micro_batch
        self.task = task_of(recipe, len(dataset.class_names))
        names = () if self.task.needs_boxes else dataset.class_names  # one name an output, where that is a class
        self.net = VGG(recipe.net, width=recipe.width, num_classes=self.task.outputs, class_names=names)
        schedule = recipe.schedule
        self.plateau = Plateau(
            recipe.sgd.learning_rate, schedule.divisor, schedule.decreases, schedule.patience, schedule.least_gain
        )
        self.progress = Progress()
        self.steps = math.ceil(len(dataset.train) / recipe.sgd.batch_size)
        self.chance = self.task.chance
        self.latest: Errors | None = None
        self.unshared: list[tuple[str, str]] = []  # (id, reason) of images that only this process found unreadable
        self.saved = time.monotonic()

    # Beginning

    def begin(self, resume: bool) -> None:
        """Sets the weights: random, copied, or those of the run that is taken up again."""
        if resume and self.files.last.exists():
            self._restore()
        else:
            self._initialise()
        if self.ranks.first:
            self.files.sweep()
            with replacing(self.files.recipe) as temporary:
                temporary.write_text(dump_recipe(self.recipe), encoding="utf-8")
        self._announce()

    def _initialise(self) -> None:
        init, augment = self.recipe.init, self.recipe.augment
        if init.scheme == "gaussian":
            gaussian_(self.net, init.std, self.recipe.seed)
        else:
            glorot_(self.net, self.recipe.seed)
        self.colours = self.ranks.shared(self._colours(augment.colour_images) if self.ranks.first else None)
        adapted = init.scheme == "data-dependent"
        # A channel that hardly varies, as in grey or red light, is not blown up.
        red, green, blue = (max(std, 1.0) if adapted else 1.0 for std in self.colours.std)
        self.net.preprocessing = Preprocessing("RGB", 1.0, self.colours.mean, (red, green, blue), "bilinear")
        self.origin, copied = "", []
        if init.checkpoint:
            source = load_net(None, init.checkpoint, device="cpu", precision="fp32")
            # What a class's score was says nothing about a box: localisation learns its last layer anew (Appendix A).
            give = deepen if init.scheme == "identity" else copy_layers
            copied = give(self.net, source, but=("fc8",) if self.task.needs_boxes else ())
            self.origin = f"{init.checkpoint} (sha256 {source.fingerprint()})"
            self.observer.note(f"{', '.join(copied)} from {init.checkpoint} ({source.net}); the rest {init.scheme}")
        if adapted and self.ranks.first:  # the others are given its weights before the first update
            standardise_(self.net, self._example_crops(augment.Q), but=copied)
        self._make_trainer()
        if self.ranks.first:
            self.files.clear()

    def _colours(self, count: int) -> Colours:
        samples, exif = self.dataset.train, self.dataset.exif
        used = min(count or len(samples), len(samples))
        self.observer.note(f"mean RGB and colour eigenvectors from {used} of {len(samples)} training images")
        return colours_of(samples, count, exif=exif, workers=self.workers)

    def _example_crops(self, Q: int) -> torch.Tensor:
        """Central crops of evenly spaced training images, as the net expects them: (N, 3, 224, 224).

        Raises DatasetError where none of them can be read.
        """
        samples = self.dataset.train
        rows = np.unique(np.linspace(0, len(samples) - 1, EXAMPLES).round().astype(int))
        jobs = [Job(samples[row], position=place) for place, row in enumerate(rows)]
        with contextlib.closing(self._loader(CentreView(Q), 0.0).batches([jobs])) as batches:
            batch = next(batches)
        crops = batch.crops[batch.weights > 0].float()
        if not len(crops):
            raise DatasetError(f"none of {len(jobs)} training images can be read, the first {samples[0].path}")
        return preprocessed(crops, self.net.preprocessing).permute(0, 3, 1, 2)

    def _restore(self) -> None:
        """Takes the run up where its last checkpoint left it."""
        content, state, self.progress = load_last(self.files.last)
        changed = differences(_compared(state["recipe"]), _compared(self._described()))
        if changed:
            raise RecipeError(f"{self.files.last}: made with other settings ({changed[0]}): --overwrite starts anew")
        if state["data"] != self._data_digest():
            raise RecipeError(f"{self.files.last}: made with other images than {self.dataset.name} has now")
        self.colours, self.origin = Colours(**_tuples(state["colours"])), state["origin"]
        self.net.load_state_dict(content["state_dict"])
        self.net.preprocessing = Preprocessing(**_tuples(content["preprocessing"]))
        self.net.training_record = content["training"]
        self._make_trainer()
        self.trainer.optimizer.load_state_dict(state["optimizer"])
        self.trainer.scaler.load_state_dict(state["scaler"])
        self.plateau.restore(state["plateau"])
        if self.ranks.first:
            cut_metrics(self.files.metrics, self.progress)

    def _make_trainer(self) -> None:
        self.trainer = Trainer(
            self.net,
            self.recipe.sgd,
            seed=self.recipe.seed,
            precision=self.recipe.precision,  # type: ignore[arg-type]
            ranks=self.ranks,
            micro_batch=self.micro_batch,
            task=self.task,
        )

    def _announce(self) -> None:
        data, sgd = self.dataset, self.recipe.sgd
        share = f"{self.recipe.data.validation_fraction:.0%} of each class, held out by seed"
        parts = math.ceil(sgd.batch_size / self.ranks.world / self.trainer.micro_batch)
        self.observer.note(
            f"net {self.net.net}, width {self.net.width:g}, {len(data.class_names)} classes; {len(data.train)} images "
            f"to train, {len(data.val)} to validate ({share if data.held_out else 'its own'}); "
            f"S {self.recipe.augment.label}; batch {sgd.batch_size}"
            + (f" in {parts} parts" if parts > 1 else "")
            + (f" over {self.ranks.world} processes" if self.ranks.world > 1 else "")
            + f"; {self.ranks.device}, {self.recipe.precision}"
        )
        if self.progress.step:
            done = self.progress.step
            self.observer.note(f"goes on after update {done} (epoch {done / self.steps:.2f})")

    def _described(self) -> dict[str, Any]:
        """The recipe as plain data that torch.load reads with weights_only."""
        described: dict[str, Any] = _lists(dataclasses.asdict(self.recipe))
        return described

    def _data_digest(self) -> str:
        """What tells one list of images from another: ids, labels, order, classes."""
        digest = hashlib.sha256("\n".join(self.dataset.class_names).encode())
        for part in (self.dataset.train, self.dataset.val):
            for sample in part:
                digest.update(f"\n{sample.id}\t{sample.labels}".encode(errors="surrogateescape"))
        return digest.hexdigest()

    # Going on

    def epochs(self, stop: _Stop) -> bool:
        """The epochs that are left; False where a signal ended them early."""
        recipe, progress, augment = self.recipe, self.progress, self.recipe.augment
        viewer = Augmentation(augment.S, augment.flip, augment.colour_std, self.colours, recipe.seed)
        batches = self._loader(viewer, recipe.localise.least_seen).batches(self._plan())
        with contextlib.closing(batches):
            while progress.epoch < recipe.schedule.epochs:
                val = self._validated(stop) if self._epoch_updates(batches, stop) else None
                if val is None:
                    self._save_last()
                    return False
                self._end_epoch(val)
        return True

    def _loader(self, viewer: Augmentation | CentreView, least_seen: float) -> CropLoader:
        return CropLoader(
            viewer,
            self.net.preprocessing.filter,
            exif=self.dataset.exif,
            workers=self.workers,
            pin=self.ranks.device.type == "cuda",
            least_seen=least_seen if self.task.needs_boxes else None,
        )

    def _plan(self) -> Iterator[list[Job]]:
        """This process's share of every batch that is left, to the end of the run."""
        samples, size = self.dataset.train, self.recipe.sgd.batch_size
        for epoch in range(self.progress.step // self.steps, self.recipe.schedule.epochs):
            order = epoch_order(self.recipe.seed, epoch, len(samples))
            begin = max(0, self.progress.step - epoch * self.steps)
            for number in range(begin, self.steps):
                rows = order[number * size : (number + 1) * size]
                share = math.ceil(len(rows) / self.ranks.world)
                places = range(self.ranks.rank * share, (self.ranks.rank + 1) * share)
                step = epoch * self.steps + number
                yield [Job(samples[rows[p]] if p < len(rows) else None, step, p) for p in places]

    def _epoch_updates(self, batches: Iterator[Batch], stop: _Stop) -> bool:
        """The updates that are left of this epoch; False where they were cut short."""
        progress = self.progress
        end = (progress.epoch + 1) * self.steps
        pending = torch.zeros(4, device=self.ranks.device)
        since, begin = 0, time.monotonic()
        while progress.step < end:
            batch = next(batches)
            pending += self.trainer.update(batch, self.plateau.rate)
            self._report_failures(batch)
            progress.step += 1
            since += 1
            if self.ranks.device.type == "cuda" and since < CUDA_READ_EVERY and progress.step < end:
                continue
            now = time.monotonic()
            progress.seconds, begin = progress.seconds + now - begin, now
            self._read(pending, since)
            pending, since = torch.zeros_like(pending), 0
            if progress.step < end:
                stopping, saving = self._agreed(stop.asked, now - self.saved > SAVE_SECONDS)
                if stopping:
                    return False
                if saving:
                    self._save_last()
        return True

    def _read(self, pending: torch.Tensor, updates: int) -> None:
        """Adds the last updates' totals to the epoch's, watches over them, tells the observer."""
        progress = self.progress
        recent = self.ranks.sum(pending).double().cpu()
        progress.totals, progress.window = (
            [a + b for a, b in zip(sums, recent.tolist(), strict=True)] for sums in (progress.totals, progress.window)
        )
        if recent[3]:  # crops that count: unreadable ones and ones that miss their object do not
            self._watch(errors(recent).loss)
        train = errors(torch.tensor(progress.totals, dtype=torch.float64))
        speed = train.images / max(progress.seconds, 1e-9)
        epoch, step = progress.epoch + 1, progress.step - progress.epoch * self.steps
        rate = self.plateau.rate
        self.observer.step(StepReport(epoch, self.recipe.schedule.epochs, step, self.steps, train, rate, speed))
        if progress.step // METRICS_EVERY > (progress.step - updates) // METRICS_EVERY:
            now, progress.window = errors(torch.tensor(progress.window, dtype=torch.float64)), [0.0] * 4
            self._measure("updates", epoch, loss=now.loss, top1=now.top1, top5=now.top5, images_per_second=speed)

    def _measure(self, kind: str, epoch: int, **values: float) -> None:
        """A line in metrics.jsonl."""
        if self.ranks.first:
            rounded = {name: round(value, 6) for name, value in values.items()}
            append_metrics(
                self.files.metrics, kind=kind, step=self.progress.step, epoch=epoch, rate=self.plateau.rate, **rounded
            )

    def _watch(self, loss: float) -> None:
        """Stops a run that cannot succeed: a loss that is not finite, far off from the start, or never moves.

        The loss is that of the last updates read.
        """
        step, sgd, init = self.progress.step, self.recipe.sgd, self.recipe.init
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} at update {step} (rate {self.plateau.rate:g}): lower --learning-rate (now "
                f"{sgd.learning_rate:g}), or begin with --init glorot; {self._last_good()}"
            )
        progress = self.progress
        if progress.early_loss is None:
            progress.early_loss = progress.smooth_loss = loss
            if loss > WILD_LOSS * max(self.chance, 1.0):
                raise TrainingError(
                    f"the first loss is {loss:.3g}, chance is {self.chance:.2f}: the first weights are far too large; "
                    "begin with --init glorot, or with --init gaussian --init-std 0.01"
                )
        progress.smooth_loss += SMOOTHING * (loss - progress.smooth_loss)
        if progress.moving or not 0 < init.stall_steps <= step:
            return
        progress.moving = progress.smooth_loss < MOVED * self.chance
        if not progress.moving:
            raise TrainingError(
                f"the loss has not moved in {step} updates ({progress.early_loss:.3f} at first, "
                f"{progress.smooth_loss:.3f} now, chance {self.chance:.3f}): begin with --init glorot or "
                "data-dependent, or --init-from a trained A, or change --learning-rate; --set init.stall_steps=0 waits "
                "longer"
            )

    def _check_weights(self) -> None:
        """Raises TrainingError where the last updates left a weight that is not finite: such a state is never kept."""
        for name, values in self.net.named_parameters():
            if not torch.isfinite(values).all():
                raise TrainingError(
                    f"{name} became NaN or infinite by update {self.progress.step} (rate {self.plateau.rate:g}): "
                    f"lower --learning-rate (now {self.recipe.sgd.learning_rate:g}); {self._last_good()}"
                )

    def _last_good(self) -> str:
        last = self.files.last
        return f"{last} holds the last good state" if last.exists() else "nothing was saved yet"

    def _report_failures(self, batch: Batch) -> None:
        """Each unreadable image once; too many end the run."""
        for name, reason in batch.failures:
            if name not in self.progress.failed:
                self.progress.failed.append(name)
                self.unshared.append((name, reason))
                self.observer.note(f"skipped {name}: {reason}")
        limit = self.recipe.data.unreadable_limit
        if len(self.progress.failed) > limit:
            raise TrainingError(
                f"{len(self.progress.failed)} images cannot be read, the first {self.progress.failed[0]}: more than "
                f"data.unreadable_limit = {limit}; mend the data, or raise it by --set data.unreadable_limit=N"
            )

    def _agreed(self, *asked: bool) -> list[bool]:
        """What any process asks for: all of them then do it, after the same update."""
        if self.ranks.world == 1:
            return list(asked)
        return [bool(n) for n in self.ranks.sum(torch.tensor(asked, dtype=torch.float32, device=self.ranks.device))]

    def _validated(self, stop: _Stop) -> Errors | None:
        """Errors on the centre view of the validation images, each process reading its share; None if cut short."""
        samples = self.dataset.val[self.ranks.rank :: self.ranks.world]
        jobs = [Job(sample) for sample in samples]
        plan: list[Sequence[Job]] = [jobs[i : i + VALIDATION_BATCH] for i in range(0, len(jobs), VALIDATION_BATCH)]
        failures: list[Batch] = []

        def watched() -> Iterator[Batch]:
            for batch in self._loader(CentreView(self.recipe.augment.Q), 0.0).batches(plan):
                if stop.asked:
                    return
                if batch.failures:
                    failures.append(batch)
                yield batch

        total = self.trainer.validate(watched())
        for batch in failures:
            self._report_failures(batch)
        if any(self._agreed(stop.asked)):
            return None
        return errors(self.ranks.sum(total.to(self.ranks.device)).cpu())

    def _end_epoch(self, val: Errors) -> None:
        """Schedule, metrics and checkpoints after a validation."""
        self._check_weights()
        if val.images and not math.isfinite(val.loss):  # a finite weight may be far too large all the same
            raise TrainingError(
                f"the validation loss became {val.loss} at update {self.progress.step} (rate {self.plateau.rate:g}): "
                f"lower --learning-rate (now {self.recipe.sgd.learning_rate:g}); {self._last_good()}"
            )
        progress, schedule = self.progress, self.recipe.schedule
        train = errors(torch.tensor(progress.totals, dtype=torch.float64))
        progress.epoch += 1
        speed = train.images / max(progress.seconds, 1e-9)
        self._measure(
            "epoch",
            progress.epoch,
            loss=train.loss,
            top1=train.top1,
            top5=train.top5,
            val_loss=val.loss,
            val_top1=val.top1,
            val_top5=val.top5,
            images_per_second=speed,
            seconds=progress.seconds,
        )
        rate, measure = self.plateau.rate, val.measure(schedule.measure)
        if self.plateau.update(measure):
            self.observer.note(
                f"{schedule.measure} stopped falling: the rate goes from {rate:g} to {self.plateau.rate:g}"
            )
        self.latest = val
        best = not progress.best or [measure, val.loss] < progress.best
        report = EpochReport(
            progress.epoch, schedule.epochs, train, val, rate, self.plateau.rate, speed, progress.seconds, best
        )
        if best:
            progress.best = [measure, val.loss]
        self.net.training_record = self._record(val)
        progress.totals, progress.seconds = [0.0] * 4, 0.0
        if self.ranks.first and best:
            self.net.save(self.files.best)
        self._save_last()
        self.observer.epoch(report)

    def _record(self, val: Errors) -> dict[str, Any]:
        """How the values were trained, kept inside of the checkpoint."""
        return {
            "recipe": self._described(),
            "dataset": self.dataset.name,
            "class_names": list(self.dataset.class_names),
            "mean_box": self._mean_box(),
            "train_images": len(self.dataset.train),
            "validation_images": len(self.dataset.val),
            "colours": _lists(dataclasses.asdict(self.colours)),
            "init_from": self.origin,
            "epoch": self.progress.epoch,
            "step": self.progress.step,
            "validation": {"view": "centre", "Q": self.recipe.augment.Q, **dataclasses.asdict(val)},
        }

    def _mean_box(self) -> list[float] | None:
        """The training images' average box, the yardstick of localisation: a net must beat this answer."""
        boxes = [sample.boxes[0] for sample in self.dataset.train if sample.boxes]
        return [sum(side) / len(boxes) for side in zip(*boxes, strict=True)] if boxes else None

    def _save_last(self) -> None:
        """The newest state, with what every process knows; all of them call it together."""
        self._check_weights()
        found, self.unshared = self.ranks.gathered(self.unshared), []
        for name, reason in found:
            if name not in self.progress.failed:  # another process's
                self.progress.failed.append(name)
                self.observer.note(f"skipped {name}: {reason}")
        self.saved = time.monotonic()
        if not self.ranks.first:
            return
        save_last(
            self.files.last,
            self.net,
            self.progress,
            recipe=self._described(),
            data=self._data_digest(),
            origin=self.origin,
            colours=_lists(dataclasses.asdict(self.colours)),
            plateau=self.plateau.state(),
            optimizer=self.trainer.optimizer.state_dict(),
            scaler=self.trainer.scaler.state_dict(),
        )

    def result(self, finished: bool) -> TrainResult:
        """What to hand back."""
        best, progress = self.files.best, self.progress
        return TrainResult(
            best if best.exists() else None,
            self.files.last,
            finished,
            progress.epoch,
            progress.step,
            self.latest,
            tuple(progress.failed),
            self.ranks.first,
        )


def _compared(described: dict[str, Any]) -> dict[str, Any]:
    """What a resumed run must share with its past: all but its length and what no longer acts."""
    out = {key: dict(value) if isinstance(value, dict) else value for key, value in described.items()}
    for section, key in (("schedule", "epochs"), ("data", "unreadable_limit"), ("init", "stall_steps")):
        out[section].pop(key, None)
    return out


def _lists(value: Any) -> Any:
    """Tuples as lists, as a checkpoint keeps them."""
    if isinstance(value, dict):
        return {key: _lists(entry) for key, entry in value.items()}
    return [_lists(entry) for entry in value] if isinstance(value, tuple | list) else value


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """Lists as tuples, for the frozen dataclasses."""

    def deep(value: Any) -> Any:
        return tuple(deep(entry) for entry in value) if isinstance(value, list | tuple) else value

    return {key: deep(value) for key, value in fields.items()}
