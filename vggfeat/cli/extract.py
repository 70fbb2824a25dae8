"""`vggfeat extract`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vggfeat.cli import console, progress, tables
from vggfeat.cli.advice import merging
from vggfeat.cli.exit_codes import DONE, SKIPPED
from vggfeat.cli.hints import hint
from vggfeat.cli.inputs import images_from, shard_of
from vggfeat.cli.options import (
    common,
    data_option,
    dataset_option,
    device_options,
    list_options,
    megapixels_option,
    net_options,
    reading_options,
    refuse,
)
from vggfeat.cli.types import PATH, SCALES, Choice, Layer, Several
from vggfeat.datasets.sample import OWN
from vggfeat.inference.settings import DESCRIPTOR_VIEWS, NORMALISATIONS, POOLINGS, REGIONS
from vggfeat.nets.layers import POOLING_MARK
from vggfeat.store.choices import AGGREGATES, STORES
from vggfeat.store.shards import Shard, whole_path
from vggfeat.system.bars import in_megabytes
from vggfeat.system.launch import launched

if TYPE_CHECKING:  # imports numpy and h5py
    from vggfeat.store import Descriptors


@click.command()
@click.argument("paths", cls=Several, nargs=-1, type=PATH, metavar="[PATHS..|-]")
@net_options(many=True)
@click.option(
    "--scales",
    type=SCALES,
    default="256,384,512",
    show_default=True,
    help="Shorter sides Q in pixels: at least 224, or 32 if no layer is after pool5.",
)
@click.option(
    "--aggregate",
    type=Choice(AGGREGATES),
    default="stack",
    show_default=True,
    help="How scales become one descriptor.",
)
@click.option("--flip/--no-flip", default=True, help="Average with the mirror image.  [default: flip]")
@click.option(
    "--layer",
    multiple=True,
    type=Layer(),
    default=("fc7",),
    metavar="LAYER",
    help="conv1_1 to pool5, fc6 or fc7, as the net has them; repeat for several in one pass; pool5:max gives one a "
    "pooling of its own.  [default: fc7]",
)
@click.option(
    "--pool",
    type=Choice(POOLINGS),
    default="avg",
    show_default=True,
    help="How a layer's map becomes a vector; gem: generalised mean, p = 3; none: the whole map of a central crop.",
)
@click.option(
    "--view",
    type=Choice(DESCRIPTOR_VIEWS),
    default="dense",
    show_default=True,
    help="The whole image, or the central 224x224 crop.",
)
@click.option("--pre-relu", is_flag=True, help="Take values before the layer's ReLU.")
@click.option("--normalise", type=Choice(NORMALISATIONS), default="l2", show_default=True, help="none: raw values.")
@click.option(
    "--region",
    type=Choice(REGIONS),
    default="image",
    show_default=True,
    help="The whole image, the sample's box, or both stacked.",
)
@click.option("--exif/--no-exif", default=None, help="Apply EXIF orientation.  [default: only for your own pictures]")
@click.option("--keep-scales", is_flag=True, help="Store each scale's activations too.")
@click.option("--store", type=Choice(STORES), default="float32", show_default=True)
@dataset_option("It lies under the data root and has labels.")
@data_option
@list_options
@click.option(
    "--output", "-o", type=PATH, metavar="FILE", help="[default: descriptors/<dataset>-<net>-<weights>-...h5]"
)
@click.option("--resume", is_flag=True, help="Continue the file where it stopped, and retry failed images.")
@click.option("--overwrite", is_flag=True, help="Replace the file.")
@click.option(
    "--shard",
    metavar="I/N",
    help="Extract only part I of N, counted from 0, into <output>.shard-I-of-N.h5; vggfeat merge joins them.",
)
@reading_options
@megapixels_option
@device_options()
@click.option(
    "--calibration",
    type=PATH,
    metavar="FILE",
    help="With int8: a list of images that set its steps, or descriptors to take them from.  [default: 32 of the "
    "images]",
)
@common
@click.pass_context
def extract(
    ctx: click.Context,
    paths: tuple[str, ...],
    dataset: str | None,
    data: str,
    list_file: str | None,
    nul: bool,
    shard: str | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Turn images into descriptors, in one HDF5 file.

    Takes images, folders (searched recursively; a tree of classes keeps its labels), tar files (plain or gzipped, not
    unpacked), a list on stdin (-, or a pipe), or a data set. Images, tar files and lists may be URLs (https://..,
    s3://..). Prints the path of the file. An image that cannot
    be read costs only its own row; the exit code is then 3. Under torchrun rank I of N is shard I/N.

    \b
    Examples:
      find photos -name '*.jpg' |
        vggfeat extract --net D --scales 256,384,512 --aggregate stack
      vggfeat extract --dataset caltech101 --net D --net E -o caltech101.h5
      vggfeat extract 'data-{000..099}.tar' --shard 3/16 -o feats.h5
    """
    if "none" not in settings["weights"]:
        refuse(ctx, ["seed"], "--weights none")
    if settings["layer"] and all(POOLING_MARK in layer for layer in settings["layer"]):
        refuse(ctx, ["pool"], "a --layer that names no pooling of its own")
    launch = launched()
    part = shard_of(shard, launch)
    samples = images_from(paths, list_file, nul, dataset, data, sharded=part is not None, labelled=True)
    # Only now torch: a wrong argument or an empty list is answered at once.
    from vggfeat.stages.extract import extract as run
    from vggfeat.store import read_descriptors

    # The stage's own word on failed images is for Python's users; here each is told with its reason.
    logging.getLogger("vggfeat.stages.extract").setLevel(logging.ERROR)
    settings["net"] = settings["net"] or None
    if launch is not None:
        settings["device"] = launch.device(settings["device"])
        settings["workers"] = settings["workers"] or launch.workers()
    try:
        with progress.Ticker("fetch", quiet, unit="MB") as fetched, progress.Ticker("extract", quiet) as tick:
            path = run(samples, shard=part, progress=tick, fetching=in_megabytes(fetched), **settings)
    except KeyboardInterrupt:
        console.say("stopped; what is done is kept, and the same command with --resume goes on")
        raise
    made = read_descriptors(path)
    errors = made.errors()
    if errors and not quiet:
        tables.print_failures(errors, len(made))
    if as_json:
        console.print_json(
            {
                "path": str(path),
                **({} if part is None else {"shard": str(part)}),
                "rows": len(made),
                "dim": made.dim,
                "failed": errors,
                **{name: made.attributes[name] for name in ("dataset", "net", "weights", "scales", "aggregate")},
            }
        )
    else:
        click.echo(path)
        if part is None:
            hint(_done(made), quiet, path=str(path))
        elif launch is None or part.index == 0:  # one of torchrun's ranks speaks for all
            _hint_of_shard(part, whole_path(path), quiet)
    if errors:
        # torchrun takes any code but 0 for a failure, and ends the other ranks' shards.
        ctx.exit(SKIPPED if launch is None else DONE)


