"""Samples -> batches of crops, decoded ahead by threads while the net computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from vggfeat.datasets import Sample
from vggfeat.datasets.decoding import READ_TIMEOUT, Decoders
from vggfeat.datasets.images import decode, rescaled_crop
from vggfeat.datasets.outage import never_read
from vggfeat.errors import DatasetError, ImageError
from vggfeat.nets.catalog import INPUT_SIDE, Filter
from vggfeat.system.numbers import number_of
from vggfeat.training.augment import Colours, CropView, Moments, colours, moments
from vggfeat.training.tasks import box_targets

T = TypeVar("T")

AHEAD = 3
"""Batches being decoded while one is in use."""

_CHUNK = 8  # images a task: then handing it to a thread costs little beside decoding


@dataclass(frozen=True, slots=True)
class Job:
    """One place of a batch: its image, and the update and position in the whole batch that decide its crop."""

    sample: Sample | None
    """None: an empty place, so that every process has a batch of the same length."""
    step: int = 0
    position: int = 0
    image: int = 0
    """Number of the image in its list."""
    variant: int | None = None
    """Which of the image's fixed crops; None: the one of this update."""

    @property
    def draw(self) -> tuple[int, int]:
        """The numbers that decide the crop."""
        return (self.step, self.position) if self.variant is None else (self.variant, self.image)


_Part = tuple[Sequence[Job], Future[None]]
"""A few jobs of a batch, and the task that reads their images."""


class CropRule(Protocol):
    """Chooses a picture's crop: Augmentation or CentreView."""

    def view(self, size: tuple[int, int], step: int, position: int) -> CropView:
        """The view of a picture of that (width, height)."""


@dataclass
class Batch:
    """Crops with their labels. Places without an image, or with an unreadable one, have weight 0."""

    crops: Tensor
    """(N, 224, 224, 3) uint8 RGB; empty where `features` stand for them."""
    shifts: Tensor
    """(N, 3) grey levels to add to R, G, B."""
    labels: Tensor
    """(N,) int64."""
    weights: Tensor
    """(N,) 1 or 0."""
    step: int
    position: int
    """Of its first place in the whole batch."""
    failures: list[tuple[str, str]]
    """(id, reason) of the images that could not be read."""
    boxes: Tensor | None = None
    """(N, M, 4) targets of the images' objects, the one to learn first, padded with NaN; None without boxes."""
    features: Tensor | None = None
    """(N, ...) float32: the frozen layers' outputs, in place of crops."""


