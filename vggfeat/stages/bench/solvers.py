"""Which of Newton's two forms solves a problem faster on this machine, and which one the SVMs take by themselves.

On the Gram matrix a step costs in proportion to (images)^2, on the weights to (images) x (values)^2; where they meet
depends on the processor's products of matrices, so it is measured.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggfeat.classifiers.choices import C_GRID
from vggfeat.classifiers.estimator import SVMPath
from vggfeat.classifiers.limits import Limits
from vggfeat.classifiers.primal_engine import PrimalEngine
from vggfeat.results import Result
from vggfeat.stages.bench.problems import FORM_CLASSES, FORM_SIZES, Form, Size
from vggfeat.stages.bench.svm import problem
from vggfeat.system.bars import Progress

FORCED: dict[Form, Limits] = {
    "gram": Limits(primal_features=0, many_features=0),
    "primal": Limits(primal_features=2**31),
}


@dataclass(frozen=True)
class FormSeconds(Result):
    """One problem: rows, features and one-vs-rest classes, and how long each form takes."""

    images: int
    values: int
    classes: int
    seconds: dict[Form, float]
    """For the whole grid of C on all rows, certificates included."""
    chosen: Form
    """The one that LinearSVM takes by itself."""

    @property
    def lost(self) -> float:
        """How many times as long as the faster form the chosen one takes: 1 for the right choice."""
        return self.seconds[self.chosen] / min(self.seconds.values())


@dataclass(frozen=True)
class SolverBench(Result):
    """The problems of one run."""

    problems: tuple[FormSeconds, ...]

    def as_json(self) -> dict[str, Any]:
        """See Result."""
        return {"problems": [one.as_json() | {"lost": one.lost} for one in self.problems]}


def bench_solvers(
    sizes: Sequence[tuple[int, int]] = FORM_SIZES,
    *,
    classes: int = FORM_CLASSES,
    Cs: Sequence[float] = C_GRID,
    progress: Progress | None = None,
) -> SolverBench:
    """Fits synthetic descriptors of each size in both forms.

    Args:
        sizes: (images, values a descriptor), each with more images than values.
        classes: one-vs-rest problems, with an equal number of images each.
        Cs: the grid, solved from the smallest on.
        progress: called with (problems done, problems, 0).
    """
    rows: list[FormSeconds] = []
    for images, values in sizes:
        X, y, _ = problem(Size(classes=classes, dim=values, per_class=-(-images // classes)))
        X, y = X[:images], y[:images]
        seconds = {form: _seconds(X, y, Cs, limits) for form, limits in FORCED.items()}
        engine = SVMPath(X, y).engine
        chosen: Form = "primal" if isinstance(engine, PrimalEngine) else "gram"
        rows.append(FormSeconds(images, values, classes, seconds, chosen))
        if progress is not None:
            progress(len(rows), len(sizes), 0)
    return SolverBench(tuple(rows))


def _seconds(X: NDArray[np.float32], y: NDArray[Any], Cs: Sequence[float], limits: Limits) -> float:
    start = time.perf_counter()
    SVMPath(X, y, limits=limits).fits(Cs)
    return time.perf_counter() - start
