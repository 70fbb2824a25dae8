"""What a run is refused for by its options and its files' names, before a picture is read. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from vggfeat.errors import RecipeError, UsageError
from vggfeat.nets.preprocessing import preprocessing_of
from vggfeat.nets.sources import check_weights
from vggfeat.system.files import check_creatable, same_file
from vggfeat.system.launch import launched
from vggfeat.training.files import RunFiles
from vggfeat.training.recipe import Init, Recipe, dump_recipe, load_recipe


def check_request(
    recipe: Recipe, files: RunFiles, *, resume: bool, overwrite: bool, source: str | Path | None = None
) -> None:
    """Raises UsageError and WeightsError for files that the run would lose or that it lacks.

    A run that goes on has its weights: the trained net that it began with may be gone.

    Args:
        source: the file that the recipe was read from, if any.
    """
    files.check(resume=resume, overwrite=overwrite)
    _check_others_files(files, overwrite, source)
    launch = launched()
    if launch is None or launch.rank == 0:  # the others write nothing
        check_creatable(files.best)
    if recipe.init.checkpoint and not (resume and files.last.exists()):
        _check_checkpoint(recipe.init, recipe.net, recipe.width)


def _check_others_files(files: RunFiles, overwrite: bool, source: str | Path | None) -> None:
    """Raises UsageError where the run would replace files that no run wrote: a recipe with its comments, say.

    A run writes its recipe first, and so one that was interrupted before its first checkpoint is known by it.
    """
    written = _is_a_runs(files.recipe)
    if source is not None and not written and same_file(source, files.recipe):
        raise UsageError(f"{source}: the run would replace this recipe by its resolved form: name another `output`")
    if overwrite or written or files.best.exists() or files.last.exists():
        return
    there = next((path for path in (files.recipe, files.metrics, files.curves) if path.exists()), None)
    if there is not None:
        raise UsageError(f"{there} exists, and no run wrote it: name another `output`, or replace it by `overwrite`")


def _is_a_runs(recipe: Path) -> bool:
    """Whether a file is a resolved recipe, every key of it in a run's own words."""
    try:
        return recipe.is_file() and recipe.read_text(encoding="utf-8") == dump_recipe(load_recipe(recipe))
    except (OSError, ValueError, RecipeError):
        return False


def _check_checkpoint(init: Init, net: str, width: float) -> None:
    """Raises the error of `load_net` for a trained net that does not exist or that this run cannot take."""
    if init.checkpoint == "none":
        raise RecipeError("`init.checkpoint=none`: random weights are no trained net; leave it out")
    chosen = preprocessing_of(init.preprocessing) if init.preprocessing else None
    check_weights(net, init.checkpoint, width, chosen=chosen, setting="init.checkpoint")
