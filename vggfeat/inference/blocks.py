"""Samples -> results block by block: while the nets work on one block, the next is being decoded."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

from vggfeat.datasets import Sample
from vggfeat.datasets.decoding import READ_TIMEOUT, Decoded, collected
from vggfeat.datasets.outage import never_read, until_outage
from vggfeat.inference.settings import RunOptions
from vggfeat.store import FAILED, PENDING, DescriptorWriter
from vggfeat.store.pooling import Described
from vggfeat.system.memory import keep_freed_memory, keep_no_longer

if TYPE_CHECKING:  # imports torch
    from vggfeat.inference.runner import Found, Runner, Work

log = logging.getLogger(__name__)

BLOCK = 16
"""Rows computed and committed together. Blocks follow from the input list alone, so that a resumed run forms the
same ones and its values are the same bits on a CPU; on a GPU, where full memory halves a pass, to rounding."""

PATIENCE = 60.0
"""Seconds between two warnings that name the images which are still being read."""


def blocks_of(n: int, size: int = BLOCK) -> list[range]:
    """The blocks of n rows."""
    return [range(start, min(start + size, n)) for start in range(0, n, size)]


def describe_blocks(
    runner: Runner[Work, Found],
    samples: Sequence[Sample],
    blocks: Sequence[range] | None = None,
    *,
    resumable: bool = False,
    patience: float | None = None,
) -> Iterator[tuple[range, Found]]:
    """The results of the samples block by block, in order.

    On the CPU, which decodes and computes with the same cores, one block is decoded ahead. A GPU computes a block while
    the one before it is handed on, and more blocks are decoded ahead, so that a large picture delays nothing.

    Args:
        blocks: those of `blocks_of` to compute; None: all.
        resumable: the blocks go into a file that a later run can continue, as an OutageError then says.
        patience: seconds between two warnings that name slow images; None: PATIENCE.

    Raises OutageError for a picture that is not read in half an hour.
    """
    blocks = blocks_of(len(samples)) if blocks is None else blocks
    patience = PATIENCE if patience is None else patience
    keep_freed_memory()
    try:
        yield from _described(runner, samples, blocks, resumable, patience)
    finally:
        keep_no_longer()


def _described(
    runner: Runner[Work, Found], samples: Sequence[Sample], blocks: Sequence[range], resumable: bool, patience: float
) -> Iterator[tuple[range, Found]]:
    decoded_ahead, running_ahead = (4, 1) if runner.in_background else (1, 0)
    decoding = deque(runner.prepare(samples[rows.start : rows.stop]) for rows in blocks[:decoded_ahead])
    running: deque[tuple[range, Decoded, Work]] = deque()
    for number, rows in enumerate(blocks):
        for following in blocks[number + decoded_ahead : number + decoded_ahead + 1]:
            decoding.append(runner.prepare(samples[following.start : following.stop]))
        prepared = decoding.popleft()
        _name_the_slow(samples[rows.start : rows.stop], prepared, resumable, patience)
        decoded, rescaled = collected(prepared)
        running.append((rows, decoded, runner.run(rescaled)))
        if len(running) > running_ahead:
            done, decoded, work = running.popleft()
            yield done, runner.gather(decoded, work)
    for done, decoded, work in running:
        yield done, runner.gather(decoded, work)


def _name_the_slow(
    samples: Sequence[Sample], prepared: Sequence[Future[Any]], resumable: bool, patience: float
) -> None:
    """Waits for pictures and warns of those that take long: a lost share must not hang a run silently.

    Raises OutageError after READ_TIMEOUT seconds: a thread cannot be ended from outside, so no image can be skipped.
    """
    begun = time.monotonic()
    while waiting := wait(prepared, timeout=patience).not_done:
        slow = [sample.id for sample, one in zip(samples, prepared, strict=True) if one in waiting and one.running()]
        names, seconds = ", ".join(slow[:3]) or samples[0].id, time.monotonic() - begun
        if seconds >= READ_TIMEOUT:
            raise never_read([names], READ_TIMEOUT, resumable)
        log.warning("still reading %s after %.0f s; the run ends after %.0f", names, seconds, READ_TIMEOUT)


def fill(writer: DescriptorWriter, runner: Runner[Any, Described], options: RunOptions | None = None) -> None:
    """Computes and writes the rows of the writer's data set that are still to do.

    `options.progress` is called with (rows done, rows, rows failed) at the start and after each block. Raises
    OutageError where `options.max_read_failures` images in a row cannot be read; their rows stay to do.
    """
    options = options or RunOptions()
    samples = writer.dataset.samples

    def tick() -> None:
        if options.progress is not None:
            done, failed = int((writer.status != PENDING).sum()), int((writer.status == FAILED).sum())
            options.progress(done, len(samples), failed)

    tick()
    described = describe_blocks(runner, samples, writer.pending(blocks_of(len(samples))), resumable=True)
    for rows, block in until_outage(described, samples, options.max_read_failures):
        writer.write(rows, block)
        tick()
