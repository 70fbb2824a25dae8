"""Names of any kind, which may have control characters and bytes that are not UTF-8."""

from __future__ import annotations

import codecs
import io
import os
from typing import TextIO


def printable(text: str) -> str:
    """A name with its control characters and non-UTF-8 bytes escaped (`\\x1b`, `\\udce9`)."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def as_argument(path: str | os.PathLike[str]) -> str:
    """A path as a command's argument: one that begins with a dash would be taken for an option."""
    text = os.fspath(path)
    return f"./{text}" if text.startswith("-") and text != "-" else text


def name_bytes(name: str) -> bytes:
    """A name as UTF-8, and the bytes outside UTF-8 of a Linux file's name as they are.

    `os.fsencode` does this on Linux alone: elsewhere the same names would get other bytes, and so other hashes.
    """
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, which Windows allows in names
        return name.encode("utf-8", "surrogatepass")


def name_of(data: bytes) -> str:
    """The name that `name_bytes` wrote."""
    return data.decode("utf-8", "surrogateescape")


def write_utf8(stream: TextIO) -> None:
    """Makes a redirected stream UTF-8: Windows would write its code page, which lacks most letters of file names.

    The bytes of names that are no UTF-8 stay as they are. A terminal keeps its encoding.
    """
    if isinstance(stream, io.TextIOWrapper) and not stream.isatty() and codecs.lookup(stream.encoding).name != "utf-8":
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")
