"""Samples -> descriptors block by block: while the net works on one block, the next is being decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from vggfeat.datasets import Sample
from vggfeat.extractor import Extractor
from vggfeat.memory import release_free_memory, separate_large_blocks
from vggfeat.pooling import Described
from vggfeat.store import FAILED, PENDING, DescriptorWriter

BLOCK = 16
"""Rows computed and committed together. Blocks follow from the input list alone, so that a resumed run forms the
same ones and its values are the same bits."""


def blocks_of(n: int) -> list[range]:
    """The blocks of n rows."""
    return [range(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def describe_blocks(
    extractor: Extractor, samples: Sequence[Sample], blocks: Sequence[range]
) -> Iterator[tuple[range, Described]]:
    """The descriptors of these blocks of samples, in order, one block decoded ahead."""
    separate_large_blocks()
    started = [extractor.prepare(samples[rows.start : rows.stop]) for rows in blocks[:1]]
    for rows, following in zip(blocks, [*blocks[1:], None], strict=True):
        if following is not None:
            started.append(extractor.prepare(samples[following.start : following.stop]))
        yield rows, extractor.finish(started.pop(0))
        release_free_memory()


def fill(
    writer: DescriptorWriter, extractor: Extractor, progress: Callable[[int, int, int], None] | None = None
) -> None:
    """Describes and writes the rows of the writer's data set that are still to do.

    `progress` is called with (rows done, rows, rows failed) at the start and after each block.
    """
    samples = writer.dataset.samples

    def tick() -> None:
        if progress is not None:
            done, failed = int((writer.status != PENDING).sum()), int((writer.status == FAILED).sum())
            progress(done, len(samples), failed)

    tick()
    for rows, described in describe_blocks(extractor, samples, writer.pending(blocks_of(len(samples)))):
        writer.write(rows, described)
        tick()
