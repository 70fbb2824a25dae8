"""`vggfeat info`."""

from __future__ import annotations

import click

from vggfeat.cli import console, listings
from vggfeat.cli.options import common


@click.command()
@click.argument("file")
@common
def info(file: str, as_json: bool, quiet: bool) -> None:
    """Describe a descriptor file, checkpoint or model and its origin.

    \b
    Example:
      vggfeat info descriptors/caltech101-D-oxford-256_384_512-stack.h5
    """
    from vggfeat.stages.info import info as describe

    result = describe(file)
    if as_json:
        console.print_json(result.as_json())
    else:
        listings.print_info(result.as_json())
