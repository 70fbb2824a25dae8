"""`vggfeat svm`."""

from __future__ import annotations

import shlex
import warnings
from typing import Any

import click

from vggfeat.classifiers.choices import C_GRID, LOSSES, SOLVERS
from vggfeat.cli import console, progress, tables
from vggfeat.cli.hints import hint
from vggfeat.cli.options import TYPED, common, dataset_option, layer_option, pictures_option, refuse
from vggfeat.cli.types import PATH, SCALES, Choice, Numbers, Several
from vggfeat.store.choices import AGGREGATES
from vggfeat.system.files import written_at
from vggfeat.system.text import as_argument


@click.command()
@click.argument("files", cls=Several, nargs=-1, type=PATH, metavar="[FILES.h5 ..]")
@dataset_option("Takes descriptors/<dataset>-*.h5 if no file is named.")
@click.option(
    "--C",
    "C",
    type=Numbers(float, "C,C,.."),
    default=None,
    help="One cost, or a grid to choose from.  [default: 8 values, 0.01 to 31.6]",
)
@click.option(
    "--solver",
    type=Choice(SOLVERS),
    default=SOLVERS[0],
    show_default=True,
    help="auto: newton, but liblinear for the plain hinge or for over 40,000 images of over 512 values.",
)
@click.option("--loss", type=Choice(LOSSES), default=LOSSES[0], show_default=True)
@click.option(
    "--aggregate",
    type=Choice(AGGREGATES),
    help="Aggregate the kept scales again, for files made with --keep-scales.",
)
@click.option("--scales", type=SCALES, default=None, help="Use only these of the kept scales.")
@layer_option("Take this layer of each file; repeat to stack several.  [default: all]")
@click.option("--by-layer", is_flag=True, help="Score each layer of the file by itself too.")
@click.option("--num-splits", "number", type=click.IntRange(1), help="Random splits.  [default: 3]")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the first split; later ones count up.")
@click.option("--folds", type=click.IntRange(2), help="k-fold cross-validation, for your own images.")
@click.option("--train-per-class", type=click.IntRange(2), help="Training images per class.")
@click.option(
    "--test-per-class", type=click.IntRange(1), help="At most this many test images per class.  [default: the rest]"
)
@click.option(
    "--test-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of your own images to test on.  [default: 0.25]",
)
@click.option("--splits", type=PATH, metavar="FILE", help="Read the splits from a file (JSON, by id).")
@click.option("--write-splits", type=PATH, metavar="FILE", help="Write the splits to a file, for others to repeat.")
@click.option("--output", "-o", type=PATH, metavar="FILE", help="Write the fitted model, for vggfeat predict.")
@click.option(
    "--probabilities",
    is_flag=True,
    help="Calibrate the model's class probabilities on 5 held-out folds, at the cost of about 4 more fits.",
)
@click.option(
    "--max-memory",
    type=click.FloatRange(0, min_open=True),
    metavar="GIB",
    help="Fit within this memory, by reading more descriptors than fit from a temporary file.  [default: no bound]",
)
@click.option("--archive", type=PATH, metavar="FILE.tar", help="Write the VOC-2012 server's archive (trainval/test).")
@click.option(
    "--report",
    "folder",
    type=PATH,
    metavar="DIR",
    help="Write a page with the result, its images and how to repeat it.",
)
@pictures_option
@common
@click.pass_context
def svm(
    ctx: click.Context,
    files: tuple[str, ...],
    C: tuple[float, ...] | None,
    number: int | None,
    seed: int,
    folds: int | None,
    train_per_class: int | None,
    test_per_class: int | None,
    test_fraction: float | None,
    folder: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Fit linear SVMs on descriptors and score them by the data set's protocol.

    Several files are stacked (late fusion). The table goes to stderr; stdout has the paths of the files written, or,
    with --json, the whole result.

    \b
    Examples:
      vggfeat svm --dataset caltech256
      vggfeat svm D.h5 E.h5 -o model.h5 --json
      vggfeat svm photos.h5 --report report --data photos
    """
    if options["splits"] is not None:
        refuse(ctx, ["seed"], "random splits; --splits names them")
    if (options["splits"] or folds) and ctx.get_parameter_source("number") not in TYPED:
        number = None  # a recipe's, for its other runs
    if folder is None:
        refuse(ctx, ["data"], "--report")
        options["data"] = None  # VGGFEAT_DATA's
    from vggfeat.store import check_readable
    from vggfeat.store.finding import find_descriptors

    for file in files or [find_descriptors(options["dataset"])]:  # before scikit-learn's import, which takes seconds
        check_readable(file)
    from vggfeat.classifiers.protocols.settings import Settings, check_kept

    if C is not None:
        options["C"] = C
    # What these alone tell is told before scikit-learn's import.
    Settings(options.get("C", C_GRID), options["solver"], options["loss"], max_memory=options["max_memory"])
    check_kept(options["probabilities"], options["output"])
    from vggfeat.classifiers.protocols.rules import Rounds
    from vggfeat.stages.svm import svm as run

    rounds = Rounds(number, seed, folds, train_per_class, test_per_class, test_fraction)
    before = written_at(options["output"])
    try:
        with warnings.catch_warnings(record=True) as caught, progress.Ticker("svm", quiet, unit="step") as tick:
            warnings.simplefilter("default")
            result = run(files, rounds=rounds, report=folder, progress=tick, **options)
    except KeyboardInterrupt:
        written = written_at(options["output"]) != before
        model = f"the model is in {options['output']}" if written else "no model was written"
        console.say(f"stopped; {model}; the same command starts again")
        raise
    for text in dict.fromkeys(str(warning.message) for warning in caught if not quiet):
        console.note(text)
    if result.copies and not quiet:
        file = shlex.quote(as_argument(result.descriptors[0]["path"]))
        console.note(f"vggfeat similar {file} lists such pairs; --splits FILE takes splits that keep them together")
    if not quiet:
        tables.print_svm(result)
    if as_json:
        console.print_json(result.as_json())
    else:
        for path in result.files:
            click.echo(path)
        if result.model is not None:
            hint("svm probabilities" if options["probabilities"] else "svm model", quiet, path=result.model)
        elif result.archive is None:
            hint("svm", quiet, files=[as_argument(one["path"]) for one in result.descriptors])
