"""What a run is refused for by its options and its files' names, before a picture is read. Imports no torch."""

from __future__ import annotations

from vggfeat.errors import RecipeError
from vggfeat.nets.preprocessing import preprocessing_of
from vggfeat.nets.sources import check_weights
from vggfeat.system.files import check_creatable
from vggfeat.system.launch import launched
from vggfeat.training.files import RunFiles
from vggfeat.training.recipe import Init, Recipe


def check_request(recipe: Recipe, files: RunFiles, *, resume: bool, overwrite: bool) -> None:
    """Raises UsageError and WeightsError for files that the run would lose or that it lacks.

    A run that goes on has its weights: the trained net that it began with may be gone.
    """
    files.check(resume=resume, overwrite=overwrite)
    launch = launched()
    if launch is None or launch.rank == 0:  # the others write nothing
        check_creatable(files.best)
    if recipe.init.checkpoint and not (resume and files.last.exists()):
        _check_checkpoint(recipe.init, recipe.net, recipe.width)


def _check_checkpoint(init: Init, net: str, width: float) -> None:
    """Raises the error of `load_net` for a trained net that does not exist or that this run cannot take."""
    if init.checkpoint == "none":
        raise RecipeError("`init.checkpoint=none`: random weights are no trained net; leave it out")
    chosen = preprocessing_of(init.preprocessing) if init.preprocessing else None
    check_weights(net, init.checkpoint, width, chosen=chosen, setting="init.checkpoint")
