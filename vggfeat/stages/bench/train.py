"""How fast this machine trains: updates, the loader that feeds them, and what a second process costs and brings."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

from vggfeat.datasets import Sample
from vggfeat.errors import UsageError
from vggfeat.nets.catalog import INPUT_SIDE, NUM_CLASSES, net_spec
from vggfeat.results import Result
from vggfeat.stages.bench.plain_training import HEAD_BATCH, RATE, plain_rates, random_net
from vggfeat.stages.bench.timing import FULL, Effort, median_seconds
from vggfeat.stages.bench.yardsticks import machine, make_photos, matrix_rate, training_flops
from vggfeat.system.bars import Progress
from vggfeat.system.devices import Precision, resolve_device, resolve_precision
from vggfeat.system.launch import default_workers
from vggfeat.training.augment import Augmentation, Colours
from vggfeat.training.crops import Batch, CropLoader, Job
from vggfeat.training.ranks import Ranks, process_group
from vggfeat.training.recipe import Sgd
from vggfeat.training.trainer import Trainer

PROCESSES = 2

PHOTOS = 48
"""Number of pictures for the loader."""

COLOURS = Colours(
    (123.68, 116.78, 103.94), (0.22, 0.019, 0.006), ((0.57, 0.58, 0.58), (-0.7, 0.0, 0.7), (0.4, -0.8, 0.4))
)
"""About ILSVRC's; their values do not change the work."""


@dataclass(frozen=True)
class UpdateRate(Result):
    """Training updates of one process in one number format."""

    precision: str
    images_per_second: float
    seconds_per_update: float
    micro_batch: int
    tflops: float
    matrix_tflops: float
    share_of_matrix_rate: float
    times_plain_torchvision: float | None
    """None where there is no plain loop."""

    def as_json(self) -> dict[str, Any]:
        """Without a ratio that does not exist."""
        return {name: value for name, value in super().as_json().items() if value is not None}


@dataclass(frozen=True)
class HeadRate(Result):
    """Updates of the fully-connected layers alone, on kept outputs of frozen ones (`train --trainable fc`)."""

    precision: str
    width: float
    batch_size: int
    images_per_second: float
    seconds_per_update: float
    times_plain_torchvision: float | None
    """None where there is no plain loop."""


@dataclass(frozen=True)
class LoaderRate(Result):
    """The loader alone: decode, rescale, random crop, flip and colour shift."""

    threads: int
    images_per_second: float
    per_thread: float


@dataclass(frozen=True)
class Synchronisation(Result):
    """Updates of two processes, each on half of the batch, with and without averaging their gradients."""

    processes: int
    backend: str
    threads_per_process: int
    precision: str
    images_per_process: int
    gradient_megabytes: float
    seconds_per_update_without: float
    seconds_per_update: float
    seconds_of_synchronisation: float
    seconds_of_all_reduce_alone: float
    images_per_second: float


@dataclass(frozen=True)
class TrainBenchmark(Result):
    """How fast a machine trains."""

    net: str
    width: float
    batch_size: int
    machine: dict[str, Any]
    plain_torchvision_images_per_second: float | None
    """Of a plain loop with torchvision's module: NCHW, fp32, the same net and batch in memory. None where torchvision
    has no such net, or the whole batch at once does not fit into memory."""
    runs: tuple[UpdateRate, ...]
    head: tuple[HeadRate, ...]
    loader: tuple[LoaderRate, ...]
    synchronisation: Synchronisation | None
    """None where two processes cannot be measured."""
    synchronisation_missing: str | None = None
    """Why they were not measured."""

    def as_json(self) -> dict[str, Any]:
        """Plain data, under the names of the command's JSON."""
        both = self.synchronisation
        return super().as_json() | {
            "runs": [row.as_json() for row in self.runs],
            "head": [row.as_json() for row in self.head],
            "loader": [row.as_json() for row in self.loader],
            "synchronisation": both.as_json() if both else None,
        }