def _hint_of_shard(part: Shard, whole: Path, quiet: bool) -> None:
    """What follows a shard: merging, or a look at the others."""
    from vggfeat.store.shard_states import shard_states

    pattern = str(part.pattern(whole))
    if all(one.state == "done" for one in shard_states(whole) if one.shard.count == part.count):
        if not quiet:
            console.note(f"next: {merging(pattern, str(whole))}")
    elif part.index:
        hint("extract shard", quiet, path=str(whole))
    elif not quiet:
        console.note(f"when all {part.count} shards are done: {merging(pattern, str(whole))}")


def _done(made: Descriptors) -> str:
    """What was extracted, by its name in hints.NEXT."""
    if len(made.errors()) == len(made):
        return "extract failed"
    return "extract labelled" if _serve_svm(made) else "extract"


def _serve_svm(made: Descriptors) -> bool:
    """Whether `svm` can score the file. One's own single-label images must be of two classes, with three images each
    unless subsets are named."""
    if made.labels is None or made.labels.ndim > 1 or made.attributes["dataset"] not in OWN:
        return made.labels is not None
    import numpy as np  # which the command's help does without

    sizes = np.bincount(made.labels[made.done], minlength=len(made.class_names))
    return len(sizes) > 1 and int(sizes.min()) >= (1 if any(made.subset) else 3)
