"""`vggfeat quickstart`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from vggfeat.cli import console, tables
from vggfeat.cli.options import common
from vggfeat.errors import VggfeatError

NARROW = ["--net", "A", "--width", "0.0625"]
TRAINING = [
    "--S",
    "224",
    "--epochs",
    "5",
    "--batch-size",
    "16",
    "--learning-rate",
    "0.002",
    "--set",
    "sgd.dropout=0",
    "--set",
    "augment.flip=false",
]
"""Small steps and no mirroring (a digit has a handedness) suit a narrow net and 900 pictures."""

SCALES = ["--scales", "224,288"]


@click.command()
@click.option("--keep", metavar="DIR", help="Work in this new folder and keep it.  [default: a temporary one]")
@click.option("--weights", metavar="FILE", help="A net of your own in place of the one trained here.")
@common
def quickstart(keep: str | None, weights: str | None, as_json: bool, quiet: bool) -> None:
    """Try it: train, extract and classify small pictures, offline.

    Trains a narrow net on handwritten digits (8x8 pictures that scikit-learn ships), extracts descriptors of other
    digits over two scales and fits SVMs, beside an untrained net of the same shape and the raw pixels. Prints each
    command that it runs.

    \b
    Example:
      vggfeat quickstart --keep try
    """
    from vggfeat.stages.sample_data import write_digits, write_pixels

    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        if keep is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vggfeat-")))
        else:
            folder = Path(keep)
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise VggfeatError(f"{folder} is not empty: --keep names a new folder")
        net = str(Path(weights).resolve()) if weights else "net.pt"
        stack.enter_context(_inside(folder))
        for_the_net, _ = write_digits(Path())
        if not quiet:
            console.note(f"digits as PNG files in {folder}: {for_the_net}/ for the net, digits/ for the SVM")
        road = _Road(quiet)
        if not weights:
            training = ["--dataset", "folder", "--data", str(for_the_net), *NARROW, *TRAINING]
            road.run("train", *training, "-o", net)
        own = ["--dataset", "folder", "--data", "digits", *SCALES]
        road.run("extract", *own, "--weights", net, "-o", "learned.h5")
        road.run("extract", *own, *NARROW, "--weights", "none", "-o", "untrained.h5")
        write_pixels(Path("digits"), Path("pixels.h5"))
        scores = {
            "this net" if weights else "net trained here": road.run("svm", "learned.h5"),
            "untrained net of that shape" if not weights else "untrained narrow net": road.run("svm", "untrained.h5"),
            "raw pixels, no net": road.run("svm", "pixels.h5"),
        }
    seconds = round(time.monotonic() - start, 1)
    rows = [{"features": name, **{k: svm[k] for k in ("measure", "mean", "std")}} for name, svm in scores.items()]
    if as_json:
        console.print_json({"scores": rows, "commands": road.commands, "seconds": seconds})
    else:
        tables.print_quickstart(rows, seconds)


class _Road:
    """Runs commands as a shell would, printing each one first."""

    def __init__(self, quiet: bool) -> None:
        self.commands: list[str] = []
        self._quiet = quiet

    def run(self, *args: str) -> dict[str, Any]:
        """The command's result. Raises VggfeatError where it fails; its own words are on stderr by then."""
        from vggfeat.cli import run  # the whole command line, which itself imports this verb

        self.commands.append(shlex.join(["vggfeat", *args]))
        if not self._quiet:
            console.note(f"$ {self.commands[-1]}")
        captured = io.StringIO()
        with contextlib.redirect_stdout(captured):
            code = run([*args, "--json", "--quiet"])
        if code:
            raise VggfeatError(f"quickstart: '{self.commands[-1]}' ended with code {code}")
        result: dict[str, Any] = json.loads(captured.getvalue())
        return result


@contextlib.contextmanager
def _inside(folder: Path) -> Any:
    """The commands run inside the folder, so that they stand as a user would type them there."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
