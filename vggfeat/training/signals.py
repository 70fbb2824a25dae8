"""SIGINT, SIGTERM and a closed terminal as a request to end after the current update."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
"""A closed terminal sends SIGHUP; Windows has SIGBREAK in its place, for Ctrl-Break too."""


class StopRequest:
    """Whether a signal has asked the run to end."""

    asked = False


@contextlib.contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """The first signal sets the request's flag; a second one, but SIGHUP, acts as usual.

    A SIGHUP that is ignored stays so: that is what nohup is for. Only the main thread can receive signals.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    usual: dict[signal.Signals, Any] = {}

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.asked = True
        if number != getattr(signal, "SIGHUP", None):  # a closed terminal sends one by the shell and one by the system
            signal.signal(number, usual[signal.Signals(number)])

    for watched in _watched():
        usual[watched] = signal.signal(watched, ask)
    try:
        yield stop
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def _watched() -> Iterator[signal.Signals]:
    """The signals of this system that end a run."""
    for name in NAMES:
        number = getattr(signal, name, None)
        if number is not None and (name in NAMES[:2] or signal.getsignal(number) not in (signal.SIG_IGN, None)):
            yield number
