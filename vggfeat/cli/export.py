"""`vggfeat export`."""

from __future__ import annotations

import click

from vggfeat.cli import console, progress
from vggfeat.cli.exit_codes import SKIPPED
from vggfeat.cli.hints import hint
from vggfeat.cli.options import common, layer_option
from vggfeat.cli.types import PATH
from vggfeat.system.numbers import number_of


@click.command()
@click.argument("file", type=PATH)
@click.option(
    "--output",
    "-o",
    type=PATH,
    metavar="FILE",
    required=True,
    help="The file to write: .npy, .npz, .csv, .mat or .parquet.",
)
@layer_option("Take this layer; repeat to stack several.  [default: all]")
@click.option("--overwrite", is_flag=True, help="Replace the file, and the names beside a matrix.")
@common
@click.pass_context
def export(
    ctx: click.Context, file: str, output: str, layer: tuple[str, ...], overwrite: bool, as_json: bool, quiet: bool
) -> None:
    """Write descriptors as a NumPy, CSV, MATLAB or Parquet file, for other tools.

    FILE.npy is an (N, D) float32 matrix for numpy.load, with FILE.csv beside it: one line per image, in the matrix's
    order, with the columns id, label (if all images have one), subset, status. FILE.csv has these columns, then f0, f1
    and so on, for R and pandas. FILE.npz and FILE.mat hold descriptors, ids, labels, class_names, subset, status and
    errors as arrays; FILE.parquet has the columns id, label, subset, status, error, descriptor. A multi-label set has a
    column label.<class> for each class, with 1, 0 (difficult) or -1. The labels of .npz are class numbers from 0, those
    of .mat from 1, so that class_names{labels(i)} is a name in MATLAB. All rows of the descriptor file keep their
    place: one that failed or is pending is NaN in arrays, empty in tables, and the exit code is 3.

    \b
    Examples:
      vggfeat export feats.h5 -o feats.npy
      vggfeat export feats.h5 -o table.csv
      vggfeat export feats.h5 -o feats.parquet
    """
    from vggfeat.stages.export import export as run

    with progress.Ticker("export", quiet, unit="row") as tick:
        done = run(file, output, layer=layer, overwrite=overwrite, progress=tick)
    if done.names is not None and not quiet:
        console.note(f"ids and labels: {done.names}")
    if done.missing and not quiet:
        verb = "has" if done.missing == 1 else "have"
        missing = f"{done.missing} of {number_of(done.rows, 'row')} {verb} no descriptor"
        console.note(f"{missing} (failed or pending: see status)")
    if as_json:
        console.print_json(done.as_json())
    else:
        click.echo(done.path)
        hint("export", quiet, path=file)
    if done.missing:
        ctx.exit(SKIPPED)
