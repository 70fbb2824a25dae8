"""`vggfeat evaluate`."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from vggfeat.cli import console, progress, tables
from vggfeat.cli.exit_codes import SKIPPED
from vggfeat.cli.hints import hint, typed
from vggfeat.cli.options import (
    GIVEN,
    common,
    data_option,
    dataset_option,
    device_options,
    net_options,
    reading_options,
    refuse,
)
from vggfeat.cli.types import PATH, SCALES, Choice, Numbers, Several
from vggfeat.datasets.split import SUBSETS
from vggfeat.errors import nearest
from vggfeat.inference.settings import SCALE_RULES, VIEWS
from vggfeat.system.bars import in_megabytes
from vggfeat.system.text import as_argument


class ScalesOrRule(Numbers):
    """The paper's rule for one scale or for several, or the scales themselves."""

    rules = SCALE_RULES

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The rule's name, or the tuple of numbers."""
        if value in self.rules:
            return value
        if near := nearest(str(value), self.rules):
            self.fail(f"{value!r} is not a rule for scales; did you mean {near!r}?", param, ctx)
        return super().convert(value, param, ctx)


@click.command()
@click.argument("files", cls=Several, nargs=-1, type=PATH, metavar="[FILES.h5 ..]")
@net_options(many=True, to="fuse")
@click.option(
    "--view",
    type=Choice(VIEWS),
    default="dense",
    show_default=True,
    help="Whole images, 5x5 crops, the average of both (each with the mirror image), or the central crop alone.",
)
@click.option(
    "--scales",
    type=ScalesOrRule(int, f"{'|'.join(SCALE_RULES)}|{SCALES.metavar}"),
    default="single",
    show_default=True,
    help="Shorter sides Q in pixels, or the paper's rule for training scale S. single: S, or the middle of a range; "
    "multi: S-32,S,S+32, or the range's ends and middle.",
)
@dataset_option(default="ilsvrc2012")
@data_option
@click.option(
    "--subset",
    type=Choice(SUBSETS),
    default="val",
    show_default=True,
    help="val: if the data set has no such part, the images that the net's training held out.",
)
@click.option("--per-class", is_flag=True, help="Errors by class, and the most frequent confusions.")
@click.option("--submission", type=PATH, metavar="FILE", help="Write ILSVRC's result file: five classes per image.")
@click.option(
    "--report", "folder", type=PATH, metavar="DIR", help="Write a page with the errors and the images behind them."
)
@click.option(
    "--output", "-o", type=PATH, metavar="FILE.h5", help="Keep the posteriors, to fuse them later or to resume the run."
)
@click.option("--resume", is_flag=True, help="Continue the file where it stopped, and retry failed images.")
@click.option("--overwrite", is_flag=True, help="Replace the file.")
@reading_options
@device_options()
@common
@click.pass_context
def evaluate(
    ctx: click.Context,
    files: tuple[str, ...],
    data: str,
    per_class: bool,
    submission: str | None,
    folder: str | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Top-1 and top-5 errors of nets, on ILSVRC or your own classes.

    Several nets are fused: their posteriors are averaged. FILES.h5 are posteriors kept with -o, scored and fused
    without any net. The table goes to stderr; stdout has the paths of the files written, or the whole result with
    --json.

    \b
    Examples:
      vggfeat evaluate --net D --scales 256,384,512 --view both
      vggfeat evaluate --weights E-256.pt --scales multi -o E.h5
      vggfeat evaluate D.h5 E.h5 --per-class
    """
    from vggfeat.stages import evaluate as stage

    scoring: dict[str, Any] = {"data": data, "per_class": per_class, "submission": submission, "report": folder}
    unused = [] if "none" in settings["weights"] else ["seed"]
    if files:
        # What was computed cannot be computed otherwise.
        refuse(ctx, settings, "images; FILES are posteriors that are scored as they are", GIVEN)
        if not (folder or submission):
            refuse(ctx, ["data"], "images, --report or --submission")
        if ctx.get_parameter_source("data") is ParameterSource.DEFAULT:
            scoring["data"] = None  # what the files say
        result = stage.evaluate_files(files, **scoring)
    else:
        refuse(ctx, unused, "--weights none")
        settings["net"] = settings["net"] or None
        try:
            with progress.Ticker("fetch", quiet, unit="MB") as fetched, progress.Ticker("evaluate", quiet) as tick:
                result = stage.evaluate(progress=tick, fetching=in_megabytes(fetched), **scoring, **settings)
        except KeyboardInterrupt:
            if settings["output"]:
                console.say("stopped; what is done is kept, and the same command with --resume goes on")
            else:
                console.say("stopped; nothing is kept: with -o FILE a run that is stopped goes on with --resume")
            raise
    if not quiet:
        tables.print_evaluation(result)
    if as_json:
        console.print_json(result.as_json())
    else:
        for path in (None if files else result.posteriors, result.submission, result.report):
            if path is not None:
                click.echo(path)
        reported = bool(folder) or result.rows[-1].top1_error is None  # without labels there is no page
        kept = [result.posteriors] if result.posteriors is not None and not files else list(files)
        if kept and (reported or not files):
            hint("evaluate files", quiet, path=[as_argument(one) for one in kept])
        else:
            hint("evaluate report" if reported else "evaluate", quiet, typed=typed(ctx, unused))
    if result.failed:
        if not quiet:
            tables.print_failures(result.failed, len(result.failed) + result.rows[-1].images, where="with --json")
        ctx.exit(SKIPPED)
