"""Progress of long runs on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from vggfeat.cli.console import note, stderr

PLAIN_INTERVAL = 10.0
"""Seconds between progress lines where stderr is not a terminal."""


class Ticker:
    """Progress of a long run: a bar on a terminal, a plain line at intervals elsewhere.

    Use it as a context manager and call what it yields with (done, total, failed); a total of 0 is an unknown one. A
    command may have several: each bar appears at its first call and disappears at its end, or when another starts,
    because a terminal shows one at a time.
    """

    _shown: ClassVar[Ticker | None] = None

    def __init__(self, what: str, quiet: bool = False, unit: str = "images") -> None:
        self.what, self.unit, self.quiet = what, unit, quiet
        self._start = self._last = time.monotonic()
        self._first: int | None = None
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> Callable[[int, int, int], None]:
        return self.tick

    def __exit__(self, *_: object) -> None:
        self._hide()

    def _show(self, console: Console) -> Progress:
        """Starts the bar, in place of any other."""
        if Ticker._shown is not None:
            Ticker._shown._hide()
        Ticker._shown = self
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[counts]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(self.what, total=None, counts="")
        return self._bar

    def _hide(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = Ticker._shown = None

    def tick(self, done: int, total: int, failed: int = 0) -> None:
        """Shows progress: `done` of `total`, of which `failed` were skipped."""
        now = time.monotonic()
        if self._first is None:  # a resumed run starts above zero; its rate counts from there
            self._first, self._start = done, now
        rate = (done - self._first) / max(now - self._start, 1e-9)
        number = f"{done}/{total}" if total else f"{done}"
        counts = f"{number} {self.unit}, {rate:.1f}/s" + (f", {failed} skipped" if failed else "")
        if self.quiet or (total and done >= total):
            self._hide()
        elif (console := stderr()).is_terminal:
            bar = self._bar or self._show(console)
            bar.update(self._task, completed=done, total=total or None, counts=counts)
        elif now - self._last >= PLAIN_INTERVAL:
            self._last = now
            left = f", {clock((total - done) / rate)} left" if rate > 0 and total else ""
            note(f"{self.what}: {counts}{left}")


MEGABYTE = 10**6


def in_megabytes(tick: Callable[[int, int, int], None]) -> Callable[[int, int | None], None]:
    """A fetch's progress in bytes, shown in MB."""
    return lambda done, total: tick(done // MEGABYTE, (total or 0) // MEGABYTE, 0)


def clock(seconds: float) -> str:
    """3725 -> 1:02:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
