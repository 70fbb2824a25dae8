"""Text that comes from strangers, made fit to be shown."""

from __future__ import annotations


def printable(text: str) -> str:
    """A name with its control characters and bytes that are no UTF-8 made visible (`\\x1b`, `\\udce9`)."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
