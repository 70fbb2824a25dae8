"""The loop of Sect. 3.1: updates, validation, schedule and checkpoints, epoch by epoch."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator, Iterator, Sequence

import torch

from vggfeat.datasets.split import data_digest
from vggfeat.system.devices import is_out_of_memory
from vggfeat.system.memory import release_free_memory
from vggfeat.training.augment import CentreView, epoch_order
from vggfeat.training.begin import Start
from vggfeat.training.crops import Batch, Job
from vggfeat.training.frozen import FrozenOutputs
from vggfeat.training.observer import EpochReport, Errors, StepReport
from vggfeat.training.predicted import Collector, Predicted
from vggfeat.training.record import plain, training_record
from vggfeat.training.saving import MetricsFile, Saver
from vggfeat.training.setup import RunSetup
from vggfeat.training.signals import StopRequest
from vggfeat.training.trainer import mean_errors
from vggfeat.training.watch import UnreadableImages, Watch

CUDA_READ_EVERY = 10
"""Updates between readings of the loss on a CUDA device, each of which waits for the device."""

METRICS_EVERY = 100
"""Updates between lines in metrics.jsonl."""

VALIDATION_BATCH = 64

SAVING_SHARE = 10
"""An epoch ends without writing the last checkpoint unless this many times the duration of the last save has passed
since: short epochs of a large net would do little else."""


class Run:
    """One process's part in a run, from where it starts to its last epoch."""

    def __init__(self, setup: RunSetup, start: Start) -> None:
        self.setup, self.start = setup, start
        self.recipe, self.dataset, self.ranks = setup.recipe, setup.dataset, setup.ranks
        self.net, self.trainer, self.plateau, self.state = start.net, start.trainer, start.plateau, start.state
        self.watch = Watch(setup.recipe, setup.task.chance, setup.files)
        self.unreadable = UnreadableImages(self.state.failed, setup.recipe.data.unreadable_limit, setup.observer)
        self.latest: Errors | None = None
        """On the validation images, after the last epoch done here."""
        self.predicted: Predicted | None = start.predicted
        """Of the validation images, by the net of the best epoch."""
        self._collector: Collector | None = None
        self.frozen = FrozenOutputs(setup, start) if setup.computed else None
        self.saver = Saver(setup.files, setup.observer, start.waiting)
        self.metrics = MetricsFile(setup.files.metrics, setup.observer)
        self._saved, self._saving = time.monotonic(), 0.0

    def epochs(self, stop: StopRequest) -> bool:
        """Trains to the end; False where a signal ended it early, with a checkpoint to resume from.

        Raises TrainingError where the device's memory is full, however few images it is given at a time.
        """
        try:
            return self._epochs(stop)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise self.watch.memory(self.ranks, self.state, self.trainer.micro_batch) from error
        finally:
            self.metrics.finish()
            release_free_memory()

    def _epochs(self, stop: StopRequest) -> bool:
        with contextlib.ExitStack() as stack:
            if self.frozen is not None:
                stack.enter_context(contextlib.closing(self.frozen))
                if not self.frozen.prepare(stop, self.unreadable):
                    self._save_last(stopped=True)
                    return False
                release_free_memory()  # the frozen layers' activations
            batches = stack.enter_context(contextlib.closing(self._batches()))
            while self.state.epoch < self.recipe.schedule.epochs:
                val = self._validated(stop) if self._updated(batches, stop) else None
                if val is None:
                    self._save_last(stopped=True)
                    return False
                self._end_epoch(val)
            if self.ranks.first and self.saver.behind:
                self._write_last(finished=True)
        self._advise()
        return True

    def _advise(self) -> None:
        """A word to the user if the net has learnt nothing; chance is known for classes alone."""
        if self.latest is None or self.setup.task.needs_boxes:
            return
        advice = self.watch.verdict(self.latest)
        if advice:
            self.setup.observer.note(advice)

    def _batches(self) -> Generator[Batch, None, None]:
        if self.frozen is not None:
            return self.frozen.batches(self._plan())
        rule = self.setup.augmentation(self.start.colours, self.start.seed)
        loader = self.setup.loader(rule, self.net.preprocessing.filter, self.recipe.localise.least_seen)
        return loader.batches(self._plan())

    def _plan(self) -> Iterator[list[Job]]:
        """This process's share of every remaining batch of the run."""
        size, steps = self.recipe.sgd.batch_size, self.setup.steps
        for epoch in range(self.state.step // steps, self.recipe.schedule.epochs):
            order = epoch_order(self.start.seed, epoch, len(self.dataset.train))
            begin = max(0, self.state.step - epoch * steps)
            for number in range(begin, steps):
                rows = order[number * size : (number + 1) * size]
                share = math.ceil(len(rows) / self.ranks.world)
                places = range(self.ranks.rank * share, (self.ranks.rank + 1) * share)
                step = epoch * steps + number
                yield [self._job(epoch, step, p, int(rows[p])) if p < len(rows) else Job(None, step, p) for p in places]

    def _job(self, epoch: int, step: int, position: int, image: int) -> Job:
        crops = self.recipe.augment.crops
        variant = (epoch + image) % crops if crops else None
        return Job(self.dataset.train[image], step, position, image, variant)

    def _updated(self, batches: Iterator[Batch], stop: StopRequest) -> bool:
        """The remaining updates of an epoch; False where they were cut short."""
        state = self.state
        end = (state.epoch + 1) * self.setup.steps
        pending = torch.zeros(4, dtype=torch.float32, device=self.ranks.device)
        since, begin = 0, time.monotonic()
        while state.step < end:
            batch = next(batches)
            pending += self.trainer.update(batch, self.plateau.rate)
            self.unreadable.report(batch.failures)
            state.step += 1
            since += 1
            if self.ranks.device.type == "cuda" and since < CUDA_READ_EVERY and state.step < end:
                continue
            now = time.monotonic()
            state.seconds, begin = state.seconds + now - begin, now
            self._account(pending, since)
            pending, since = torch.zeros_like(pending), 0
            if state.step < end:
                stopping, saving = self.ranks.any(stop.asked, now - self._saved > self.setup.save_seconds)
                if stopping:
                    return False
                if saving:
                    self._save_last()
        return True

    def _account(self, pending: torch.Tensor, updates: int) -> None:
        """Adds the latest updates' totals to the epoch's, checks them, and tells the observer."""
        state = self.state
        recent = self.ranks.sum(pending).cpu().double()  # MPS has no float64
        state.totals, state.window = (
            [a + b for a, b in zip(sums, recent.tolist(), strict=True)] for sums in (state.totals, state.window)
        )
        if recent[3]:  # crops with a weight: not those that are unreadable or miss their object
            self.watch.loss(mean_errors(recent).loss, state, self.plateau.rate)
        train = mean_errors(torch.tensor(state.totals, dtype=torch.float64))
        speed = train.images / max(state.seconds, 1e-9)
        epoch, step = state.epoch + 1, state.step - state.epoch * self.setup.steps
        epochs, rate = self.recipe.schedule.epochs, self.plateau.rate
        self.setup.observer.step(StepReport(epoch, epochs, step, self.setup.steps, train, rate, speed))
        if state.step // METRICS_EVERY > (state.step - updates) // METRICS_EVERY:
            now, state.window = mean_errors(torch.tensor(state.window, dtype=torch.float64)), [0.0] * 4
            self._measure("updates", epoch, loss=now.loss, top1=now.top1, top5=now.top5, images_per_second=speed)

    def _measure(self, kind: str, epoch: int, **values: float) -> None:
        """A line in metrics.jsonl."""
        if self.ranks.first:
            rounded = {name: round(value, 6) for name, value in values.items()}
            place = {"kind": kind, "step": self.state.step, "epoch": epoch, "rate": self.plateau.rate}
            self.metrics.append(**place, **rounded)

    def _validated(self, stop: StopRequest) -> Errors | None:
        """Errors on the centre view of the validation images, each process reading its share; None if cut short."""
        samples = list(enumerate(self.dataset.val))[self.ranks.rank :: self.ranks.world]
        jobs = [Job(sample, image=number) for number, sample in samples]
        plan: list[Sequence[Job]] = [jobs[i : i + VALIDATION_BATCH] for i in range(0, len(jobs), VALIDATION_BATCH)]
        centre = CentreView(self.recipe.augment.Q)
        source = self.frozen or self.setup.loader(centre, self.net.preprocessing.filter, 0.0)
        failures: list[tuple[str, str]] = []

        def until_stopped() -> Iterator[Batch]:
            for batch in source.batches(plan):
                if stop.asked:
                    return
                failures.extend(batch.failures)
                yield batch

        self._collector = None if self.setup.task.needs_boxes else Collector()
        total = self.trainer.validate(until_stopped(), self._collector)
        self.unreadable.report(failures)
        if any(self.ranks.any(stop.asked)):
            return None
        return mean_errors(self.ranks.sum(total).cpu())

    def _end_epoch(self, val: Errors) -> None:
        """Schedule, metrics and checkpoints after a validation."""
        state, schedule, rate = self.state, self.recipe.schedule, self.plateau.rate
        self.watch.weights(self.net, state, rate)
        self.watch.validation(val, state, rate)
        if self.ranks.first and not self.setup.files.last.exists():
            self._write_last()  # a run that is killed with `best` alone could not be resumed
        train = mean_errors(torch.tensor(state.totals, dtype=torch.float64))
        state.epoch += 1
        speed = train.images / max(state.seconds, 1e-9)
        self._measure(
            "epoch",
            state.epoch,
            loss=train.loss,
            top1=train.top1,
            top5=train.top5,
            val_loss=val.loss,
            val_top1=val.top1,
            val_top5=val.top5,
            images_per_second=speed,
            seconds=state.seconds,
        )
        measure = val.measure(schedule.measure)
        judged = val.images > 0  # else the errors are NaN, which no later epoch would be less than
        fell = judged and self.plateau.update(measure)
        self.latest = val
        best = judged and (not state.best or [measure, val.loss] < state.best)
        if best:
            state.best = [measure, val.loss]
            if self._collector is not None:
                self.predicted = self._collector.gathered(self.ranks, state.epoch)
        report = EpochReport(
            state.epoch, schedule.epochs, train, val, rate, self.plateau.rate, speed, state.seconds, best
        )
        start = self.start
        self.net.training_record = training_record(
            self.recipe, self.dataset, start.colours, start.origin, start.seed, state, val
        )
        state.totals, state.seconds = [0.0] * 4, 0.0
        if self.ranks.first and best:
            self.saver.best(self.net)
        rested = time.monotonic() - self._saved > SAVING_SHARE * self._saving
        if any(self.ranks.any(rested, state.epoch >= schedule.epochs)):
            self._save_last()
        self.setup.observer.epoch(report)
        if not judged:
            self.setup.observer.note("no validation image could be read: this epoch cannot be the best")
        if fell:
            self.setup.observer.note(
                f"{schedule.measure} stopped falling: the rate goes from {rate:g} to {self.plateau.rate:g}"
            )

    def _save_last(self, stopped: bool = False) -> None:
        """Writes the newest state, with what every process knows; all of them call it together."""
        self.watch.weights(self.net, self.state, self.plateau.rate)
        self.unreadable.share(self.ranks)
        begin = time.monotonic()
        written = self._write_last(stopped=stopped) if self.ranks.first else True
        self._saved = time.monotonic()
        if written:  # not the time spent waiting for another program
            self._saving = self._saved - begin

    def _write_last(self, *, stopped: bool = False, finished: bool = False) -> bool:
        return self.saver.last(
            self.net,
            self.state,
            stopped=stopped,
            finished=finished,
            recipe=plain(self.recipe),
            data=data_digest(self.dataset),
            origin=self.start.origin,
            run_seed=self.start.seed,
            colours=plain(self.start.colours),
            plateau=self.plateau.state(),
            optimizer=self.trainer.optimizer.state_dict(),
            scaler=self.trainer.scaler.state_dict(),
            predicted=self.predicted and self.predicted.record(),
        )
