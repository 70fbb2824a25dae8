"""`vggfeat extract`."""

from __future__ import annotations

import logging
from typing import Any

import click

from vggfeat import report
from vggfeat.cli.exit_codes import SKIPPED
from vggfeat.cli.inputs import images_from
from vggfeat.cli.options import SCALES, common, data_option, device_options, net_options
from vggfeat.datasets import NAMES


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATHS..|-]")
@net_options(many=True)
@click.option("--scales", type=SCALES, default="256,384,512", show_default=True, help="Smallest sides Q in pixels.")
@click.option(
    "--aggregate", type=click.Choice(["stack", "average", "max"]), default="stack", show_default=True,
    help="How scales become one descriptor.",
)  # fmt: skip
@click.option("--flip/--no-flip", default=True, help="Average with the mirror image.  [default: flip]")
@click.option("--layer", type=click.Choice(["fc6", "fc7"]), default="fc7", show_default=True)
@click.option(
    "--region", type=click.Choice(["image", "box", "both"]), default="image", show_default=True,
    help="The whole image, the sample's box, or both stacked.",
)  # fmt: skip
@click.option("--exif/--no-exif", default=None, help="Honour EXIF orientation.  [default: only for your own pictures]")
@click.option("--keep-scales", is_flag=True, help="Store each scale's activations too.")
@click.option("--store", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
@click.option("--dataset", type=click.Choice(NAMES), help="A data set under the data root, with its labels.")
@data_option
@click.option("--list", "list_file", metavar="FILE", help="Paths from a file: one a line, or id<TAB>path.")
@click.option("-0", "nul", is_flag=True, help="The list is separated by NUL bytes (find -print0).")
@click.option("--output", "-o", metavar="FILE", help="[default: descriptors/<dataset>-<net>-<weights>-...h5]")
@click.option("--resume", is_flag=True, help="Go on with the file where it stopped; failed images are tried again.")
@click.option("--overwrite", is_flag=True, help="Replace the file.")
@click.option("--workers", type=click.IntRange(1), help="Decoding threads.  [default: one a core]")
@device_options
@common
@click.pass_context
def extract(
    ctx: click.Context,
    paths: tuple[str, ...],
    dataset: str | None,
    data: str,
    list_file: str | None,
    nul: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Images to descriptors, in one HDF5 file.

    Takes images, folders (searched recursively), a list on stdin (-, or a pipe), or a data set. Prints the path of the
    file. A file that cannot be read as an image costs its own row alone; the exit code is then 3.

    \b
    Examples:
      find photos -name '*.jpg' | vggfeat extract --net D --scales 256,384,512 --aggregate stack
      vggfeat extract --dataset caltech101 --net D --net E -o caltech101.h5
    """
    samples = images_from(paths, list_file, nul, dataset, data)
    # Only now torch: a wrong argument or an empty list is answered at once.
    from vggfeat.stages.extract import extract as run
    from vggfeat.store import read_descriptors

    # The stage's own word on failed images is for Python's users; here each is told with its reason.
    logging.getLogger("vggfeat.stages.extract").setLevel(logging.ERROR)
    settings["net"] = settings["net"] or None
    try:
        with report.Ticker("fetch", quiet, unit="MB") as fetched, report.Ticker("extract", quiet) as tick:
            path = run(samples, progress=tick, fetching=report.in_megabytes(fetched), **settings)
    except KeyboardInterrupt:
        report.note("stopped; what is done is kept, and the same command with --resume goes on")
        raise
    made = read_descriptors(path)
    errors = made.errors()
    if errors and not quiet:
        report.print_failures(errors, len(made))
    if as_json:
        report.print_json(
            {
                "path": str(path),
                "rows": len(made),
                "dim": made.dim,
                "failed": errors,
                **{name: made.attributes[name] for name in ("dataset", "net", "weights", "scales", "aggregate")},
            }
        )
    else:
        click.echo(path)
    if errors:
        ctx.exit(SKIPPED)
