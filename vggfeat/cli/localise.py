"""`vggfeat localise`."""

from __future__ import annotations

from typing import Any

import click

from vggfeat.cli import console, progress, tables
from vggfeat.cli.exit_codes import SKIPPED
from vggfeat.cli.options import common, data_option, device_options, reading_options
from vggfeat.cli.types import SCALES, Choice
from vggfeat.inference.settings import LOCALISED_SUBSETS, PROTOCOLS


@click.command()
@click.option(
    "--weights",
    multiple=True,
    required=True,
    metavar="CKPT",
    help="A checkpoint of train --task localise. Repeat to unite several nets' boxes.",
)
@click.option(
    "--protocol",
    type=Choice(PROTOCOLS),
    default="2",
    show_default=True,
    help="1: the central crop's box, the class given. 2: the whole image, five guessed classes, boxes merged.",
)
@click.option("--posteriors", multiple=True, metavar="FILE.h5", help="Classes from evaluate -o; several are averaged.")
@click.option("--classifier", metavar="CKPT", help="Classes from this net, which also rates every window.")
@click.option(
    "--scales",
    multiple=True,
    type=SCALES,
    help="Smallest sides Q of all nets; repeat for one list a net.  [default: each net's training scale]",
)
@click.option("--flip/--no-flip", default=True, show_default=True, help="The mirrored images too (protocol 2).")
@click.option("--threshold", type=float, help="Of merging.  [default: the best on every tenth image]")
@data_option
@click.option("--subset", type=Choice(LOCALISED_SUBSETS), default="val", show_default=True)
@click.option("--submission", metavar="FILE", help="Write ILSVRC's result file: five classes and boxes an image.")
@click.option("--draw", metavar="DIR", help="Pictures with true and predicted boxes, at most 100.")
@reading_options
@device_options
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

    A guess is right where its class is the image's and its box overlaps a true one by an IoU above 0.5. The errors go
    to stderr, beside those of two trivial answers; stdout has the paths of what was written, or the whole result with
    --json.

    \b
    Examples:
      vggfeat localise --protocol 1 --weights loc.pt
      vggfeat localise --weights loc.pt --classifier net.pt --scales 352,384
      vggfeat localise --weights 256.pt --weights 384.pt --posteriors D.h5
    """
    from vggfeat.stages.localise import localise as run

    with progress.Ticker("localise", quiet) as tick:
        result = run(
            weights=list(weights), posteriors=list(posteriors) or None, scales=scales or None, progress=tick, **settings
        )
    if not quiet:
        tables.print_localisation(result)
    if not quiet and result.not_drawn:
        name, reason = next(iter(result.not_drawn.items()))
        console.note(f"{len(result.not_drawn)} pictures could not be drawn, the first {name}: {reason}")
    if as_json:
        console.print_json(result.as_json())
    else:
        for path in (result.submission, result.drawn):
            if path is not None:
                click.echo(path)
    if result.failed:
        if not quiet:
            tables.print_failures(result.failed, result.tried, where="with --json")
        ctx.exit(SKIPPED)
