"""`vggfeat predict`."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from vggfeat.cli import console, progress, tables
from vggfeat.cli.exit_codes import SKIPPED
from vggfeat.cli.inputs import images_from
from vggfeat.cli.options import common, data_option, dataset_option
from vggfeat.cli.types import Choice
from vggfeat.system.launch import default_workers
from vggfeat.system.precisions import PRECISIONS


@click.command()
@click.argument("model")
@click.argument("paths", nargs=-1, metavar="[PATHS..|-]")
@dataset_option("It lies under the data root.")
@data_option
@click.option("--list", "list_file", metavar="FILE", help="Paths from a file: one a line, or id<TAB>path.")
@click.option("-0", "nul", is_flag=True, help="The list is separated by NUL bytes (find -print0).")
@click.option("--all", "all_classes", is_flag=True, help="Every class's score, best first, not the best one's alone.")
@click.option(
    "--weights",
    multiple=True,
    metavar="NAME|FILE",
    help="Where the recorded weights lie now, one a net; their hash must be the same.",
)
@click.option("--seed", type=int, help="Of nets whose weights were random.  [default: the recorded one]")
@click.option("--offline", is_flag=True, envvar="VGGFEAT_OFFLINE", help="Never fetch anything.")
@click.option("--device", metavar="DEVICE", default=None, help="cpu, cuda, cuda:1, mps.  [default: the best]")
@click.option(
    "--precision",
    type=Choice(PRECISIONS),
    default=None,
    help="[default: as the descriptors were made]",
)
@click.option("--workers", type=click.IntRange(1), help="Decoding threads.  [default: one a core]")
@common
@click.pass_context
def predict(
    ctx: click.Context,
    model: str,
    paths: tuple[str, ...],
    dataset: str | None,
    data: str,
    list_file: str | None,
    nul: bool,
    all_classes: bool,
    as_json: bool,
    quiet: bool,
    workers: int | None,
    **options: Any,
) -> None:
    """Score new images with a fitted model.

    MODEL is a file that svm -o wrote. Images are described with the net, weights and settings that it records. Prints
    id<TAB>class<TAB>score, the score being the signed distance from the class's hyperplane, no probability.

    \b
    Example:
      find photos -name '*.jpg' | vggfeat predict model.h5 -
    """
    images = images_from(paths, list_file, nul, dataset, data)
    from vggfeat.stages.predict import predict as run

    results: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    workers = workers or default_workers()
    on_screen = sys.stdout.isatty() and not as_json  # then its lines are the progress, and a bar would tear them
    with progress.Ticker("predict", quiet or on_screen) as tick:
        for prediction, class_names in run(model, images, workers=workers, progress=tick, **options):
            if prediction.scores is None:
                failed[prediction.id] = prediction.error
                results.append({"id": prediction.id, "error": prediction.error})
                continue
            best = prediction.best(class_names, None if all_classes else 1)
            if as_json:
                results.append({"id": prediction.id, "classes": [{"class": name, "score": s} for name, s in best]})
            else:
                _write("".join(f"{prediction.id}\t{name}\t{score:.6g}\n" for name, score in best))
    if as_json:
        console.print_json({"model": model, "images": results})
    if failed and not quiet:
        tables.print_failures(failed, len(images.samples))
    if failed:
        ctx.exit(SKIPPED)


def _write(text: str) -> None:
    """Text on stdout with the bytes of names that are no UTF-8 as they are."""
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode(text))
    sys.stdout.buffer.flush()
