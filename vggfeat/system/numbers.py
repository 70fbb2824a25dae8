"""Counts in words for people."""

from __future__ import annotations


def number_of(count: int, noun: str, plural: str = "") -> str:
    """`1 image`, `2 images`, `3 classes`; a verb comes with `plural`, as in ("image is", "images are")."""
    usual = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural or usual}"
