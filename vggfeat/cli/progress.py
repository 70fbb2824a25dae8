"""Progress of long runs on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from vggfeat.cli.console import note, redrawn, stderr
from vggfeat.system.bars import Pace

PLAIN_INTERVAL = 10.0
"""Seconds between progress lines where stderr is not a terminal."""


class Ticker:
    """Progress of a long run: a bar on a terminal, a plain line at intervals elsewhere.

    Use it as a context manager and call what it yields with (done, total, failed); a total of 0 is an unknown one. A
    command may have several: each bar appears at its first call and disappears at its end, or when another starts,
    because a terminal shows one at a time.
    """

    _shown: ClassVar[Ticker | None] = None

    def __init__(self, what: str, quiet: bool = False, unit: str = "image") -> None:
        self.what, self.quiet = what, quiet
        self._pace = Pace(unit)
        self._last = time.monotonic()
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
        counts = self._pace.counts(done, total, failed)
        if self.quiet or (total and done >= total):
            self._hide()
        elif redrawn(console := stderr()):
            bar = self._bar or self._show(console)
            bar.update(self._task, completed=done, total=total or None, counts=counts)
        elif now - self._last >= PLAIN_INTERVAL:
            self._last = now
            note(f"{self.what}: {counts}{self._pace.left(done, total)}")
