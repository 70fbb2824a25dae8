"""Frozen layers run once: their outputs for every fixed crop are kept in a file, and training reads them from there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Generator, Iterable, Iterator, Sequence

import numpy as np
import torch

from vggfeat.datasets.split import data_digest
from vggfeat.errors import UsageError
from vggfeat.system.numbers import number_of
from vggfeat.training.augment import CentreView
from vggfeat.training.begin import Start
from vggfeat.training.crops import Batch, CropRule, Job
from vggfeat.training.features import DONE, FeatureFile, Layout, gigabytes
from vggfeat.training.record import files_digest, plain
from vggfeat.training.setup import RunSetup
from vggfeat.training.signals import StopRequest
from vggfeat.training.trainer import CPU_MICRO_BATCH
from vggfeat.training.watch import UnreadableImages

CHUNK = {"cpu": CPU_MICRO_BATCH}
"""Crops computed together, by the type of device; a request to stop is heard between them."""

GPU_CHUNK = 64


class FrozenOutputs:
    """The outputs for the fixed crops of the training images, then for the centre views of the validation images."""

    def __init__(self, setup: RunSetup, start: Start) -> None:
        self.setup, self.start, self.trainer = setup, start, start.trainer
        self.crops = setup.recipe.augment.crops
        """Fixed crops of each training image."""
        samples = (*setup.dataset.train, *setup.dataset.val)
        rows = len(setup.dataset.train) * self.crops + len(setup.dataset.val)
        boxes = max(len(sample.boxes) for sample in samples) if setup.task.needs_boxes else 0
        fingerprint = setup.ranks.shared(self._fingerprint() if setup.ranks.first else "")
        self.layout = Layout(fingerprint, rows, self.trainer.form.frozen_shape(), boxes)
        self.path = setup.files.features
        self.file: FeatureFile | None = None

    def prepare(self, stop: StopRequest, unreadable: UnreadableImages) -> bool:
        """Computes the outputs that are missing; False where a signal ended it early. All processes call it together.

        Raises TrainingError where the disk has too little space, UsageError where processes do not see the same file.
        """
        file = self._opened()
        pending = np.flatnonzero(file.records["status"] != DONE)
        self._announce(len(pending))
        self.setup.ranks.wait()  # no process begins to write before all have read what is there
        mine = np.array_split(pending, self.setup.ranks.world)[self.setup.ranks.rank]
        done = 0
        try:
            for batch, rows in self._computed(file, mine):
                done += len(rows)
                # The other processes' progress is not known: their shares differ by one at most.
                self.setup.observer.frozen(min(self.setup.ranks.world * done, len(pending)), len(pending))
                unreadable.report(batch.failures)
                if stop.asked:
                    break
        finally:
            file.commit()
        unreadable.share(self.setup.ranks)
        return not any(self.setup.ranks.any(stop.asked))

    def batches(self, plan: Iterable[Sequence[Job]]) -> Generator[Batch, None, None]:
        """One batch for each list of jobs, as CropLoader's, with outputs in place of crops; `prepare` comes first."""
        assert self.file is not None
        for jobs in plan:
            rows = [self._row(job) for job in jobs]
            features, records = self.file.read([row or 0 for row in rows])
            there = np.array([row is not None for row in rows])
            labels = [job.sample.labels if job.sample is not None else 0 for job in jobs]
            yield Batch(
                torch.empty(0),
                torch.empty(0),
                torch.tensor(labels, dtype=torch.int64),
                torch.from_numpy(records["weight"] * there),
                jobs[0].step,
                jobs[0].position,
                [],
                torch.from_numpy(records["boxes"].copy()) if self.layout.boxes else None,
                features,
            )

    def close(self) -> None:
        """Closes the file."""
        if self.file is not None:
            self.file.close()

    def _row(self, job: Job) -> int | None:
        """The place of a job's crop in the file; None for an empty place."""
        if job.sample is None:
            return None
        if job.variant is None:
            return len(self.setup.dataset.train) * self.crops + job.image
        return job.image * self.crops + job.variant

    def _jobs(self, rows: Iterable[int]) -> list[tuple[int, Job]]:
        """The rows with the crops whose outputs belong there."""
        train, val = self.setup.dataset.train, self.setup.dataset.val
        first = len(train) * self.crops  # of the validation images
        jobs = []
        for row in map(int, rows):
            image, variant = divmod(row, self.crops) if row < first else (row - first, None)
            sample = train[image] if row < first else val[image]
            jobs.append((row, Job(sample, image=image, variant=variant)))
        return jobs

    def _computed(self, file: FeatureFile, rows: Iterable[int]) -> Iterator[tuple[Batch, Sequence[int]]]:
        """Computes and writes the outputs of some rows, a chunk at a time."""
        jobs = self._jobs(rows)
        parts: list[tuple[CropRule, float, list[tuple[int, Job]]]] = [
            (
                self.setup.augmentation(self.start.colours, self.start.seed),
                self.setup.recipe.localise.least_seen,
                [entry for entry in jobs if entry[1].variant is not None],
            ),
            (CentreView(self.setup.recipe.augment.Q), 0.0, [entry for entry in jobs if entry[1].variant is None]),
        ]
        for rule, least_seen, entries in parts:
            loader = self.setup.loader(rule, self.start.net.preprocessing.filter, least_seen)
            size = CHUNK.get(self.setup.ranks.device.type, GPU_CHUNK)
            chunks = [entries[start : start + size] for start in range(0, len(entries), size)]
            batches = loader.batches([[job for _, job in chunk] for chunk in chunks])
            for chunk, batch in zip(chunks, batches, strict=True):
                self._write(file, chunk, batch)
                yield batch, [row for row, _ in chunk]

    def _write(self, file: FeatureFile, chunk: Sequence[tuple[int, Job]], batch: Batch) -> None:
        unread = {name for name, _ in batch.failures}
        outputs = self.trainer.frozen(batch).numpy()
        for place, (row, job) in enumerate(chunk):
            if job.sample is not None and job.sample.id in unread:
                file.fail(row)
            else:
                boxes = None if batch.boxes is None else batch.boxes[place].numpy()
                file.write(row, outputs[place], float(batch.weights[place]), boxes)

    def _opened(self) -> FeatureFile:
        """The file, which the first process makes unless there is one for these outputs."""
        ranks = self.setup.ranks
        if ranks.first and not FeatureFile.matches(self.path, self.layout):
            FeatureFile.make(self.path, self.layout)
        ranks.wait()  # the file is there
        if any(ranks.any(not FeatureFile.matches(self.path, self.layout))):
            raise UsageError(
                f"{self.path}: not every process sees this file, which keeps the frozen layers' outputs: take an "
                "`output` in a folder that all machines share, or `cache=False`"
            )
        self.file = FeatureFile(self.path, self.layout)
        return self.file

    def _announce(self, pending: int) -> None:
        train, val, total = len(self.setup.dataset.train), len(self.setup.dataset.val), self.layout.rows
        frozen = self.setup.recipe.frozen
        left = "all there" if not pending else f"{total - pending} there" if pending < total else "computed now"
        self.setup.observer.note(
            f"layers {frozen[0]} to {frozen[-1]} are frozen and run once: outputs for "
            f"{number_of(train * self.crops, 'crop')} ({self.crops} an image) and "
            f"{number_of(val, 'validation image')}, in {self.path} "
            f"({gigabytes(self.layout.size)}, {left})"
        )

    def _fingerprint(self) -> str:
        """A hash of everything that changes an output: images and their files, boxes, crops, frozen weights, number
        format."""
        recipe, net = self.setup.recipe, self.start.net
        augment = {name: value for name, value in plain(recipe.augment).items() if name != "colour_images"}
        described = {
            "data": data_digest(self.setup.dataset),
            "files": files_digest(self.setup.dataset),
            "exif": self.setup.dataset.exif,
            "augment": augment,
            "colours": plain(self.start.colours),
            "seed": self.start.seed,
            "least_seen": recipe.localise.least_seen if self.setup.task.needs_boxes else None,
            "net": recipe.net,
            "frozen": list(recipe.frozen),
            "preprocessing": dataclasses.asdict(net.preprocessing),
            "precision": recipe.precision,
        }
        digest = hashlib.sha256(json.dumps(described).encode())
        for parameter in net.parameters():
            if not parameter.requires_grad:
                digest.update(parameter.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return digest.hexdigest()
