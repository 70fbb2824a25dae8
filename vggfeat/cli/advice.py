"""Rewords the library's errors for a shell: parameters become flags, and advice for the shell is added."""

from __future__ import annotations

import re
import shlex
from typing import Any

from vggfeat.errors import VggfeatError

FLAGS = {
    "output": "-o",
    "nul": "-0",
    "set": "--set",
}
"""Flags of parameters with other names; any other parameter `a_b` is `--a-b`."""

ADVICE = {
    "posteriors": "'vggfeat evaluate -o FILE' keeps those",
    "train boxes": "'vggfeat train --task localise' makes a net that does",
    "download": "fetch it with 'vggfeat download --dataset {dataset}'",
}
"""`advice` of an error -> what to type next; the placeholders are the error's facts."""

_PARAMETER = re.compile(r"`([a-z][a-z_]*(?:\.[a-z_]+)?)(?:=([^`]*))?`", re.IGNORECASE)


def in_flags(message: str) -> str:
    """A message with each `` `parameter` `` or `` `parameter=value` `` as typed in a shell.

    A dotted name is a recipe's key, set by `--set`.
    """
    return _PARAMETER.sub(lambda match: _typed(match[1], match[2]), message)


def told(error: VggfeatError) -> str:
    """The line that a shell shows for an error: its message with flags, then the advice."""
    message = in_flags(str(error))
    if not error.advice:
        return message
    facts: dict[str, Any] = {name: shlex.quote(str(value)) for name, value in error.facts.items()}
    return f"{message}: {ADVICE[error.advice].format(**facts)}"


def _typed(name: str, value: str | None) -> str:
    if "." in name:
        return f"--set {name}" if value is None else f"--set {name}={value}"
    flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
    if value is None or value == "True":
        return flag
    if value == "False":
        return f"--no-{flag.removeprefix('--')}"
    return f"{flag} {value}"
