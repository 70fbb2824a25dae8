"""The standard streams of a command: always there, and stderr never ends a run. Imports nothing of ours."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class _Dropping(io.RawIOBase):
    """A raw stream that drops what cannot be written.

    Notes and progress are for whoever watches. That their reader or terminal has gone (`2>&1 | head -1`), or that the
    disk of a log is full, is no reason to end a run of hours, nor to end it as though it were done.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream  # which closes its raw stream when nothing refers to it any more
        self._raw = getattr(stream.buffer, "raw", stream.buffer)  # python -u has no buffer in between

    def write(self, data: bytes) -> int:  # type: ignore[override]
        try:
            written = self._raw.write(data)
        except OSError:
            written = None
        return len(data) if written is None else written  # None: a pipe that is full and does not wait

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._raw.isatty()

    def fileno(self) -> int:
        return self._raw.fileno()


def settle() -> None:
    """Fills in streams that the caller closed (`2>&-`), and makes stderr drop what it cannot write.

    To be called before any file is opened: it would get the closed stream's number, and in it what libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - a number
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", newline="\n", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", newline="\n", closefd=False)  # noqa: SIM115
    sys.stderr = _dropping(sys.stderr)


def _dropping(stream: Any) -> io.TextIOWrapper:
    """The text stream, over a raw one that drops what it cannot write."""
    return io.TextIOWrapper(
        io.BufferedWriter(_Dropping(stream)),  # type: ignore[type-var]
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=True,
        write_through=True,
    )
