"""Training as a person sees it: a live table on a terminal, plain lines elsewhere, curves as a picture."""

from __future__ import annotations

import importlib.util
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table

from vggfeat.cli.console import note, stderr
from vggfeat.cli.progress import PLAIN_INTERVAL, clock
from vggfeat.system.files import replacing
from vggfeat.training.observer import EpochReport, Observer, StepReport
from vggfeat.training.state import RunFiles, read_metrics

SHOWN_EPOCHS = 12
"""Rows of the live table."""

CURVES_INTERVAL = 60.0
"""Seconds at least between drawings of the curves while a run goes on."""


class TrainingDisplay(Observer):
    """Shows a run; use it as a context manager."""

    def __init__(self, files: RunFiles, quiet: bool) -> None:
        self.files, self.quiet = files, quiet
        self._rows: list[EpochReport] = []
        self._current: StepReport | None = None
        self._begun: tuple[float, int] | None = None
        """When the first update of this epoch was reported, and its number; it may be a resumed run's."""
        self._last = self._drawn = time.monotonic()
        self._live: Live | None = None
        self._curves = importlib.util.find_spec("matplotlib") is not None

    def __enter__(self) -> TrainingDisplay:
        console = stderr()
        if console.is_terminal and not self.quiet:
            self._live = Live(console=console, get_renderable=self._table, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        """Above the table, or a line."""
        if self._live is not None:
            self._live.console.print(text, markup=False)
        elif not self.quiet:
            note(text)

    def step(self, report: StepReport) -> None:
        """The table's last row, or a line now and then."""
        self._current = report
        now = time.monotonic()
        self._begun = self._begun or (now, report.step)
        if self._live is None and not self.quiet and now - self._last >= PLAIN_INTERVAL:
            self._last = now
            train = report.train
            note(
                f"epoch {report.epoch}/{report.epochs}, update {report.step}/{report.steps}: loss {train.loss:.3f}, "
                f"top-1 {train.top1:.1f}%, top-5 {train.top5:.1f}%, rate {report.rate:g}, "
                f"{report.images_per_second:.1f} images/s{self._left()}"
            )

    def epoch(self, report: EpochReport) -> None:
        """A row of the table, or a line; now and then the curves anew."""
        self._rows.append(report)
        if self._curves and time.monotonic() - self._drawn >= CURVES_INTERVAL:
            self._draw()
        self._current = self._begun = None
        train, val = report.train, report.val
        if self._live is None and not self.quiet:
            self._last = time.monotonic()
            note(
                f"epoch {report.epoch}/{report.epochs}: train loss {train.loss:.3f}, top-1 {train.top1:.1f}%, top-5 "
                f"{train.top5:.1f}%; validation loss {val.loss:.3f}, top-1 {val.top1:.1f}%, top-5 {val.top5:.1f}%"
                f"{' (best)' if report.best else ''}; rate {report.rate:g}, {report.images_per_second:.1f} images/s"
            )

    def finish(self) -> None:
        """The curves, where matplotlib is installed."""
        if self._rows and self._curves:
            self._draw()
        elif self._rows:
            self.note("no curves: they need matplotlib (pip install 'vggfeat[report]')")

    def _draw(self) -> None:
        plot_curves(read_metrics(self.files.metrics), self.files.curves)
        self._drawn = time.monotonic()

    def _left(self) -> str:
        """How long the epoch's updates still take."""
        if self._current is None or self._begun is None:
            return ""
        (start, first), now = self._begun, self._current
        if now.step == first:
            return ""
        seconds = (time.monotonic() - start) / (now.step - first) * (now.steps - now.step)
        return f"; epoch ends in {clock(seconds)}"

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
        table.caption = "top-1, top-5: error in %; green: best so far" + self._left()
        parts = [f"{part}\n{name}" for part in ("train", "val") for name in ("loss", "top-1", "top-5")]
        for name in ("epoch", "update", *parts, "rate", "images\n/s"):  # 80 columns hold them
            table.add_column(name, justify="right", no_wrap=True)
        for row in self._rows[-SHOWN_EPOCHS:]:
            table.add_row(
                f"{row.epoch}/{row.epochs}",
                "",
                *_cells(row.train),
                *_cells(row.val),
                f"{row.rate:g}",
                f"{row.images_per_second:.0f}",
                style="green" if row.best else None,
            )
        if self._current is not None:
            now = self._current
            table.add_row(
                f"{now.epoch}/{now.epochs}",
                f"{now.step}/{now.steps}",
                *_cells(now.train),
                "",
                "",
                "",
                f"{now.rate:g}",
                f"{now.images_per_second:.0f}",
            )
        return table


def _cells(errors: Any) -> tuple[str, str, str]:
    return f"{errors.loss:.3f}", f"{errors.top1:.1f}", f"{errors.top5:.1f}"


def plot_curves(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Loss and errors over the epochs, from metrics.jsonl's rows, as a PNG. Needs matplotlib.

    Validation stands where its epoch ends; training is a running mean over updates, or in short epochs over each
    epoch, at its middle. Dotted lines show where the learning rate fell.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row for row in rows if row["kind"] == "epoch"]
    x_train, train = _training_curve(rows, epochs)
    x = [row["epoch"] for row in epochs]
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    loss, error = figure.subplots(1, 2)
    loss.set_ylabel("loss")
    error.set_ylabel("error (%)")
    one_guess = all(row["val_top1"] == row["val_top5"] for row in epochs)  # a localiser has no top-5
    errors = [("top1", "error")] if one_guess else [("top1", "top-1"), ("top5", "top-5")]
    for axes, measures in ((loss, [("loss", "loss")]), (error, errors)):
        for number, (name, label) in enumerate(measures):
            colour, marker = f"C{number}", "." if len(x_train) == len(x) else None
            axes.plot(x_train, [row[name] for row in train], marker=marker, lw=0.8, color=colour, alpha=0.6)
            axes.plot(x, [row[f"val_{name}"] for row in epochs], "o-", ms=3, color=colour)
            best = min(epochs, key=lambda row: row[f"val_{name}"])
            axes.plot(
                [], [], "-", color=colour, label=f"{label}, least {best[f'val_{name}']:.3g} at epoch {best['epoch']}"
            )
        axes.plot([], [], "o-", ms=3, color="grey", label="validation, centre view")
        axes.plot([], [], lw=0.8, color="grey", alpha=0.6, label="training crops")
        for before, after in itertools.pairwise(epochs):
            if after["rate"] != before["rate"]:
                axes.axvline(before["epoch"], color="grey", lw=0.8, ls=":")
                axes.annotate(
                    f"{after['rate']:g}",
                    (before["epoch"], 0.01),
                    xycoords=("data", "axes fraction"),
                    color="grey",
                    fontsize=8,
                    xytext=(2, 2),
                    textcoords="offset points",
                )
        axes.set_xlim(0, max(x) * 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    error.set_ylim(bottom=0)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path


def _training_curve(
    rows: Sequence[dict[str, Any]], epochs: Sequence[dict[str, Any]]
) -> tuple[list[float], Sequence[dict[str, Any]]]:
    """Where on the axis of epochs the training's rows lie, and the rows: the finer ones that there are."""
    updates = [row for row in rows if row["kind"] == "updates"]
    if len(updates) <= len(epochs):
        return [row["epoch"] - 0.5 for row in epochs], epochs
    steps = epochs[0]["step"] / epochs[0]["epoch"]  # updates an epoch
    return [row["step"] / steps for row in updates], updates
