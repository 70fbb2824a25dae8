"""Warnings that point at the line which called the library, however many functions lie in between."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

COMMANDS = "vggfeat.cli"
"""The command line calls the library as any program does."""


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Issues a warning about the nearest calling line outside of the library."""
    frame: FrameType | None = sys._getframe(1)
    level = 2  # what called this function
    while frame is not None and _inside(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _inside(module: str) -> bool:
    return f"{module}.".startswith("vggfeat.") and not f"{module}.".startswith(f"{COMMANDS}.")
