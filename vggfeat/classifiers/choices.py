"""The names of losses and solvers, and the default grid of C: what the command line offers without importing NumPy."""

from __future__ import annotations

from typing import Literal

Loss = Literal["squared_hinge", "hinge"]
LOSSES: tuple[Loss, ...] = ("squared_hinge", "hinge")

Solver = Literal["auto", "newton", "liblinear"]
SOLVERS: tuple[Solver, ...] = ("auto", "newton", "liblinear")

C_GRID = tuple(10.0 ** (k / 2) for k in range(-4, 4))
"""The values of C to choose from: 10^-2 to 10^1.5 in half decades."""
