"""Telling a lost disk from broken images: where very many in a row cannot be read, none of them is to blame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from vggfeat.datasets import Sample
from vggfeat.errors import OutageError

MAX_READ_FAILURES = 100
"""Images in a row that cannot be read (ReadError) before a run stops with their rows still to do."""


def when_back(resumable: bool = True) -> str:
    """What to do about a disk that has gone. `resumable`: the run's output can be gone on with."""
    again = "the same command with --resume goes on" if resumable else "run the same command again"
    return f"when the disk is back, {again}"


def never_read(ids: Sequence[str], seconds: float, resumable: bool = True) -> OutageError:
    """The error for pictures, or one of them, that were waited for so long in vain; `resumable` as in `when_back`."""
    names = " or ".join(ids)
    return OutageError(
        f"{names}: not read in {seconds / 60:.0f} minutes, its disk does not answer: {when_back(resumable)}"
    )


class Attempted(Protocol):
    """What became of a block of samples: Described, or a Localiser's Located."""

    @property
    def failures(self) -> dict[int, str]:
        """Reasons by row."""

    @property
    def unread(self) -> frozenset[int]:
        """Those of the failures that are no fault of the images."""


Block = TypeVar("Block", bound=Attempted)


def until_outage(
    described: Iterable[tuple[range, Block]],
    samples: Sequence[Sample],
    most: int = MAX_READ_FAILURES,
    *,
    resumable: bool = True,
) -> Iterator[tuple[range, Block]]:
    """Passes blocks on, holding those back whose images may be the beginning of an outage.

    Raises OutageError at the `most`-th failure in a row, before any block with one of them was passed on; 0: never.
    `resumable`: the blocks go into a file that a later run goes on with, as the error then says.
    """
    held: list[tuple[range, Block]] = []
    streak = 0
    for rows, block in described:
        held.append((rows, block))
        for place, row in enumerate(rows):
            streak = streak + 1 if place in block.unread else 0
            if streak == most > 0:
                raise OutageError(
                    f"{most} images in a row cannot be read, the last {samples[row].id}: {block.failures[place]}; "
                    f"nothing is kept of them: {when_back(resumable)} "
                    "(where they are truly gone, --max-read-failures 0 records them as failed)"
                )
        # Only the blocks that the present streak reaches into have to wait.
        free = len(held) if streak == 0 or most == 0 else len(held) - 1 if streak < len(rows) else 0
        yield from held[:free]
        del held[:free]
    yield from held
