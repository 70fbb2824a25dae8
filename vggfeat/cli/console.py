"""What every command prints with: notes on stderr, results on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console

from vggfeat.system.text import printable


def stderr() -> Console:
    """The console for progress, tables and notes; made anew so that tests and redirections are seen."""
    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def note(text: str) -> None:
    """One line on stderr: no markup, and what a file's name holds of control characters made visible."""
    stderr().print(printable(text), markup=False)


def print_json(result: Any) -> None:
    """A result on stdout, as JSON with NaN as null; a name's bytes that are no UTF-8 are escapes such as `\\udce9`."""
    text = json.dumps(_finite(result), indent=2, ensure_ascii=False, allow_nan=False)
    print(text.encode("utf-8", "backslashreplace").decode())


def _finite(value: Any) -> Any:
    """Plain data with what JSON has no word for (NaN, infinities) as None."""
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
    sys.stdout.buffer.write(os.fsencode("".join(lines)))
    sys.stdout.buffer.flush()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if text[:1] == '"' or set(text) & {"\t", "\n", "\r"} else text
