"""`vggfeat nets`."""

from __future__ import annotations

import click

from vggfeat.cli import console, listings
from vggfeat.cli.hints import hint
from vggfeat.cli.options import common
from vggfeat.stages.nets import nets as list_nets


@click.command()
@common
def nets(as_json: bool, quiet: bool) -> None:
    """Tables 1 and 2: nets, depth, parameters, published weights.

    \b
    Example:
      vggfeat nets --json
    """
    rows = list_nets()
    if as_json:
        console.print_json({"nets": [row.as_json() for row in rows]})
    else:
        listings.print_nets(rows)
        hint("nets", quiet)
