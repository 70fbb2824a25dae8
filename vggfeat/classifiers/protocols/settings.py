"""What `svm` asks of its classifiers. Imports no scikit-learn, which takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggfeat.classifiers.choices import C_GRID, LOSSES, SOLVERS
from vggfeat.errors import UsageError
from vggfeat.metrics import Definition
from vggfeat.system.values import one_of, real


@dataclass(frozen=True)
class Settings:
    """How classifiers are fitted and judged."""

    Cs: tuple[float, ...] = C_GRID
    """Ascending."""
    solver: str = "auto"
    loss: str = "squared_hinge"
    definition: Definition = "voc2010"
    """Of the average precision, for multi-label sets."""
    probabilities: bool = False
    """Whether the fit on all training images calibrates class probabilities too."""
    max_memory: float | None = None
    """GiB that the fits may take; None: whatever they take with all descriptors in memory."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "solver", one_of("solver", self.solver, SOLVERS))
        object.__setattr__(self, "loss", one_of("loss", self.loss, LOSSES))
        if self.max_memory is not None:
            object.__setattr__(self, "max_memory", real("max_memory", self.max_memory))
            if not real("max_memory", self.max_memory) > 0:
                raise UsageError(f"`max_memory` {self.max_memory:g} is not above 0")
        if not self.Cs or not all(0 < C < float("inf") for C in self.Cs):
            raise UsageError(f"`C={','.join(f'{C:g}' for C in self.Cs)}`: every value must be above 0 and finite")
        if list(self.Cs) != sorted(set(self.Cs)):
            raise UsageError(f"`C={','.join(f'{C:g}' for C in self.Cs)}`: the grid must ascend without repetition")
        if self.loss == "hinge" and self.solver == "newton":
            raise UsageError("the plain hinge has no Newton solver: take `solver=liblinear` or `loss=squared_hinge`")
        if self.max_memory is not None and "liblinear" in (self.solver, "liblinear" if self.loss == "hinge" else ""):
            raise UsageError("`max_memory` goes with Newton's method on the squared hinge: LIBLINEAR copies all images")


def check_kept(probabilities: bool, output: str | Path | None) -> None:
    """Raises UsageError for probabilities without a model that would keep them."""
    if probabilities and output is None:
        raise UsageError("`probabilities` are kept in the model: name its file with `output`")


def costs_of(C: float | Sequence[float] | NDArray[np.floating]) -> tuple[float, ...]:
    """One cost or a grid, as a list, a tuple or an array of one dimension. Raises UsageError for anything else."""
    wrong = UsageError(f"`C` is {C!r}, neither a number nor a grid of numbers")
    try:
        values = np.asarray(C)
    except ValueError:  # lists of several lengths
        raise wrong from None
    if values.dtype.kind not in "iuf" or values.ndim > 1:
        raise wrong
    return tuple(np.atleast_1d(values).astype(float).tolist())
