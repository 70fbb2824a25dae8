"""SIGINT and SIGTERM as a request to end after the current update."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class StopRequest:
    """Whether a signal has asked the run to end."""

    asked = False


@contextlib.contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """The first signal sets the request's flag; a second one acts as usual. Only the main thread can receive them."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    usual: dict[signal.Signals, Any] = {}

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.asked = True
        signal.signal(number, usual[signal.Signals(number)])

    for watched in (signal.SIGINT, signal.SIGTERM):
        usual[watched] = signal.signal(watched, ask)
    try:
        yield stop
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
