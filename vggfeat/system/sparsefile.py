"""A file in memory whose unwritten parts take no space."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

PAGE = 1 << 16
"""Bytes allocated at a time."""


class SparseFile(io.RawIOBase):
    """A file of any length up to the system's limit; unwritten bytes read as zeros."""

    def __init__(self) -> None:
        super().__init__()
        self._pages: dict[int, bytearray] = {}
        self._size = 0
        self._position = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a position, which may lie beyond the end."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        """Position of the next read or write."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer, or as much of it as the file still has."""
        target = memoryview(buffer).cast("B")
        count = max(0, min(len(target), self._size - self._position))
        for number, inside, outside in _pieces(self._position, count):
            page = self._pages.get(number)
            target[outside] = page[inside] if page is not None else bytes(inside.stop - inside.start)
        self._position += count
        return count

    def write(self, data: Any) -> int:
        """Writes all of the data."""
        source = memoryview(data).cast("B")
        for number, inside, outside in _pieces(self._position, len(source)):
            page = self._pages.setdefault(number, bytearray(PAGE))
            page[inside] = source[outside]
        self._position += len(source)
        self._size = max(self._size, self._position)
        return len(source)

    def truncate(self, size: int | None = None) -> int:
        """Changes the length; bytes cut off read as zeros if the file grows again."""
        self._size = self._position if size is None else size
        last, inside = divmod(self._size, PAGE)
        for number in [number for number in self._pages if number >= last]:
            if number > last or not inside:
                del self._pages[number]
            else:
                self._pages[number][inside:] = bytes(PAGE - inside)
        return self._size

    def copy_to(self, stream: BinaryIO) -> None:
        """Copies the written parts to an empty file, and gives it the same length."""
        for number, page in sorted(self._pages.items()):
            stream.seek(number * PAGE)
            stream.write(page[: max(0, self._size - number * PAGE)])
        stream.truncate(self._size)


def _pieces(start: int, count: int) -> Iterator[tuple[int, slice, slice]]:
    """(page, slice of it, slice of the `count` bytes) for each page that [start, start + count) touches."""
    done = 0
    while done < count:
        number, inside = divmod(start + done, PAGE)
        step = min(PAGE - inside, count - done)
        yield number, slice(inside, inside + step), slice(done, done + step)
        done += step
