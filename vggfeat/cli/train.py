"""`vggfeat train`."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import Any

import click

from vggfeat.cli.advice import RECIPE_FLAGS
from vggfeat.cli.exit_codes import INTERRUPTED, SKIPPED
from vggfeat.cli.options import data_option, dataset_option, device_options, manners, refuse
from vggfeat.cli.types import PATH, Choice, Net
from vggfeat.datasets.split import load_training_set
from vggfeat.errors import UsageError
from vggfeat.page.html import check_page
from vggfeat.system.launch import launched
from vggfeat.system.numbers import number_of
from vggfeat.training.files import RunFiles
from vggfeat.training.recipe import HEADS, INIT_SCHEMES, TASKS, Recipe, load_recipe
from vggfeat.training.request import check_request


class _Side(click.ParamType):
    """A training scale: `256`, or `256-512`."""

    name = "S"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """An int, or [min, max]."""
        try:
            sides = [int(word) for word in str(value).split("-")]
        except ValueError:
            sides = []
        if len(sides) not in (1, 2):
            self.fail(f"{value!r} is not a training scale such as 256 or 256-512", param, ctx)
        return sides[0] if len(sides) == 1 else sides


@click.command()
@click.option("--net", metavar="NET", type=Net(), help="A, A-LRN, B, C, D, E or shallow-B.  [default: D]")
@click.option(
    "--recipe", "recipe_file", type=PATH, metavar="FILE", help="TOML, such as recipes/E-256.toml; flags override it."
)
@click.option("--task", type=Choice(TASKS), help="localise: learn boxes.  [default: classify]")
@click.option("--head", type=Choice(HEADS), help="Boxes: one per class (pcr), or one for all (scr).  [default: pcr]")
@dataset_option(" [default: ilsvrc2012]")
@data_option
@click.option(
    "--init-from",
    metavar="CKPT",
    help="Start from a trained net's layers: a file of this --net and --width, or published.",
)
@click.option(
    "--preprocessing",
    type=PATH,
    metavar="NAME|FILE.toml",
    help="What the weights of CKPT expect of an image, if the file does not say.",
)
@click.option("--init", type=Choice(INIT_SCHEMES), help="How layers that are not in CKPT start.  [default: glorot]")
@click.option("--init-std", type=float, help="Standard deviation of --init gaussian.  [default: 0.01]")
@click.option(
    "--trainable",
    metavar="all|fc|LAYER",
    help="Layers to train: all, the fully-connected ones, or those from LAYER on (conv5_1, fc8).  [default: all]",
)
@click.option(
    "--crops",
    type=click.IntRange(0),
    metavar="K",
    help="K fixed crops per image: frozen layers run once for each. 0: always new.  [default: 2 with frozen layers]",
)
@click.option("--cache/--no-cache", default=True, help="Keep the outputs of frozen layers on disk.  [default: cache]")
@click.option("--S", "S", type=_Side(), metavar="S|MIN-MAX", help="Training scale.  [default: 256]")
@click.option("--width", type=float, help="Factor on every layer's channels.  [default: 1]")
@click.option("--epochs", type=int, help="[default: 74; with frozen layers 20]")
@click.option("--batch-size", type=int, help="Images per update, over all processes.  [default: 256; frozen 64]")
@click.option("--learning-rate", type=float, help="Initial learning rate.  [default: 0.01; localise, frozen 0.001]")
@click.option("--seed", type=int, help="Seed of weights, crops, order and dropout.  [default: 0]")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set any key of the recipe, such as schedule.patience=3.",
)
@click.option(
    "--output",
    "-o",
    type=PATH,
    metavar="DIR|FILE.pt",
    help="[default: checkpoints/<dataset>-<net>-<S>[-<trainable>][-localise-<head>]]",
)
@click.option(
    "--report",
    "folder",
    type=PATH,
    metavar="DIR",
    help="Write a page with the curves, the confusions and the surest mistakes.",
)
@click.option("--resume", is_flag=True, help="Continue the run in --output, or begin it.")
@click.option("--overwrite", is_flag=True, help="Begin anew.")
@click.option("--workers", type=click.IntRange(0), help="Decoding threads per process.  [default: one per core]")
@click.option("--micro-batch", type=click.IntRange(1), help="Images computed at a time.  [default: as many as fit]")
@device_options(training=True)
@manners
@click.pass_context
def train(
    ctx: click.Context,
    recipe_file: str | None,
    data: str,
    settings: tuple[str, ...],
    output: str | None,
    folder: str | None,
    resume: bool,
    overwrite: bool,
    workers: int | None,
    micro_batch: int | None,
    cache: bool,
    device: str | None,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Train a net by the paper's recipe (Sect. 3.1): on ILSVRC, or on a tree of your own pictures.

    To fine-tune a trained net on your own pictures, one folder per class, train its last layers: with
    --trainable fc the others run once for each crop, and their outputs are kept on disk.

    With --task localise its last layer learns boxes instead (Appendix A), on the images of ILSVRC that have them.

    Prints the path of the best checkpoint (least validation error); the last one, the resolved recipe, metrics.jsonl
    and curves.png lie beside it. The same command under torchrun uses several GPUs or machines. An interrupted run
    saves its state, ends with code 130 and continues with --resume.

    \b
    Examples:
      vggfeat train --net D --init-from published --trainable fc \\
          --dataset folder --data photos
      vggfeat train --net E
      vggfeat train --recipe recipes/D-384.toml
      vggfeat train --net D --S 384 --task localise --init-from D-384.pt
      vggfeat train --net A --width 0.125 --dataset folder --data photos
      torchrun --nproc-per-node 4 -m vggfeat train --net D
    """
    if ctx.get_parameter_source("precision") is click.core.ParameterSource.DEFAULT:
        flags["precision"] = None  # the shared option's default must not override the recipe
    overrides = {key: flags[flag] for key, flag in RECIPE_FLAGS.items() if flags[flag] is not None}
    recipe = load_recipe(recipe_file, overrides | dict(_setting(text) for text in settings))
    _refuse_idle_flags(ctx, recipe)
    output = output or str(Path("checkpoints", recipe.name))
    # Before torch is imported, so that wrong names and missing data are reported at once.
    check_request(recipe, RunFiles.of(output), resume=resume, overwrite=overwrite, source=recipe_file)
    dataset = load_training_set(
        recipe.data.dataset,
        data,
        fraction=recipe.data.validation_fraction,
        seed=recipe.seed,
        boxes=recipe.task == "localise",
    )
    launch = launched()
    if launch is None or launch.rank == 0:  # which writes the page
        check_page(folder)
    from vggfeat.cli.console import note, print_json, say
    from vggfeat.cli.hints import hint
    from vggfeat.cli.training_display import TrainingDisplay, while_shown
    from vggfeat.metrics import TOP
    from vggfeat.page.training import page_of_run
    from vggfeat.stages.train import train as run

    top5 = len(dataset.class_names) > TOP
    with TrainingDisplay(RunFiles.of(output), quiet, top5) as display:
        result = run(
            recipe,
            dataset,
            output=output,
            resume=resume,
            overwrite=overwrite,
            workers=workers,
            device=device,
            micro_batch=micro_batch,
            cache=cache,
            observer=display,
        )
        display.finish()
    if not result.first:
        return
    if not result.finished:
        with while_shown():
            say(f"stopped after update {result.step}; {_going_on(ctx.obj)}")
        ctx.exit(INTERRUPTED)
    made = result.best or result.last  # no best one where no validation image could be read
    page = page_of_run(folder, RunFiles.of(output), output, data, dataset, result.predicted) if folder else None
    if as_json:
        print_json(result.as_json() | ({"report": str(page)} if page else {}))
    else:
        click.echo(made)
        if page:
            click.echo(page)
        hint(_done(recipe), quiet, path=str(made), data=[] if data == "data" else ["--data", data])
    if result.failed:
        if not quiet:
            verb = "was" if len(result.failed) == 1 else "were"
            note(f"{number_of(len(result.failed), 'image')} could not be read and {verb} skipped")
        # torchrun takes any code but 0 for the failure of the whole job.
        ctx.exit(SKIPPED if launched() is None else 0)


