"""`vggfeat extract`."""

from __future__ import annotations

import os
import stat
import sys
from typing import Any

import click

from vggfeat import report
from vggfeat.cli.options import SCALES, common, data_option, device_options, net_options
from vggfeat.datasets import NAMES, Dataset, load_dataset
from vggfeat.datasets.listing import from_list, from_paths
from vggfeat.errors import UsageError

SKIPPED = 3


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
    samples = _samples(paths, dataset, data, list_file, nul)
    # Only now torch: a wrong argument or an empty list is answered at once.
    from vggfeat.stages.extract import extract as run
    from vggfeat.store import read_descriptors

    settings["net"] = settings["net"] or None
    try:
        with report.Ticker("extract", quiet) as tick:
            path = run(samples, progress=tick, **settings)
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


def _samples(paths: tuple[str, ...], dataset: str | None, data: str, list_file: str | None, nul: bool) -> Dataset:
    """The one source of images that was named."""
    if sum((bool(paths), dataset is not None, list_file is not None)) > 1:
        raise UsageError("images from PATHS, --list and --dataset: choose one")
    if dataset is not None:
        return load_dataset(dataset, data)
    if list_file is not None and list_file != "-":
        return from_list(list_file, nul=nul)
    if paths and paths != ("-",):
        if nul:
            raise UsageError("-0 describes a list: it goes with - or --list")
        return from_paths(paths)
    if not paths and list_file is None and not _piped():
        raise UsageError("no images: name files or folders, pipe a list in, or give --dataset or --list")
    return from_list(sys.stdin.buffer, nul=nul)


def _piped() -> bool:
    """Whether stdin is a pipe or a file: a terminal would wait for ever, and /dev/null (cron) is no list."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # closed, or replaced by a test's stream
        return sys.stdin is not None and not sys.stdin.closed
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)
