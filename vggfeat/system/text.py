"""Escape control characters in untrusted text before display."""

from __future__ import annotations


def printable(text: str) -> str:
    """A name with its control characters and non-UTF-8 bytes escaped (`\\x1b`, `\\udce9`)."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