class CropLoader:
    """Reads batches with a pool of threads: Pillow decodes and rescales without Python's lock.

    Args:
        rule: chooses each image's crop.
        filter: of the rescaling.
        exif: honour EXIF orientation.
        workers: threads; 0 decodes in the caller's own thread.
        pin: page-locked batches, for asynchronous copies to a CUDA device.
        least_seen: for localisation: share of an object that a crop must show to have a weight; None: no boxes.
    """

    def __init__(
        self,
        rule: CropRule,
        filter: Filter,
        *,
        exif: bool,
        workers: int,
        pin: bool = False,
        least_seen: float | None = None,
    ) -> None:
        self.rule, self.filter, self.exif, self.workers, self.pin = rule, filter, exif, workers, pin
        self.least_seen = least_seen

    def batches(self, plan: Iterable[Sequence[Job]]) -> Generator[Batch, None, None]:
        """One batch for each list of jobs, in order."""
        if self.workers == 0:
            for jobs in plan:
                batch = self._empty(jobs)
                self._fill(batch, jobs, 0)
                yield batch
            return
        with Decoders(self.workers) as pool:
            waiting: deque[tuple[Batch, list[_Part]]] = deque()
            for jobs in plan:
                batch, parts = self._empty(jobs), []
                for start in range(0, len(jobs), _CHUNK):
                    chunk = jobs[start : start + _CHUNK]
                    parts.append((chunk, pool.submit(self._fill, batch, chunk, start)))
                waiting.append((batch, parts))
                if len(waiting) > AHEAD:
                    yield _finished(waiting.popleft())
            while waiting:
                yield _finished(waiting.popleft())

    def _empty(self, jobs: Sequence[Job]) -> Batch:
        n = len(jobs)
        return Batch(
            torch.zeros(n, INPUT_SIDE, INPUT_SIDE, 3, dtype=torch.uint8, pin_memory=self.pin),
            torch.zeros(n, 3, dtype=torch.float32),
            torch.zeros(n, dtype=torch.int64),
            torch.zeros(n, dtype=torch.float32),
            jobs[0].step,
            jobs[0].position,
            [],
            None if self.least_seen is None else self._no_boxes(jobs),
        )

    def _no_boxes(self, jobs: Sequence[Job]) -> Tensor:
        most = max([1, *(len(job.sample.boxes) for job in jobs if job.sample is not None)])
        return torch.full((len(jobs), most, 4), torch.nan, dtype=torch.float32, pin_memory=self.pin)

    def _fill(self, batch: Batch, jobs: Sequence[Job], start: int) -> None:
        """Reads the jobs' images into the batch's places from `start` on."""
        crops, shifts = batch.crops.numpy(), batch.shifts.numpy()
        last: Sample | None = None  # several crops of one picture in a row decode it once
        for place, job in enumerate(jobs, start):
            if job.sample is None:
                continue
            try:
                if job.sample is not last:
                    last, picture = None, decode(job.sample.source(), exif=self.exif)
                    last = job.sample
                view = self.rule.view(picture.size, *job.draw)
                crop = rescaled_crop(picture, view.Q, view.left, view.top, INPUT_SIDE, self.filter)
            except ImageError as error:
                batch.failures.append((job.sample.id, str(error)))
                continue
            crops[place] = crop[:, ::-1] if view.flip else crop
            shifts[place] = view.shift
            batch.labels[place] = job.sample.labels  # type: ignore[assignment]  # single-label: the split checked it
            batch.weights[place] = 1.0
            if batch.boxes is not None and self.least_seen is not None:
                targets, seen = box_targets(job.sample.boxes, view, picture.size, self.least_seen)
                batch.boxes[place, : len(targets)] = torch.from_numpy(targets)
                batch.weights[place] = float(seen)


def _finished(entry: tuple[Batch, list[_Part]]) -> Batch:
    batch, parts = entry
    for jobs, reading in parts:
        _result(reading, [job.sample.id for job in jobs if job.sample is not None])
    return batch


def _result(reading: Future[T], ids: Sequence[str]) -> T:
    """The result of reading these images. Raises OutageError, naming them, after half an hour."""
    try:
        return reading.result(READ_TIMEOUT)
    except TimeoutError:
        raise never_read(ids, READ_TIMEOUT) from None


def colours_of(samples: Sequence[Sample], count: int, *, exif: bool, workers: int) -> Colours:
    """Colours of `count` of the samples, evenly spaced over the list (0: all), each at its own size.

    Unreadable images are left out. Raises DatasetError where all are unreadable, OutageError where reading hangs.
    """
    if 0 < count < len(samples):
        samples = [samples[i] for i in np.linspace(0, len(samples) - 1, count).round().astype(int)]
    with Decoders(workers) as pool:  # an interrupt does not wait for thousands of pictures
        started = [pool.submit(_moments, sample, exif) for sample in samples]
        found = (_result(reading, [sample.id]) for sample, reading in zip(samples, started, strict=True))
        try:
            return colours(entry for entry in found if entry is not None)
        except ValueError:
            raise DatasetError(
                f"none of {number_of(len(samples), 'training image')} can be read, the first {samples[0].path}"
            ) from None


def _moments(sample: Sample, exif: bool) -> Moments | None:
    try:
        return moments(np.asarray(decode(sample.source(), exif=exif)))
    except ImageError:
        return None
