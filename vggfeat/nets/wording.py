"""How texts for people name a net, so that random or narrow nets are never mistaken for published ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any


def net_words(net: str, weights: str, width: float = 1.0) -> str:
    """`D (oxford)`, `A, width 1/16 (net.pt)`, `A, width 1/16, random weights`."""
    words = net if width == 1 else f"{net}, width {Fraction(width).limit_denominator(128)}"
    return f"{words}, random weights" if weights == "none" else f"{words} ({weights})"


def nets_words(nets: Iterable[Mapping[str, Any]]) -> str:
    """The same for several nets as descriptor files record them."""
    return " and ".join(net_words(net["net"], net["weights"], net["width"]) for net in nets)
