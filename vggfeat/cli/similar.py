"""`vggfeat similar`."""

from __future__ import annotations

from typing import Any

import click

from vggfeat.cli import console, progress, tables
from vggfeat.cli.exit_codes import SKIPPED
from vggfeat.cli.hints import hint, typed
from vggfeat.cli.inputs import images_from, note_unread_pipe
from vggfeat.cli.options import GIVEN, common, list_options, pictures_option, recorded_net_options, refuse
from vggfeat.cli.types import PATH, Several


@click.command()
@click.argument("features", type=PATH, metavar="FEATURES.h5")
@click.argument("paths", cls=Several, nargs=-1, type=PATH, metavar="[PATHS..|-]")
@list_options
@click.option("--count", "-k", type=click.IntRange(1), default=10, show_default=True, help="Neighbours of a picture.")
@click.option("--at-least", type=float, default=0.98, show_default=True, help="Smallest cosine of near-duplicates.")
@click.option(
    "--most",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="Keep at most this many pairs of near-duplicates.",
)
@click.option("--report", type=PATH, metavar="DIR", help="Write a page that shows the pictures.")
@pictures_option
@recorded_net_options()
@common
@click.pass_context
def similar(
    ctx: click.Context,
    features: str,
    paths: tuple[str, ...],
    list_file: str | None,
    nul: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """The most similar images: neighbours of pictures, or near-duplicates.

    With pictures, each is described with the net and settings that FEATURES.h5 records, and its nearest neighbours
    in that file are printed as id<TAB>neighbour<TAB>cosine. Without pictures, all images of the file are compared
    with one another, and pairs are printed as id<TAB>id<TAB>cosine, most similar first. Ids with control
    characters (tabs, line breaks) or a quote at the beginning are written as JSON strings.

    \b
    Examples:
      vggfeat similar photos.h5 new.jpg -k 5
      vggfeat similar photos.h5 --at-least 0.99 --report duplicates
    """
    from vggfeat.stages.similar import similar as run

    if paths or list_file:
        refuse(ctx, OF_PAIRS, "a file alone", GIVEN)
    else:
        refuse(ctx, OF_PICTURES, "pictures: name some, or give - or --list", GIVEN)
        note_unread_pipe()
    if not options["report"]:
        refuse(ctx, ["data"], "--report")
        options["data"] = None  # VGGFEAT_DATA's
    for name in OF_PAIRS if paths or list_file else OF_PICTURES:  # their defaults
        options.pop(name, None)
    images = images_from(paths, list_file, nul, None) if paths or list_file else None
    with progress.Ticker("similar", quiet, unit="compared") as tick:
        result = run(features, images, progress=tick, **options)
    if as_json:
        console.print_json(result.as_json())
    else:
        console.print_rows((query.id, id, cosine) for query in result.queries for id, cosine in query.matches)
        console.print_rows(result.pairs or ())
        if result.report:
            console.note(f"page: {result.report}")
        console.note(f"net {result.nets}; {result.features}")
    if result.pairs is not None and result.found > len(result.pairs):
        console.note(f"the {len(result.pairs)} most similar of {result.found} pairs: --most keeps more")
    if not as_json:
        if result.report:
            hint("similar report" if images is None else "similar pictures report", quiet, path=features)
        elif "-" not in (*paths, list_file) and (images is None or len(result.failed) < len(result.queries)):
            # A list on stdin is gone by now, and a page without an answer would help nobody.
            hint("similar", quiet, typed=typed(ctx))
    if result.failed:
        if not quiet:
            tables.print_failures(result.failed, len(result.queries), where="with --json")
        ctx.exit(SKIPPED)


OF_PAIRS = ("at_least", "most")
OF_PICTURES = ("nul", "count", "weights", "seed", "device", "precision", "workers", "exif", "max_megapixels")
