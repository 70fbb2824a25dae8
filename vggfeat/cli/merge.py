"""`vggfeat merge`."""

from __future__ import annotations

import shlex

import click

from vggfeat.cli import console, progress
from vggfeat.cli.exit_codes import SKIPPED
from vggfeat.cli.hints import hint
from vggfeat.cli.options import common
from vggfeat.cli.types import PATH, Several
from vggfeat.system.numbers import number_of
from vggfeat.system.text import as_argument


@click.command()
@click.argument("shards", cls=Several, nargs=-1, required=True, type=PATH, metavar="SHARDS..")
@click.option("--output", "-o", type=PATH, metavar="FILE", required=True, help="The file to write.")
@click.option("--overwrite", is_flag=True, help="Replace the file.")
@common
@click.pass_context
def merge(
    ctx: click.Context, shards: tuple[str, ...], output: str, overwrite: bool, as_json: bool, quiet: bool
) -> None:
    """Join the shards of one extraction into one file.

    SHARDS are all the files that extract wrote with --shard or under torchrun, in any order. The file is that of an
    extraction by one process, in the list's order; it appears whole or not at all, and the shards stay. If one is
    missing or unfinished, the error gives the command that makes it.

    \b
    Example:
      vggfeat merge feats.shard-*-of-16.h5 -o feats.h5
    """
    from vggfeat.stages.merge import merge as run
    from vggfeat.store.merging import read_head

    try:
        with progress.Ticker("merge", quiet, unit="row") as tick:
            path = run(shards, output, overwrite=overwrite, progress=tick)
    except KeyboardInterrupt:
        console.say("stopped; nothing was written, the shards are as they were; the same command starts again")
        raise
    made = read_head(path)
    if made.failed and not quiet:
        reasons = f"vggfeat info --failed {shlex.quote(as_argument(path))}"
        verb = "was" if made.failed == 1 else "were"
        images = number_of(made.rows, "image")
        console.note(f"{made.failed} of {images} {verb} skipped by extract ({reasons} says why)")
    if as_json:
        console.print_json({"path": str(path), "rows": made.rows, "dim": made.attributes["dim"], "failed": made.failed})
    else:
        click.echo(path)
        hint("merge", quiet, path=str(path))
    if made.failed:
        ctx.exit(SKIPPED)
