"""How texts for people name a net, so that random or narrow nets are never mistaken for published ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any


def size_words(net: str, width: float) -> str:
    """`D`, `A, width 1/16`."""
    return net if width == 1 else f"{net}, {width_words(width)}"


def width_words(width: float) -> str:
    """`width 1/16`."""
    return f"width {Fraction(width).limit_denominator(128)}"


def net_words(net: str, weights: str, width: float = 1.0) -> str:
    """`D (oxford)`, `A, width 1/16 (net.pt)`, `A, width 1/16, random weights`."""
    words = size_words(net, width)
    return f"{words}, random weights" if weights == "none" else f"{words} ({weights})"


def nets_words(nets: Iterable[Mapping[str, Any]]) -> str:
    """The same for several nets as descriptor files record them."""
    return " and ".join(net_words(net["net"], net["weights"], net["width"]) for net in nets)
