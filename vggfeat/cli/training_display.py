"""The progress of training: a live table on a terminal, plain lines elsewhere, and the curves as a picture."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator

from rich.live import Live
from rich.table import Table

from vggfeat.cli.advice import in_flags
from vggfeat.cli.console import note, redrawn, stderr
from vggfeat.cli.progress import PLAIN_INTERVAL, Ticker
from vggfeat.errors import InUseError
from vggfeat.page import plots
from vggfeat.page.curves import epochs_of, save_curves
from vggfeat.system.bars import clock, in_megabytes
from vggfeat.system.files import discard
from vggfeat.training.files import RunFiles
from vggfeat.training.observer import EpochReport, Errors, Observer, StepReport
from vggfeat.training.state import read_metrics

SHOWN_EPOCHS = 12
"""Rows of the live table."""

CURVES_INTERVAL = 60.0
"""Least seconds between drawings of the curves during a run."""


_CLOSED = (errno.EIO, errno.ENXIO, errno.EBADF, errno.EINVAL)
"""What writing to a terminal that is gone gives: EIO on Linux, the others on macOS and Windows."""


@contextlib.contextmanager
def while_shown() -> Iterator[None]:
    """A terminal that was closed ends a run by its signal, after a checkpoint; what is printed meanwhile is lost."""
    try:
        yield
    except OSError as error:
        if error.errno not in _CLOSED:
            raise


class TrainingDisplay(Observer):
    """Shows a run; use it as a context manager.

    Args:
        files: of the run.
        quiet: show nothing.
        top5: show the top-5 error too, which says nothing among five classes or fewer.
    """

    def __init__(self, files: RunFiles, quiet: bool, top5: bool = True) -> None:
        self.files, self.quiet, self.top5 = files, quiet, top5
        self._rows: list[EpochReport] = []
        self._current: StepReport | None = None
        self._begun: tuple[float, int] | None = None
        """Time and number of the first update reported in this epoch; a resumed run begins within one."""
        self._last = self._drawn = time.monotonic()
        self._live: Live | None = None
        self._bar: Ticker | None = None
        self._curves = plots.available()
        self._refused = False
        """Whether the curves could not be replaced once."""

    def __enter__(self) -> TrainingDisplay:
        return self

    @while_shown()
    def __exit__(self, *_: object) -> None:
        self._end_bar()
        if self._live is not None:
            self._live.stop()

    def _show_table(self) -> None:
        """Starts the live table, at the first update: a terminal shows one live display at a time."""
        self._end_bar()
        console = stderr()
        if self._live is None and redrawn(console) and not self.quiet:
            self._live = Live(console=console, get_renderable=self._table, refresh_per_second=2)
            self._live.start()

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.__exit__()
            self._bar = None

    def _begun_bar(self, what: str, unit: str) -> Ticker:
        if self._bar is None or self._bar.what != what:
            self._end_bar()
            self._bar = Ticker(what, self.quiet, unit)
        return self._bar

    @while_shown()
    def note(self, text: str) -> None:
        """Prints a line, above the table."""
        text = in_flags(text)
        if self._live is not None:
            self._live.console.print(text, markup=False)
        elif not self.quiet:
            note(text)

    @while_shown()
    def fetched(self, done: int, total: int | None) -> None:
        """A bar, or a line at intervals."""
        in_megabytes(self._begun_bar("fetch", "MB").tick)(done, total)

    @while_shown()
    def frozen(self, done: int, total: int) -> None:
        """A bar, or a line at intervals."""
        self._begun_bar("frozen layers", "crop").tick(done, total, 0)

    @while_shown()
    def step(self, report: StepReport) -> None:
        """Updates the table's last row, or prints a line at intervals."""
        self._show_table()
        self._current = report
        now = time.monotonic()
        self._begun = self._begun or (now, report.step)
        if self._live is None and not self.quiet and now - self._last >= PLAIN_INTERVAL:
            self._last = now
            note(
                f"epoch {report.epoch}/{report.epochs}, update {report.step}/{report.steps}: "
                f"{self._errors(report.train)}, rate {report.rate:g}, {report.images_per_second:.1f} images/s"
                + self._left()
            )

    @while_shown()
    def epoch(self, report: EpochReport) -> None:
        """Adds a row to the table, or prints a line; redraws the curves at intervals."""
        self._rows.append(report)
        if self._curves and time.monotonic() - self._drawn >= CURVES_INTERVAL:
            self._draw()
        self._current = self._begun = None
        if self._live is None and not self.quiet:
            self._last = time.monotonic()
            note(
                f"epoch {report.epoch}/{report.epochs}: train {self._errors(report.train)}; validation "
                f"{self._errors(report.val)}{' (best)' if report.best else ''}; rate {report.rate:g}, "
                f"{report.images_per_second:.1f} images/s"
            )

    def finish(self) -> None:
        """Draws the curves, where matplotlib is installed."""
        if self._rows and self._curves:
            self._draw(last=True)
        elif self._rows:
            self.note("no curves: they need matplotlib (pip install 'vggfeat[report]')")

    def _draw(self, last: bool = False) -> None:
        """Draws the curves; a program that shows the former ones must not end a run (on Windows it would)."""
        try:
            rows = read_metrics(self.files.metrics)
            if epochs_of(rows):
                save_curves(rows, self.files.curves)
        except InUseError as error:
            if last:
                self.note(str(error))
            else:
                discard(error.kept)
                if not self._refused:
                    self.note(f"{error.path}: cannot replace it; is it open in another program? Training goes on")
            self._refused = True
        except PermissionError as error:  # another program keeps the metrics to itself
            self.note(f"{error.filename}: no curves: {error.strerror}")
        self._drawn = time.monotonic()

    def _errors(self, errors: Errors) -> str:
        top5 = f", top-5 {errors.top5:.1f}%" if self.top5 else ""
        return f"loss {errors.loss:.3f}, top-1 error {errors.top1:.1f}%{top5}"

    def _left(self) -> str:
        """The time left for the epoch's updates."""
        if self._current is None or self._begun is None:
            return ""
        (start, first), now = self._begun, self._current
        if now.step == first:
            return ""
        seconds = (time.monotonic() - start) / (now.step - first) * (now.steps - now.step)
        return f"; epoch ends in {clock(seconds)}"

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
        shown = ("top-1", "top-5") if self.top5 else ("top-1",)
        table.caption = f"{', '.join(shown)}: error in %; green: best so far" + self._left()
        parts = [f"{part}\n{name}" for part in ("train", "val") for name in ("loss", *shown)]
        for name in ("epoch", "update", *parts, "rate", "images\n/s"):  # 80 columns hold them
            table.add_column(name, justify="right", no_wrap=True)
        for row in self._rows[-SHOWN_EPOCHS:]:
            table.add_row(
                f"{row.epoch}/{row.epochs}",
                "",
                *self._cells(row.train),
                *self._cells(row.val),
                f"{row.rate:g}",
                f"{row.images_per_second:.0f}",
                style="green" if row.best else None,
            )
        if self._current is not None:
            now = self._current
            table.add_row(
                f"{now.epoch}/{now.epochs}",
                f"{now.step}/{now.steps}",
                *self._cells(now.train),
                *[""] * (1 + len(shown)),
                f"{now.rate:g}",
                f"{now.images_per_second:.0f}",
            )
        return table

    def _cells(self, errors: Errors) -> list[str]:
        top5 = [f"{errors.top5:.1f}"] if self.top5 else []
        return [f"{errors.loss:.3f}", f"{errors.top1:.1f}", *top5]
