"""What a person reads: tables and progress on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

PLAIN_INTERVAL = 10.0
"""Seconds between progress lines where stderr is no terminal."""


def stderr() -> Console:
    """The console for progress, tables and notes; made anew so that tests and redirections are seen."""
    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def note(text: str) -> None:
    """One line on stderr, printed as it is (no markup)."""
    stderr().print(text, markup=False)


def print_json(result: Any) -> None:
    """A result on stdout, as JSON with NaN as null."""
    print(json.dumps(_finite(result), indent=2, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    """Plain data with what JSON has no word for (NaN, infinities) as None."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def print_nets(rows: list[dict[str, Any]]) -> None:
    """Table 1 and 2 on stdout: this listing is the command's result."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (
        ("net", "left"),
        ("layers", "right"),
        ("params", "right"),
        ("published weights", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("convolutions")
    for row in rows:
        sources = ", ".join(dict.fromkeys(weights["source"] for weights in row["weights"])) or "-"
        table.add_row(
            row["net"],
            str(row["weight_layers"]),
            f"{row['parameters'] / 1e6:.0f}M",
            sources,
            _stack(row["layers"]),
        )
    Console(highlight=False).print(table)


def _stack(layers: list[str]) -> str:
    """`conv3-64` and `M` as the short notation of Table 1's columns."""
    return " ".join(
        layer.removeprefix("conv3-").replace("conv1-", "1x1:").replace("conv5-", "5x5:") for layer in layers
    )


def print_info(result: dict[str, Any]) -> None:
    """A file's description on stdout, `name: value` a line; long lists are counted."""
    for name, value in result.items():
        if isinstance(value, dict) and len(value) > 8:
            text = f"{len(value)} entries (--json shows them)"
        elif isinstance(value, dict):
            text = ", ".join(f"{k} {v}" for k, v in value.items()) or "-"
        elif isinstance(value, list | tuple) and any(isinstance(entry, dict) for entry in value):
            text = json.dumps(value)
        elif isinstance(value, list | tuple):
            text = ",".join(map(str, value)) if len(value) <= 8 else f"{len(value)} values (--json shows them)"
        else:
            text = str(value)
        print(f"{name}: {text}")


def print_failures(errors: dict[str, str], total: int, shown: int = 10) -> None:
    """The first images that failed, each with its reason, and how many there are."""
    for name, reason in list(errors.items())[:shown]:
        note(f"skipped {name}: {reason}")
    more = f" ({len(errors) - shown} more in the file: vggfeat info --json)" if len(errors) > shown else ""
    note(f"{len(errors)} of {total} images skipped{more}")


class Ticker:
    """Progress of a long run: a bar on a terminal, a plain line at intervals elsewhere.

    Call it with (done, total, failed); use it as a context manager.
    """

    def __init__(self, what: str, quiet: bool = False, unit: str = "images") -> None:
        self.what, self.unit, self.quiet = what, unit, quiet
        self._start = self._last = time.monotonic()
        self._first: int | None = None
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> Callable[[int, int, int], None]:
        console = stderr()
        if console.is_terminal and not self.quiet:
            self._bar = Progress(
                SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counts]}"),
                TimeRemainingColumn(), console=console, transient=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=None, counts="")
        return self.tick

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tick(self, done: int, total: int, failed: int = 0) -> None:
        """Shows that `done` of `total` are done, `failed` of them skipped."""
        now = time.monotonic()
        if self._first is None:  # a resumed run starts above zero: its rate counts from there
            self._first, self._start = done, now
        rate = (done - self._first) / max(now - self._start, 1e-9)
        counts = f"{done}/{total} {self.unit}, {rate:.1f}/s" + (f", {failed} skipped" if failed else "")
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, counts=counts)
        elif not self.quiet and now - self._last >= PLAIN_INTERVAL and done < total:
            self._last = now
            left = f", {_clock((total - done) / rate)} left" if rate > 0 else ""
            note(f"{self.what}: {counts}{left}")


def _clock(seconds: float) -> str:
    """3725 -> 1:02:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
