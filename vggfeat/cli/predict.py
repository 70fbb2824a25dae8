"""`vggfeat predict`."""

from __future__ import annotations

import sys
from typing import Any

import click

from vggfeat.cli import console, progress, tables
from vggfeat.cli.exit_codes import SKIPPED
from vggfeat.cli.hints import hint
from vggfeat.cli.inputs import images_from
from vggfeat.cli.options import common, data_option, dataset_option, list_options, recorded_net_options
from vggfeat.cli.types import PATH, Several
from vggfeat.errors import UsageError


@click.command()
@click.argument("model", type=PATH)
@click.argument("paths", cls=Several, nargs=-1, type=PATH, metavar="[PATHS..|-]")
@dataset_option("It lies under the data root.")
@data_option
@list_options
@click.option("--top", "-k", type=click.IntRange(1), metavar="K", help="Print the K best classes.  [default: 1]")
@click.option("--all", "all_classes", is_flag=True, help="Print all classes, best first.")
@click.option(
    "--probabilities",
    is_flag=True,
    help="Print probabilities, not scores, for models of svm --probabilities; a net always gives probabilities.",
)
@click.option("--header", is_flag=True, help="Begin with a line of column names.")
@click.option(
    "--preprocessing",
    type=PATH,
    metavar="NAME|FILE.toml",
    help="What a net's weights expect of an image, if the file does not say.",
)
@recorded_net_options(nets=True)
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
    top: int | None,
    all_classes: bool,
    probabilities: bool,
    header: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Classify new images with a trained net or a fitted model.

    MODEL is a checkpoint that train wrote, or a file that svm -o wrote. Prints id<TAB>class<TAB>score, best class
    first. Ids and classes with control characters (tabs, line breaks) or a quote at the beginning are written as JSON
    strings. A net's score is the probability of the class, from the whole image and its mirror image. A fitted model
    describes images as it records; its score is w x + b, which is 0 on the class's hyperplane and 1 on its margin, or
    with --probabilities the calibrated probability.

    \b
    Examples:
      vggfeat predict net.pt photos --top 5 --header
      find photos -name '*.jpg' | vggfeat predict model.h5 -
    """
    if all_classes and top is not None:
        raise UsageError("--top and --all: choose one")
    if header and as_json:
        raise UsageError("--header describes columns, which --json does not have: leave one out")
    images = images_from(paths, list_file, nul, dataset, data)
    from vggfeat.inference.prediction import is_net
    from vggfeat.stages.predict import predict as run

    gives_probabilities = probabilities or is_net(model)
    results: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    on_screen = sys.stdout.isatty() and not as_json  # then its lines are the progress, and a bar would tear them
    with progress.Ticker("predict", quiet or on_screen) as tick:
        found = run(model, images, probabilities=probabilities, progress=tick, **options)
        for number, (prediction, class_names) in enumerate(found):
            if header and number == 0:  # the model could be read
                console.print_rows([("id", "class", "probability" if gives_probabilities else "score")])
            if prediction.scores is None:
                failed[prediction.id] = prediction.error
                results.append({"id": prediction.id, "error": prediction.error})
                continue
            best = prediction.best(class_names, None if all_classes else top or 1)
            if as_json:
                results.append({"id": prediction.id, "classes": [{"class": name, "score": s} for name, s in best]})
            else:
                console.print_rows((prediction.id, name, score) for name, score in best)
    if as_json:
        kind = "probability" if gives_probabilities else "margin"
        console.print_json({"model": model, "score_kind": kind, "images": results})
    if failed and not quiet:
        tables.print_failures(failed, len(images.samples), where="with --json")
    if not as_json and top is None and not all_classes and len(failed) < len(images.samples):
        hint("predict", quiet, path=model)
    if failed:
        ctx.exit(SKIPPED)