def bench_train(
    net: str = "D",
    *,
    width: float | None = None,
    batch_size: int | None = None,
    precisions: Sequence[str] = ("auto",),
    device: str | None = None,
    progress: Progress | None = None,
    effort: Effort = FULL,
) -> TrainBenchmark:
    """Images/s of training updates (Sect. 3.1: forward, backward, SGD), of the fully-connected layers' alone, of the
    loader, and of two processes.

    Args:
        net: a net of Table 1, with random weights and 1000 classes.
        width: factor on its channels; by default 1 on a GPU and 1/4 on a CPU, where a full net takes minutes. The
            fully-connected layers alone are always measured at full width by default.
        batch_size: images an update; by default the paper's 256 on a GPU and 32 on a CPU.
        precisions: number formats to try; the first one is that of the two processes.
        progress: called with (parts done, parts, 0).
        effort: how much to measure.

    Raises UsageError for a net, batch, precision or device that makes no sense here.
    """
    net, place = net_spec(net).name, resolve_device(device)
    gpu = place.type == "cuda"
    head_width = 1.0 if width is None else width
    width = (1.0 if gpu else 0.25) if width is None else width
    size = (256 if gpu else 32) if batch_size is None else batch_size
    if size < PROCESSES:
        raise UsageError(
            f"a batch of {size} does not split over {PROCESSES} processes: `batch_size={PROCESSES}` at least"
        )
    formats = [resolve_precision(precision, place, training=True) for precision in precisions]
    parts, tick = 2 * len(formats) + 4, progress or (lambda done, total, failed: None)

    plain = plain_rates(net, width, head_width, size, place, effort)
    tick(2, parts, 0)
    rows, heads = [], []
    for done, precision in enumerate(formats):
        rows.append(_measured(net, width, size, precision, place, plain.whole, effort))
        tick(3 + 2 * done, parts, 0)
        heads.append(_measured_head(net, head_width, precision, place, plain.head, effort))
        tick(4 + 2 * done, parts, 0)
    loader = _loader_rates(effort.loaded)
    tick(parts - 1, parts, 0)
    both, missing = _synchronisation(net, width, size, formats[0], place, effort)
    tick(parts, parts, 0)
    return TrainBenchmark(
        net, width, size, machine(place), plain.whole, tuple(rows), tuple(heads), tuple(loader), both, missing
    )


def _measured(
    net: str, width: float, size: int, precision: Precision, device: torch.device, plain: float | None, effort: Effort
) -> UpdateRate:
    """Updates of one process in one number format."""
    trainer = _trainer(net, width, size, precision, Ranks(0, 1, device))
    seconds = _seconds_an_update(trainer, size, effort)
    work = size * training_flops(trainer.net.spec, width, trainer.net.num_classes)
    peak = matrix_rate(precision, device, side=effort.matrix_side)
    return UpdateRate(
        precision,
        images_per_second=size / seconds,
        seconds_per_update=seconds,
        micro_batch=trainer.micro_batch,
        tflops=work / seconds / 1e12,
        matrix_tflops=peak / 1e12,
        share_of_matrix_rate=work / seconds / peak,
        times_plain_torchvision=size / seconds / plain if plain else None,
    )


def _measured_head(
    net: str, width: float, precision: Precision, device: torch.device, plain: float | None, effort: Effort
) -> HeadRate:
    """Updates of the fully-connected layers alone, in one number format."""
    sgd = Sgd(batch_size=HEAD_BATCH, trainable="fc")
    trainer = Trainer(
        random_net(net, width), sgd, seed=0, precision=precision, ranks=Ranks(0, 1, device), computed=True
    )
    batch = replace(_random_batch(HEAD_BATCH), features=torch.rand(HEAD_BATCH, *trainer.form.frozen_shape()))
    seconds = median_seconds(lambda: trainer.update(batch, RATE), device, effort)
    rate = HEAD_BATCH / seconds
    return HeadRate(precision, width, HEAD_BATCH, rate, seconds, rate / plain if plain else None)


def _trainer(net: str, width: float, size: int, precision: Precision, ranks: Ranks) -> Trainer:
    """A trainer for batches of `size` images over all processes."""
    return Trainer(random_net(net, width), Sgd(batch_size=size), seed=0, precision=precision, ranks=ranks)


def _seconds_an_update(trainer: Trainer, images: int, effort: Effort, position: int = 0) -> float:
    """Median over updates on a random batch, this process's share from `position` on."""
    batch = _random_batch(images, position)
    return median_seconds(lambda: trainer.update(batch, RATE), trainer.ranks.device, effort)


