"""Which engine solves a problem: by loss, solver, and numbers of rows and features."""

from __future__ import annotations

from vggfeat.classifiers.engine import Engine, Problem
from vggfeat.classifiers.gram_engine import GramEngine
from vggfeat.classifiers.liblinear_engine import LiblinearEngine
from vggfeat.classifiers.limits import Limits
from vggfeat.classifiers.primal_engine import PrimalEngine
from vggfeat.system.callers import warn_caller


def choose_engine(problem: Problem, loss: str, solver: str) -> Engine:
    """The engine of a problem; warns where it has to be LIBLINEAR although `solver` is "auto"."""
    n, d = problem.X.shape
    limits = problem.limits
    if solver != "liblinear" and loss == "squared_hinge":
        if _faster_on_weights(n, d, limits):
            return PrimalEngine(problem)
        if solver == "newton" or n <= limits.gram_rows:
            return GramEngine(problem)
        warn_caller(
            f"{n} rows are more than the {limits.gram_rows} whose Gram matrix fits in memory: "
            "fitting with LIBLINEAR, one class after another"
        )
    elif solver == "auto":
        warn_caller("the plain hinge is fitted with LIBLINEAR, one class after another")
    return LiblinearEngine(problem, loss)


def _faster_on_weights(n: int, d: int, limits: Limits) -> bool:
    """Whether n rows of d features are solved faster on the weights than on the Gram matrix, or only there."""
    if d <= limits.primal_features:
        return d < n
    if d > limits.many_features:
        return False
    return n > limits.gram_rows or n >= limits.rows_per_feature * d or 3 * d <= 2 * n <= 2 * limits.double_rows
