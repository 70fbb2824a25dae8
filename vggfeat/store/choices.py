"""The names that a descriptor file's settings may have, apart from NumPy so that the command line's help is quick."""

from __future__ import annotations

from typing import Literal

Aggregate = Literal["stack", "average", "max"]
AGGREGATES: tuple[Aggregate, ...] = ("stack", "average", "max")
"""Ways to aggregate scales (Appendix B)."""

LAYER_SEPARATOR = "+"
"""Between the names of the layers that one file holds."""

STORES = ("float32", "float16")
"""Number formats that descriptors may have in their file."""

POSTERIORS = "posteriors"
"""The `layer` of a file of class posteriors: one row an image, one column a class."""
