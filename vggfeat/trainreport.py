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

from vggfeat.files import replacing
from vggfeat.report import PLAIN_INTERVAL, note, stderr
from vggfeat.training.observer import EpochReport, Observer, StepReport
from vggfeat.training.state import RunFiles, read_metrics

SHOWN_EPOCHS = 12
"""Rows of the live table."""


class TrainingDisplay(Observer):
    """Shows a run; use it as a context manager."""

    def __init__(self, files: RunFiles, quiet: bool) -> None:
        self.files, self.quiet = files, quiet
        self._rows: list[EpochReport] = []
        self._current: StepReport | None = None
        self._last = time.monotonic()
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
        if self._live is None and not self.quiet and now - self._last >= PLAIN_INTERVAL:
            self._last = now
            train = report.train
            note(
                f"epoch {report.epoch}/{report.epochs}, update {report.step}/{report.steps}: loss {train.loss:.3f}, "
                f"top-1 {train.top1:.1f}%, top-5 {train.top5:.1f}%, rate {report.rate:g}, "
                f"{report.images_per_second:.1f} images/s"
            )

    def epoch(self, report: EpochReport) -> None:
        """A row of the table, or a line; the curves anew."""
        self._rows.append(report)
        self._current = None
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
            plot_curves(read_metrics(self.files.metrics), self.files.curves)
        elif self._rows:
            self.note("no curves: they need matplotlib (pip install 'vggfeat[report]')")

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("epoch", "update", "loss", "top-1 %", "top-5 %", "val loss", "val top-1 %", "val top-5 %", "rate"):
            table.add_column(name, justify="right")
        table.add_column("images/s", justify="right")
        for row in self._rows[-SHOWN_EPOCHS:]:
            table.add_row(
                f"{row.epoch}/{row.epochs}", "", *_cells(row.train), *_cells(row.val), f"{row.rate:g}",
                f"{row.images_per_second:.0f}", style="green" if row.best else None,
            )  # fmt: skip
        if self._current is not None:
            now = self._current
            table.add_row(
                f"{now.epoch}/{now.epochs}", f"{now.step}/{now.steps}", *_cells(now.train), "", "", "", f"{now.rate:g}",
                f"{now.images_per_second:.0f}",
            )  # fmt: skip
        return table


def _cells(errors: Any) -> tuple[str, str, str]:
    return f"{errors.loss:.3f}", f"{errors.top1:.1f}", f"{errors.top5:.1f}"


def plot_curves(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Loss and errors over the epochs, from metrics.jsonl's rows, as a PNG. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    epochs = [row for row in rows if row["kind"] == "epoch"]
    x = [row["epoch"] for row in epochs]
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    loss, error = figure.subplots(1, 2)
    loss.plot(x, [row["loss"] for row in epochs], "o-", ms=3, label="training")
    loss.plot(x, [row["val_loss"] for row in epochs], "o-", ms=3, label="validation, centre view")
    loss.set_ylabel("loss (nats)")
    for name, colour in (("top1", "C0"), ("top5", "C1")):
        label = f"top-{name[-1]}"
        error.plot(x, [row[name] for row in epochs], "--", color=colour, label=f"{label}, training")
        error.plot(x, [row[f"val_{name}"] for row in epochs], "o-", ms=3, color=colour, label=f"{label}, validation")
    error.set_ylabel("error (%)")
    for before, after in itertools.pairwise(epochs):
        if after["rate"] != before["rate"]:
            for axes in (loss, error):
                axes.axvline(after["epoch"] - 0.5, color="grey", lw=0.8, ls=":")
    for axes in (loss, error):
        axes.set_xlabel("epoch")
        axes.legend()
        axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path
