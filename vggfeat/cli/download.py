"""`vggfeat download`."""

from __future__ import annotations

from pathlib import Path

import click

from vggfeat.cli import console, progress
from vggfeat.cli.hints import hint
from vggfeat.cli.options import common, data_option, offline_option, refuse
from vggfeat.cli.types import Choice, Net
from vggfeat.datasets.archives import PUBLISHED
from vggfeat.errors import UsageError
from vggfeat.nets.catalog import SOURCES
from vggfeat.stages.download import download_dataset, download_weights
from vggfeat.system.bars import in_megabytes


@click.command()
@click.option("--net", metavar="NET", type=Net(), help="Fetch the published weights of this net: A, B, D or E.")
@click.option("--source", type=Choice(SOURCES), help="Whose weights.  [default: oxford for D and E]")
@click.option("--dataset", type=Choice(list(PUBLISHED)), help="Fetch and unpack this set into the data root.")
@data_option
@offline_option("Never fetch anything, only check what is here.")
@common
@click.pass_context
def download(
    ctx: click.Context,
    net: str | None,
    source: str | None,
    dataset: str | None,
    data: str,
    offline: bool | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fetch published weights or a data set, checked against its hash.

    Weights go to the cache (VGGFEAT_CACHE, or your user cache folder), data sets to the data root. An
    interrupted download is continued.

    \b
    Example:
      vggfeat download --net D
      vggfeat download --dataset caltech101 --data data
    """
    if (net is None) == (dataset is None):
        raise UsageError("download takes either --net, such as --net D, or --dataset, such as --dataset caltech101")
    if dataset is not None and source is not None:
        raise UsageError("--source says whose weights; a data set has none")
    if dataset is None:
        refuse(ctx, ["data"], "--dataset; weights go to the cache (VGGFEAT_CACHE)")
    try:
        with progress.Ticker("download", quiet, unit="MB") as tick:
            told = in_megabytes(tick)
            if net is not None:
                result = download_weights(net, source, offline=offline, progress=told).as_json()
            else:
                folder: Path = download_dataset(str(dataset), data, offline=offline, progress=told)
                result = {"path": str(folder), "dataset": str(dataset)}
    except KeyboardInterrupt:
        console.say("stopped; what has arrived is kept, and the same command continues")
        raise
    if as_json:
        console.print_json(result)
    else:
        print(result["path"])
        facts = {"net": result["net"]} if dataset is None else {"dataset": dataset}
        hint("download weights" if dataset is None else "download dataset", quiet, **facts)
