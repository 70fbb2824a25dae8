"""Pictures that were decoded in the background, told from the samples that gave none."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from vggfeat.errors import ImageError, ReadError

T = TypeVar("T")


@dataclass(frozen=True)
class Decoded:
    """Which of some samples gave a picture, and why the others did not."""

    number: int
    """Samples, those that failed included."""
    rows: list[int]
    """Of the pictures among the samples."""
    failures: dict[int, str]
    """Reasons by row."""
    unread: frozenset[int]
    """Those of the failures that are no fault of the images: their bytes could not be had."""


def collected(started: Sequence[Future[T]]) -> tuple[Decoded, list[T]]:
    """Waits for decoding that was started: which rows came out, and their pictures in order."""
    failures: dict[int, str] = {}
    unread: set[int] = set()
    pictures: dict[int, T] = {}
    for row, future in enumerate(started):
        try:
            pictures[row] = future.result()
        except ImageError as error:
            failures[row] = str(error)
            if isinstance(error, ReadError):
                unread.add(row)
    return Decoded(len(started), list(pictures), failures, frozenset(unread)), list(pictures.values())
