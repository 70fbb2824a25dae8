"""`vggfeat quickstart`."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from vggfeat.cli import console, tables
from vggfeat.cli.exit_codes import INTERRUPTED
from vggfeat.cli.options import common
from vggfeat.cli.types import PATH
from vggfeat.errors import VggfeatError

NARROW = ["--net", "A", "--width", "0.0625"]

TRAINING = [
    *("--S", "224-320", "--epochs", "8", "--batch-size", "16", "--learning-rate", "0.003"),
    *("--init", "data-dependent", "--set", "sgd.dropout=0", "--set", "augment.flip=false"),
]
"""Small steps and no mirroring (a digit has a handedness) suit a narrow net and 900 small images. Crops of several
sizes keep it from learning the seen digits by heart, which serves no other digit."""

EXTRACTION = ["--dataset", "folder", "--data", "new", "--scales", "256", "--no-flip"]

LABELLED, SPLITS = 5, 5
"""Labelled images of each new digit, and random choices of them."""

FITTING = ["--train-per-class", str(LABELLED), "--num-splits", str(SPLITS), "--C", "10"]
"""So few labelled images leave none to choose C on."""

NEXT = (
    "vggfeat extract --dataset folder --data photos --scales 256 -o photos.h5",
    "vggfeat svm photos.h5 -o model.h5 --report report --data photos",
    "vggfeat predict model.h5 new/*.jpg",
)
"""What to type next, with pictures in photos/<class>/."""


@click.command()
@click.option("--keep", type=PATH, metavar="DIR", help="Work in this new folder.  [default: a new temporary one]")
@click.option("--weights", type=PATH, metavar="FILE", help="Use your net instead of training one.")
@common
def quickstart(keep: str | None, weights: str | None, as_json: bool, quiet: bool) -> None:
    """Try it: train, extract and classify small pictures, offline.

    A narrow net learns the handwritten digits 0 to 4 (small pictures that scikit-learn ships). Its features then serve
    to tell apart the digits 5 to 9, which it never saw, with five labelled images of each. An untrained net of the
    same shape and the raw pixels are compared. Every command is printed before it runs. Takes a minute or two.

    \b
    Example:
      vggfeat quickstart --keep try
    """
    from vggfeat.stages.sample_data import NEW, write_digits, write_pixels

    start = time.monotonic()
    net = str(Path(weights).resolve()) if weights else "net.pt"
    folder = _new_folder(keep)
    road = _Commands(quiet)
    with contextlib.chdir(folder):
        write_digits(Path())
        road.note(f"in {folder}: seen/ has digits 0 to 4 for the net, new/ has digits 5 to 9")
        if not weights:
            road.run("train", "--dataset", "folder", "--data", "seen", *NARROW, *TRAINING, "-o", net)
        road.run("extract", *EXTRACTION, "--weights", net, "-o", "learned.h5")
        road.run("extract", *EXTRACTION, *NARROW, "--weights", "none", "-o", "untrained.h5")
        write_pixels(Path("new"), Path("pixels.h5"))
        learned = road.run("svm", "learned.h5", *FITTING, "--report", "report", "--data", "new")
        scores = {
            "this net" if weights else "net trained on digits 0 to 4": learned,
            "untrained narrow net" if weights else "untrained net of that shape": road.score("untrained.h5"),
            "raw pixels, no net": road.score("pixels.h5"),
            "chance": {"measure": learned["measure"], "mean": learned["chance"], "std": None},
        }
    seconds = round(time.monotonic() - start, 1)
    rows = [{"features": name, **{k: svm[k] for k in ("measure", "mean", "std")}} for name, svm in scores.items()]
    page = folder / "report" / "index.html"
    if as_json:
        console.print_json({"scores": rows, "commands": road.commands, "seconds": seconds, "report": str(page)})
    else:
        task = f"{len(NEW)} new digits, {LABELLED} labelled images of each, {SPLITS} random splits"
        tables.print_quickstart(rows, f"{task}; {seconds:.0f} s in all")
    road.note(f"report: {page}")
    road.note("next, with your own pictures in photos/<class>/ (the first command downloads net D once, 553 MB):")
    for line in NEXT:
        road.note(f"  {line}")


def _new_folder(keep: str | None) -> Path:
    """An empty folder to work in. Raises VggfeatError if the given one has files."""
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="vggfeat-"))
    folder = Path(keep).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise VggfeatError(f"{keep} is not empty: --keep names a new folder")
    return folder


class _Commands:
    """Runs command lines, printing each one first."""

    def __init__(self, quiet: bool) -> None:
        self.commands: list[str] = []
        self._quiet = quiet

    def note(self, text: str) -> None:
        """Prints a line on stderr."""
        if not self._quiet:
            console.note(text)

    def run(self, *args: str) -> dict[str, Any]:
        """Runs a command with its progress shown and returns its result. Raises VggfeatError if it fails."""
        from vggfeat.cli import run  # the whole command line, which imports this verb

        self.commands.append(shlex.join(["vggfeat", *args]))
        self.note(f"$ {self.commands[-1]}")
        quiet = ["--quiet"] if self._quiet or args[0] == "svm" else []  # svm takes a second, and its table is ours
        captured = io.StringIO()
        with contextlib.redirect_stdout(captured):
            code = run([*args, "--json", *quiet])
        if code == INTERRUPTED:  # told already
            raise click.exceptions.Exit(INTERRUPTED)
        if code:
            raise VggfeatError(f"quickstart: '{self.commands[-1]}' ended with code {code}")
        result: dict[str, Any] = json.loads(captured.getvalue())
        return result

    def score(self, file: str) -> dict[str, Any]:
        """Fits and scores classifiers on a descriptor file."""
        return self.run("svm", file, *FITTING)
