"""Number formats by name. Imports no torch, so that the command line can list them at once."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["fp32", "tf32", "bf16", "fp16"]

PRECISIONS: tuple[str, ...] = ("auto", *get_args(Precision))
"""What `precision` may be."""