def _random_batch(images: int, position: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        torch.randint(0, 256, (images, INPUT_SIDE, INPUT_SIDE, 3), dtype=torch.uint8, generator=generator),
        torch.randn(images, 3, generator=generator),
        torch.randint(0, NUM_CLASSES, (images,), generator=generator),
        torch.ones(images),
        0,
        position,
        [],
    )


def _loader_rates(loaded: int) -> list[LoaderRate]:
    """Crops/s of the loader on one and on all cores."""
    viewer = Augmentation((256, 256), True, 0.1, COLOURS, 0)
    with tempfile.TemporaryDirectory(prefix="vggfeat-bench-") as folder:
        samples = [Sample(path, path, 0) for path in make_photos(Path(folder), PHOTOS)]
        plan = [
            [Job(samples[place % PHOTOS], 0, place) for place in range(start, start + PHOTOS)]
            for start in range(0, loaded, PHOTOS)
        ]
        rates = []
        for threads in dict.fromkeys((1, default_workers())):
            loader = CropLoader(viewer, "bilinear", exif=False, workers=threads)
            for _ in loader.batches(plan[:1]):
                pass  # from here on the files are in the page cache
            start = time.perf_counter()
            crops = sum(len(batch.labels) for batch in loader.batches(plan))
            rate = crops / (time.perf_counter() - start)
            rates.append(LoaderRate(threads, rate, rate / threads))
    return rates


# Two processes


def _synchronisation(
    net: str, width: float, size: int, precision: Precision, device: torch.device, effort: Effort
) -> tuple[Synchronisation | None, str | None]:
    """The cost of averaging gradients, or why it was not measured; a failure leaves the other figures as they are."""
    cuda = device.type == "cuda" and torch.cuda.device_count() >= PROCESSES
    if not effort.processes or not (cuda or device.type == "cpu"):
        return None, "needs two CUDA devices, or a CPU run"
    share = size // PROCESSES
    with tempfile.TemporaryDirectory(prefix="vggfeat-bench-") as folder:
        answer = Path(folder) / "first.json"
        arguments = (_free_port(), net, width, share, precision, device.type, str(answer), effort)
        try:
            multiprocessing.spawn(_process, arguments, nprocs=PROCESSES)
            return Synchronisation(**json.loads(answer.read_text(encoding="utf-8"))), None
        except (
            multiprocessing.ProcessRaisedException,
            multiprocessing.ProcessExitedException,
            OSError,
            RuntimeError,
        ) as error:
            words = str(error).strip().splitlines() or [type(error).__name__]
            return None, f"they failed: {words[-1]}"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def _process(
    rank: int,
    port: int,
    net: str,
    width: float,
    share: int,
    precision: Precision,
    device: str,
    answer: str,
    effort: Effort,
) -> None:
    """One of the two: the same updates alone, then together, then the all-reduce by itself; the first one reports."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(PROCESSES),
        "LOCAL_WORLD_SIZE": str(PROCESSES),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(default_workers(PROCESSES))
    with process_group(torch.device(device)) as ranks:
        # Both processes compute at the same time in either case, as they share memory bandwidth and caches.
        trainer = _trainer(net, width, share, precision, Ranks(0, 1, ranks.device))
        distributed.barrier()
        alone = _seconds_an_update(trainer, share, effort)
        gradients = sum(p.numel() for p in trainer.net.parameters())
        trainer.close()
        trainer = _trainer(net, width, share * PROCESSES, precision, ranks)
        distributed.barrier()
        together = _seconds_an_update(trainer, share, effort, position=rank * share)
        trainer.close()
        values = torch.zeros(gradients, device=ranks.device)
        reduce = median_seconds(lambda: distributed.all_reduce(values), ranks.device, effort)
        if ranks.first:
            figures = Synchronisation(
                processes=PROCESSES,
                backend=distributed.get_backend(),
                threads_per_process=torch.get_num_threads(),
                precision=precision,
                images_per_process=share,
                gradient_megabytes=gradients * values.element_size() / 1e6,
                seconds_per_update_without=alone,
                seconds_per_update=together,
                seconds_of_synchronisation=together - alone,
                seconds_of_all_reduce_alone=reduce,
                images_per_second=share * PROCESSES / together,
            )
            Path(answer).write_text(json.dumps(figures.as_json()), encoding="utf-8", newline="\n")
    # gloo's threads can abort an interpreter during its shutdown; everything is written by now.
    os._exit(0)
