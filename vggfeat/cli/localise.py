"""`vggfeat localise`."""

from __future__ import annotations

from typing import Any

import click

from vggfeat.cli import console, progress, tables
from vggfeat.cli.exit_codes import SKIPPED
from vggfeat.cli.hints import hint, typed
from vggfeat.cli.options import common, data_option, device_options, reading_options, refuse
from vggfeat.cli.types import PATH, SCALES, Choice
from vggfeat.inference.settings import LOCALISED_SUBSETS, PROTOCOLS
from vggfeat.system.numbers import number_of


@click.command()
@click.option(
    "--weights",
    multiple=True,
    required=True,
    metavar="CKPT",
    help="A checkpoint of train --task localise. Repeat to combine several nets' boxes.",
)
@click.option(
    "--protocol",
    type=Choice(PROTOCOLS),
    default="2",
    show_default=True,
    help="1: the central crop's box for the given class. 2: the whole image, five guessed classes, merged boxes.",
)
@click.option(
    "--posteriors",
    multiple=True,
    type=PATH,
    metavar="FILE.h5",
    help="Guess classes by these posteriors (evaluate -o); several are averaged.",
)
@click.option("--classifier", metavar="CKPT", help="Guess classes with this net, which also rates every window.")
@click.option(
    "--scales",
    multiple=True,
    type=SCALES,
    help="Shorter sides Q for all nets; repeat to give each net its list.  [default: each net's training scale]",
)
@click.option("--flip/--no-flip", default=True, show_default=True, help="Use the mirrored images too (protocol 2).")
@click.option(
    "--threshold", type=float, help="Match score up to which boxes merge.  [default: the best on every tenth image]"
)
@data_option
@click.option("--subset", type=Choice(LOCALISED_SUBSETS), default="val", show_default=True)
@click.option(
    "--submission", type=PATH, metavar="FILE", help="Write ILSVRC's result file: five classes and boxes per image."
)
@click.option("--draw", type=PATH, metavar="DIR", help="Write pictures with true and predicted boxes, at most 100.")
@click.option("--report", type=PATH, metavar="DIR", help="Write a page with the errors and images with their boxes.")
@reading_options
@device_options()
@common
@click.pass_context
def localise(
    ctx: click.Context,
    weights: tuple[str, ...],
    posteriors: tuple[str, ...],
    scales: tuple[tuple[int, ...], ...],
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Predict boxes in ILSVRC's images and score them.

    A guess is right if its class is the image's and its box has an IoU above 0.5 with a true box. The errors go to
    stderr, beside those of two trivial answers; stdout has the paths of the files written, or the whole result with
    --json.

    \b
    Examples:
      vggfeat localise --protocol 1 --weights loc.pt
      vggfeat localise --weights loc.pt --classifier net.pt --report report
      vggfeat localise --weights 256.pt --weights 384.pt --posteriors D.h5
    """
    if settings["protocol"] == "1":
        refuse(ctx, ["flip", "threshold"], "--protocol 2")
        settings["threshold"] = None  # a recipe's, for its other runs
    from vggfeat.stages.localise import localise as run

    with progress.Ticker("localise", quiet) as tick:
        result = run(
            weights=list(weights), posteriors=list(posteriors) or None, scales=scales or None, progress=tick, **settings
        )
    if not quiet:
        tables.print_localisation(result)
    if not quiet and result.not_drawn:
        name, reason = next(iter(result.not_drawn.items()))
        console.note(f"{number_of(len(result.not_drawn), 'picture')} could not be drawn, the first {name}: {reason}")
    if as_json:
        console.print_json(result.as_json())
    else:
        for path in (result.submission, result.drawn, result.report):
            if path is not None:
                click.echo(path)
        if result.protocol == "1":
            hint("localise protocol 1", quiet, typed=typed(ctx, ("protocol", "report", "draw")))
        else:
            hint("localise report" if result.report else "localise", quiet, typed=typed(ctx, ("report", "draw")))
    if result.failed:
        if not quiet:
            tables.print_failures(result.failed, result.tried, where="with --json")
        ctx.exit(SKIPPED)
