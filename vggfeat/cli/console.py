"""Printing for all commands: notes on stderr, results on stdout."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich.console import Console

from vggfeat.system.text import name_bytes, printable

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Control characters, which a terminal acts on, and Unicode's line separators, which may end a line."""

_LEFT_BY_JSON = re.compile(r"[\x7f-\x9f\u2028\u2029]")
"""Those that `json.dumps` leaves as they are."""


def stderr() -> Console:
    """A console on the current stderr, for progress, tables and notes."""
    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def redrawn(console: Console) -> bool:
    """Whether a console can show what is drawn over itself: a terminal, not a log whose colours are forced."""
    forced = any(os.environ.get(name) for name in ("FORCE_COLOR", "TTY_COMPATIBLE"))  # rich takes them for a terminal
    return console.is_terminal and (console.file.isatty() or not forced)


def note(text: str) -> None:
    """What `say` prints; nothing with --quiet."""
    context = click.get_current_context(silent=True)
    if context is None or not context.params.get("quiet"):
        say(text)


def say(text: str) -> None:
    """Prints one line on stderr, without markup and with control characters made visible."""
    stderr().print(printable(text), markup=False)


def print_json(result: Any) -> None:
    """Prints a result as JSON on stdout: NaN becomes null, bytes that are not UTF-8 become escapes like `\\udce9`."""
    text = _escaped(json.dumps(_finite(result), indent=2, ensure_ascii=False, allow_nan=False))
    print(text.encode("utf-8", "backslashreplace").decode())


def _finite(value: Any) -> Any:
    """Plain data with NaN and infinities, which JSON lacks, as None."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def print_rows(rows: Iterable[Sequence[Any]]) -> None:
    """Tab-separated lines on stdout, at once; the bytes of names that are no UTF-8 stay as they are.

    A text that would break the form (with a tab, a line break or another control character, or beginning with a quote)
    is a JSON string.
    """
    lines = ("\t".join(map(_cell, row)) + "\n" for row in rows)
    sys.stdout.flush()
    sys.stdout.buffer.write(name_bytes("".join(lines)))
    sys.stdout.buffer.flush()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    if text[:1] == '"' or _CONTROL.search(text):
        return _escaped(json.dumps(text, ensure_ascii=False))
    return text


def _escaped(text: str) -> str:
    """JSON without raw control characters, except for its own line ends."""
    return _LEFT_BY_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
