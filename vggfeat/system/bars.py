"""Progress of functions called from Python: one line, drawn again and again, on a terminal or below a notebook's cell.

The command line shows rich's bars and passes them as `progress`. They are not for here: in a notebook rich needs
ipywidgets, and warns without it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from vggfeat.errors import UsageError
from vggfeat.system.numbers import number_of

P = ParamSpec("P")
R = TypeVar("R")
Told = TypeVar("Told", bound=Callable[..., None])

Progress = Callable[[int, int, int], None]
"""Called with (done, in all, failed)."""
Fetching = Callable[[int, int | None], None]
"""Called with (bytes done, bytes in all); the latter is None where the server does not announce it."""

FIRST, EVERY = 0.5, 0.1
"""Seconds before a bar appears, and between two drawings."""

MEGABYTE = 10**6

INVARIABLE = ("MB", "compared")
"""What is counted and has no plural."""


def on_screen() -> bool:
    """Whether somebody watches stderr: on a terminal, or in a notebook."""
    stream = sys.stderr
    return stream is not None and (stream.isatty() or type(stream).__module__.startswith("ipykernel"))


def clock(seconds: float) -> str:
    """3725 -> 1:02:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def in_megabytes(tick: Progress) -> Fetching:
    """A fetch's progress in bytes, shown in MB."""
    return lambda done, total: tick(done // MEGABYTE, (total or 0) // MEGABYTE, 0)


class Pace:
    """Counts and their rate as text, from the first call on: a resumed run starts above zero."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        """A noun in the singular, or one of INVARIABLE."""
        self._first: int | None = None
        self._start = 0.0
        self._rate = 0.0

    def counts(self, done: int, total: int, failed: int) -> str:
        """`120/1000 images, 6.4/s, 2 skipped`, or `1/3 runs, 31 s each`; a total of 0 is an unknown one."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._start = done, now
        self._rate = (done - self._first) / max(now - self._start, 1e-9)
        counted = number_of(total or done, self._unit, self._unit if self._unit in INVARIABLE else "")
        number = f"{done}/{counted}" if total else counted
        return f"{number}, {_rate(self._rate)}" + (f", {failed} skipped" if failed else "")

    def left(self, done: int, total: int) -> str:
        """`, 2:17 left`, or nothing where that is unknown."""
        return f", {clock((total - done) / self._rate)} left" if self._rate > 0 and total else ""


def _rate(rate: float) -> str:
    """`6.4/s`, `0.35/s`, or `31 s each` of what comes less often than every ten seconds."""
    if 0 < rate < 0.1:
        return f"{1 / rate:.0f} s each"
    return f"{rate:.{2 if 0 < rate < 1 else 1}f}/s"


class Bar:
    """A line that is drawn over itself and is cleared at the end; use it as a context manager."""

    def __init__(self, what: str, unit: str = "image", shown: bool = True) -> None:
        self.what = what
        self._shown = shown
        self._pace = Pace(unit)
        self._begun = time.monotonic()
        self._drawn = 0.0
        self._width = 0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def tick(self, done: int, total: int, failed: int = 0) -> None:
        """Shows the progress: `done` of `total`, of which `failed` were skipped."""
        counts = self._pace.counts(done, total, failed)
        if total and done >= total:
            self.clear()
        else:
            self.show(f"{self.what}: {counts}{self._pace.left(done, total)}")

    def show(self, text: str) -> None:
        """Draws the line, unless it was drawn a moment ago."""
        now = time.monotonic()
        if not self._shown or now - self._begun < FIRST or now - self._drawn < EVERY:
            return
        self._drawn = now
        text = text[: shutil.get_terminal_size().columns - 1]
        self._write(f"\r{text:<{self._width}}")
        self._width = len(text)

    def clear(self) -> None:
        """Leaves an empty line, for other output or the next bar."""
        if self._width:
            self._write(f"\r{'':{self._width}}\r")
            self._width = 0

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def checked_progress(progress: Told | bool | None) -> Told | bool | None:
    """A function's `progress`, a flag as Python's own. Raises UsageError unless it is a flag or a function."""
    if progress is None or callable(progress):
        return progress
    from vggfeat.system.arguments import checked_flags  # and with it NumPy, which a command's help does without

    try:
        return checked_flags(progress=progress)["progress"]
    except UsageError:
        raise UsageError(f"progress {progress!r} is not True, False or a function") from None


def callback(progress: Progress | bool | None) -> Progress | None:
    """A function's `progress` inside of it: the function to call, if any."""
    return progress if callable(progress) else None


def counted(progress: Progress | bool | None, total: int) -> Callable[[int], None]:
    """What to call with the number of steps just done of `total`; `progress`, if a function, hears the sum, at first 0.

    The start is told because the first step may be long.
    """
    tick, done = callback(progress), 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        if tick is not None:
            tick(done, total, 0)

    step(0)
    return step


@contextlib.contextmanager
def fetching_bar(progress: Fetching | bool | None) -> Iterator[Fetching | None]:
    """What to call while something is fetched: the function given, a bar's if True and somebody watches, or None."""
    if callable(progress):
        yield progress
    elif progress and on_screen():
        with Bar("fetch", "MB") as bar:
            yield in_megabytes(bar.tick)
    else:
        yield None


def with_bar(what: str, unit: str = "image") -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Gives a function whose `progress` is True a bar, if somebody watches; so too its `fetching`, if that is None."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        fetches = "fetching" in inspect.signature(function).parameters

        @functools.wraps(function)
        def shown(*args: P.args, **kwargs: P.kwargs) -> R:
            if "progress" in kwargs:
                kwargs["progress"] = checked_progress(kwargs["progress"])  # type: ignore[arg-type]
            fetching = kwargs.get("fetching")
            if fetching is not None and not callable(fetching):
                raise UsageError(f"fetching {fetching!r} is not a function")
            if kwargs.get("progress", True) is not True or not on_screen():
                return function(*args, **kwargs)
            with Bar(what, unit) as bar, Bar("fetch", "MB") as fetched:
                kwargs["progress"] = bar.tick
                if fetches and kwargs.get("fetching") is None:
                    kwargs["fetching"] = in_megabytes(fetched.tick)
                return function(*args, **kwargs)

        return shown

    return decorate
