"""Distinguish a storage outage from bad images: many consecutive read failures mean that the disk is gone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from vggfeat.datasets import Sample
from vggfeat.errors import OutageError
from vggfeat.system.numbers import number_of

MAX_READ_FAILURES = 100
"""Consecutive read failures (ReadError) after which a run stops; the rows of these images stay pending."""


def when_back(resumable: bool = True) -> str:
    """What to do once a lost disk is back. `resumable`: a later run can continue the output."""
    again = "run it again with `resume`" if resumable else "run it again"
    return f"when the disk is back, {again}"


def never_read(ids: Sequence[str], seconds: float, resumable: bool = True) -> OutageError:
    """The error for pictures that were not read within `seconds`; `resumable` as in `when_back`."""
    names = " or ".join(ids)
    return OutageError(
        f"{names}: not read in {seconds / 60:.0f} minutes, its disk does not answer: {when_back(resumable)}"
    )


class Attempted(Protocol):
    """The result of a block of samples: Described, or a Localiser's Located."""

    @property
    def failures(self) -> dict[int, str]:
        """Reasons by row."""

    @property
    def unread(self) -> frozenset[int]:
        """The failures that are not the image's fault (ReadError)."""


Block = TypeVar("Block", bound=Attempted)


def until_outage(
    described: Iterable[tuple[range, Block]],
    samples: Sequence[Sample],
    most: int = MAX_READ_FAILURES,
    *,
    resumable: bool = True,
) -> Iterator[tuple[range, Block]]:
    """Yields blocks in order, delaying those whose images may be the beginning of an outage.

    Raises OutageError at the `most`-th consecutive read failure (0: never), before any block with one of them is
    yielded. `resumable`: a later run can continue the output, as the error then says.
    """
    held: list[tuple[range, Block]] = []
    streak = 0
    for rows, block in described:
        held.append((rows, block))
        for place, row in enumerate(rows):
            streak = streak + 1 if place in block.unread else 0
            if streak == most > 0:
                raise OutageError(
                    f"{number_of(most, 'image')} in a row cannot be read, the last {samples[row].id}: "
                    f"{block.failures[place]}; their rows stay pending: {when_back(resumable)} "
                    "(if they are truly gone, `max_read_failures=0` records them as failed)"
                )
        # Only blocks that the current streak reaches into have to wait.
        free = len(held) if streak == 0 or most == 0 else len(held) - 1 if streak < len(rows) else 0
        yield from held[:free]
        del held[:free]
    yield from held
