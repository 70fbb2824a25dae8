"""Samples -> descriptors block by block: while the net works on one block, the next is being decoded."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any, Protocol, TypeVar

from vggfeat.datasets import Sample
from vggfeat.datasets.decoding import READ_TIMEOUT
from vggfeat.datasets.outage import MAX_READ_FAILURES, never_read, until_outage
from vggfeat.store import FAILED, PENDING, DescriptorWriter
from vggfeat.store.pooling import Described
from vggfeat.system.memory import keep_freed_memory, release_free_memory

log = logging.getLogger(__name__)

BLOCK = 16
"""Rows computed and committed together. Blocks follow from the input list alone, so that a resumed run forms the
same ones and its values are the same bits."""

PATIENCE = 60.0
"""Seconds without a picture after which the images that are waited for are named, over and over."""

Result = TypeVar("Result", covariant=True)


class Describer(Protocol[Result]):
    """What runs nets over samples: an Extractor, a Scorer, whose rows are posteriors, or a Localiser."""

    @property
    def in_background(self) -> bool:
        """Whether `start` returns before the nets are done."""

    def prepare(self, samples: Sequence[Sample]) -> Sequence[Any]:
        """Starts decoding."""

    def start(self, prepared: Any) -> Any:
        """Gives the nets their work."""

    def collect(self, running: Any) -> Result:
        """What `start` began."""


def blocks_of(n: int) -> list[range]:
    """The blocks of n rows."""
    return [range(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def describe_blocks(
    extractor: Describer[Result], samples: Sequence[Sample], blocks: Sequence[range], *, resumable: bool = False
) -> Iterator[tuple[range, Result]]:
    """The descriptors of these blocks of samples, in order.

    On the CPU, which decodes and computes with the same cores, one block is decoded ahead. A GPU has a block under way
    while the one before it is handed on, and more blocks decoded ahead, so that a large picture holds nobody up.

    Raises OutageError for a picture that is not read in half an hour. `resumable`: the blocks go into a file that a
    later run goes on with, as the error then says.
    """
    keep_freed_memory()
    decoded_ahead, running_ahead = (4, 1) if extractor.in_background else (1, 0)
    decoding = deque(extractor.prepare(samples[rows.start : rows.stop]) for rows in blocks[:decoded_ahead])
    running: deque[tuple[range, Any]] = deque()
    for number, rows in enumerate(blocks):
        for following in blocks[number + decoded_ahead : number + decoded_ahead + 1]:
            decoding.append(extractor.prepare(samples[following.start : following.stop]))
        prepared = decoding.popleft()
        _name_the_slow(samples[rows.start : rows.stop], prepared, resumable)
        running.append((rows, extractor.start(prepared)))
        if len(running) > running_ahead:
            done, started = running.popleft()
            yield done, extractor.collect(started)
            release_free_memory()
    for done, started in running:
        yield done, extractor.collect(started)


def _name_the_slow(samples: Sequence[Sample], prepared: Sequence[Future[Any]], resumable: bool) -> None:
    """Waits for pictures, naming those that take minutes: a share that never answers would hang a run without a word.

    Raises OutageError where one is hopeless. No thread can be ended from outside, so the run cannot go on without it.
    """
    begun = time.monotonic()
    while waiting := wait(prepared, timeout=PATIENCE).not_done:
        slow = [sample.id for sample, one in zip(samples, prepared, strict=True) if one in waiting and one.running()]
        names, seconds = ", ".join(slow[:3]) or samples[0].id, time.monotonic() - begun
        if seconds >= READ_TIMEOUT:
            raise never_read([names], READ_TIMEOUT, resumable)
        log.warning("still reading %s after %.0f s; the run ends after %.0f", names, seconds, READ_TIMEOUT)


def fill(
    writer: DescriptorWriter,
    extractor: Describer[Described],
    progress: Callable[[int, int, int], None] | None = None,
    max_read_failures: int = MAX_READ_FAILURES,
) -> None:
    """Describes and writes the rows of the writer's data set that are still to do.

    `progress` is called with (rows done, rows, rows failed) at the start and after each block. Raises OutageError
    where so many images in a row cannot be read; their rows are still to do then.
    """
    samples = writer.dataset.samples

    def tick() -> None:
        if progress is not None:
            done, failed = int((writer.status != PENDING).sum()), int((writer.status == FAILED).sum())
            progress(done, len(samples), failed)

    tick()
    pending = writer.pending(blocks_of(len(samples)))
    described_blocks = describe_blocks(extractor, samples, pending, resumable=True)
    for rows, described in until_outage(described_blocks, samples, max_read_failures):
        writer.write(rows, described)
        tick()
