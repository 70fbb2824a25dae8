"""The library's errors in the words of a shell: parameters as flags, with the advice that only a shell needs."""

from __future__ import annotations

import re
import shlex

from vggfeat.errors import VggfeatError

FLAGS = {
    "output": "-o",
    "nul": "-0",
    "set": "--set",
}
"""Flags of parameters whose names differ; every other parameter `a_b` is `--a-b`."""

ADVICE = {
    "evaluate": "'vggfeat evaluate {file}' scores them",
    "extract": "'vggfeat extract --dataset {dataset}' (its images: 'vggfeat download --dataset {dataset}')",
    "merge": "'vggfeat merge {shards} -o {output}'",
    "model": "'vggfeat svm -o {path}' makes a model",
    "download": "fetch it with 'vggfeat download --dataset {dataset}'",
}
"""What to type after an error with this `advice`; its placeholders are the error's facts."""

_PARAMETER = re.compile(r"`([a-z][a-z_]*(?:\.[a-z_]+)?)(?:=([^`]*))?`", re.IGNORECASE)


def in_flags(message: str) -> str:
    """A message of the library with each `` `parameter` `` or `` `parameter=value` `` as it is typed in a shell.

    A dotted name is a key of a recipe, which `--set` changes.
    """
    return _PARAMETER.sub(lambda match: _typed(match[1], match[2]), message)


def told(error: VggfeatError) -> str:
    """The one line that a shell prints of an error: its message in flags, then the advice."""
    message = in_flags(str(error))
    if not error.advice:
        return message
    facts = {name: _word(str(value), pattern=name == "shards") for name, value in error.facts.items()}
    return f"{message}: {ADVICE[error.advice].format(**facts)}"


def _word(text: str, pattern: bool) -> str:
    """A fact as a word of a shell; the stars of a pattern stay outside of the quotes."""
    if not pattern:
        return shlex.quote(text)
    return "*".join(shlex.quote(part) if part else "" for part in text.split("*"))


def _typed(name: str, value: str | None) -> str:
    if "." in name:
        return f"--set {name}" if value is None else f"--set {name}={value}"
    flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
    if value is None or value == "True":
        return flag
    if value == "False":
        return f"--no-{flag.removeprefix('--')}"
    return f"{flag} {value}"
