"""`vggfeat bench`."""

from __future__ import annotations

from typing import Any

import click

from vggfeat.cli import console, progress, tables
from vggfeat.cli.hints import hint
from vggfeat.cli.options import TYPED, common, listed, refuse
from vggfeat.cli.types import SCALES, Choice, Net
from vggfeat.errors import UsageError
from vggfeat.results import Result
from vggfeat.stages.bench.problems import MEASURED, SIZES, Measured

_NEXT = {"train": "bench train", "svm": "bench svm", "solvers": "bench svm"}
"""What was measured -> its name in hints.NEXT, where that is not "bench"."""

_OF_PARTS = {
    "extract": ("net", "scales", "layers", "precisions", "number", "plain", "width", "device"),
    "train": ("net", "width", "batch_size", "precisions", "device"),
    "svm": ("size",),
    "convolutions": ("net", "scales", "width"),
    "solvers": (),
}
"""The options that a part heeds."""


@click.command()
@click.argument("what", type=Choice(["all", "extract", "train", "svm", "convolutions", "solvers"]), default="all")
@click.option(
    "--net",
    default="D",
    show_default=True,
    metavar="NET",
    type=Net(),
    help="Net to extract with and to train; random weights.",
)
@click.option("--scales", type=SCALES, default="256", show_default=True, help="Shorter sides Q, all for each image.")
@click.option(
    "--layer",
    "layers",
    multiple=True,
    type=Choice(MEASURED),
    help="Layer to extract, each in runs of its own; may be repeated.  [default: fc7]",
)
@click.option("--precision", "precisions", multiple=True, metavar="P", help="May be repeated.  [default: auto]")
@click.option("--images", "number", type=click.IntRange(1), default=24, show_default=True, help="Images per run.")
@click.option("--plain", type=click.IntRange(1), default=6, show_default=True, help="Images of the plain loop.")
@click.option(
    "--width",
    type=click.FloatRange(0, min_open=True),
    help="Factor on the net's channels.  [default: 1; training on a CPU: 0.25]",
)
@click.option("--batch-size", type=click.IntRange(2), help="Images per training update.  [default: 256; CPU: 32]")
@click.option("--device", metavar="DEVICE", default=None, help="[default: the best]")
@click.option(
    "--size",
    type=Choice([*SIZES, "all"]),
    default="caltech101",
    show_default=True,
    help="Problem for the SVM fits; caltech256 takes minutes and 8 GiB.",
)
@common
@click.pass_context
def bench(
    ctx: click.Context,
    what: str,
    net: str,
    scales: tuple[int, ...],
    layers: tuple[Measured, ...],
    precisions: tuple[str, ...],
    number: int,
    plain: int,
    width: float | None,
    batch_size: int | None,
    device: str | None,
    size: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure this machine: extraction, training and SVM fits.

    Each figure is compared with a yardstick from the same run: a plain torchvision loop, the machine's rate of matrix
    products, or scikit-learn's LinearSVC. Two parts are left out of `all`: `bench convolutions` measures a net's layers
    one by one on the CPU in fp32, in each way that inference may take, and `bench solvers` SVM fits of several sizes in
    both forms of Newton's method.

    \b
    Examples:
      vggfeat bench extract --net D --scales 256,384,512
      vggfeat bench train --net A --precision fp32 --precision bf16
      vggfeat bench svm --size caltech256 --json
    """
    _refuse_those_of_other_parts(ctx, what)
    if what == "convolutions" and len(scales) > 1 and ctx.get_parameter_source("scales") in TYPED:
        raise UsageError("--scales: `bench convolutions` measures one")
    result: dict[str, Any] = {}
    if what in ("all", "extract"):
        from vggfeat.stages.bench.extract import bench_extract

        with progress.Ticker("bench extract", quiet, unit="run") as tick:
            result["extract"] = bench_extract(
                net,
                scales=scales,
                layers=layers or ("fc7",),
                precisions=precisions or ("auto",),
                number=number,
                plain=plain,
                width=width or 1.0,
                device=device,
                progress=tick,
            )
    if what in ("all", "train"):
        from vggfeat.stages.bench.train import bench_train

        with progress.Ticker("bench train", quiet, unit="part") as tick:
            result["train"] = bench_train(
                net,
                width=width,
                batch_size=batch_size,
                precisions=precisions or ("auto",),
                device=device,
                progress=tick,
            ).as_json()
    if what in ("all", "svm"):
        from vggfeat.stages.bench.svm import bench_svm

        result["svm"] = bench_svm(size)
    if what == "convolutions":
        from vggfeat.stages.bench.convolutions import bench_convolutions

        with progress.Ticker("bench convolutions", quiet, unit="layer") as tick:
            result["convolutions"] = bench_convolutions(net, scale=scales[0], width=width or 1.0, progress=tick)
    if what == "solvers":
        from vggfeat.stages.bench.solvers import bench_solvers

        with progress.Ticker("bench solvers", quiet, unit="problem") as tick:
            result["solvers"] = bench_solvers(progress=tick)
    if as_json:
        console.print_json({name: one.as_json() if isinstance(one, Result) else one for name, one in result.items()})
    else:
        tables.print_bench(result)
        hint(_NEXT.get(what, "bench"), quiet, net=net, scales=",".join(map(str, scales)))


def _refuse_those_of_other_parts(ctx: click.Context, what: str) -> None:
    """Raises UsageError for an option that this part does not heed."""
    if what == "all":
        return
    for name in dict.fromkeys(name for names in _OF_PARTS.values() for name in names):
        if name not in _OF_PARTS[what]:
            refuse(ctx, [name], "bench " + listed(part for part, names in _OF_PARTS.items() if name in names))
