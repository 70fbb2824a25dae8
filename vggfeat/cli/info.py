"""`vggfeat info`."""

from __future__ import annotations

import click

from vggfeat.cli import console, listings
from vggfeat.cli.options import common
from vggfeat.cli.types import PATH


@click.command()
@click.argument("file", type=PATH)
@click.option("--failed", is_flag=True, help="Print only the failed images, as id<TAB>reason.")
@click.option("--shards", is_flag=True, help="Show the state of all shards of FILE, the output of extract --shard.")
@common
def info(file: str, failed: bool, shards: bool, as_json: bool, quiet: bool) -> None:
    """Describe a descriptor file, checkpoint or model and its origin.

    With --shards, FILE is the file that the shards become (extract's -o), or one of them: every shard is done, running
    (with the process that writes it), unfinished, missing or unreadable; the commands that make or finish them follow.
    With --failed too, the failed images of all shards are printed. Ids and reasons with control
    characters (tabs, line breaks) or a quote at the beginning are written as JSON strings.

    \b
    Examples:
      vggfeat info descriptors/caltech101-D-oxford-256_384_512-stack.h5
      vggfeat info feats.h5 --failed > failed.tsv
      vggfeat info feats.h5 --shards
    """
    from vggfeat.stages.info import failures
    from vggfeat.stages.info import info as describe
    from vggfeat.stages.info import shards as state_of

    if failed:
        paths = [one.path for one in state_of(file).shards if one.rows] if shards else [file]
        found = {id: reason for path in paths for id, reason in failures(path).items()}
        console.print_json({"path": file, "failed": found}) if as_json else console.print_rows(found.items())
    elif shards:
        state = state_of(file)
        console.print_json(state.as_json()) if as_json else listings.print_shards(state)
    else:
        made = describe(file).as_json()
        console.print_json(made) if as_json else listings.print_info(made)