def _refuse_idle_flags(ctx: click.Context, recipe: Recipe) -> None:
    """Raises UsageError for a flag that would change nothing in this run."""
    if recipe.task != "localise":
        refuse(ctx, ["head"], "--task localise")
    if recipe.init.scheme != "gaussian":
        refuse(ctx, ["init_std"], "--init gaussian")
    if not recipe.init.checkpoint:
        refuse(ctx, ["preprocessing"], "--init-from")
    if not (recipe.frozen and recipe.augment.crops):
        refuse(ctx, ["cache"], "frozen layers (--trainable) and fixed crops (--crops)")


def _done(recipe: Recipe) -> str:
    """What was trained, by its name in hints.NEXT."""
    if recipe.task == "localise":
        return "train localise"
    return "train ilsvrc2012" if recipe.data.dataset == "ilsvrc2012" else "train"


def _setting(text: str) -> tuple[str, Any]:
    """`schedule.patience=3` -> its key and value; a value that is not TOML is taken as text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set {text}: expected KEY=VALUE, such as schedule.patience=3")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _going_on(arguments: list[str]) -> str:
    """How to resume this run."""
    if launched() is not None:
        return "the same torchrun command with --resume goes on"
    rest = [word for word in arguments if word not in ("--overwrite", "--resume")]
    return f"go on with: {shlex.join(['vggfeat', *rest, '--resume'])}"
