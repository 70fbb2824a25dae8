"""Printing for all commands: notes on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console

from vggfeat.system.text import name_bytes, printable


def stderr() -> Console:
    """A console on the current stderr, for progress, tables and notes."""
    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def note(text: str) -> None:
    """Prints one line on stderr, without markup and with control characters made visible."""
    stderr().print(printable(text), markup=False)


def print_json(result: Any) -> None:
    """Prints a result as JSON on stdout: NaN becomes null, bytes that are not UTF-8 become escapes like `\\udce9`."""
    text = json.dumps(_finite(result), indent=2, ensure_ascii=False, allow_nan=False)
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

    A text that would break the form (with a tab or a line break, or beginning with a quote) is a JSON string.
    """
    lines = ("\t".join(map(_cell, row)) + "\n" for row in rows)
    sys.stdout.flush()
    sys.stdout.buffer.write(name_bytes("".join(lines)))
    sys.stdout.buffer.flush()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if text[:1] == '"' or set(text) & {"\t", "\n", "\r"} else text
