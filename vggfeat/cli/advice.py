"""Rewords the library's errors for a shell: parameters become flags, and advice for the shell is added."""

from __future__ import annotations

import re
import shlex

from vggfeat.errors import VggfeatError
from vggfeat.system.files import exists
from vggfeat.system.text import as_argument

FLAGS = {
    "output": "-o",
    "nul": "-0",
    "number": "--num-splits",
    "set": "--set",
}
"""Flags of parameters with other names; any other parameter `a_b` is `--a-b`."""

RECIPE_FLAGS = {
    "net": "net",
    "width": "width",
    "seed": "seed",
    "precision": "precision",
    "data.dataset": "dataset",
    "augment.S": "S",
    "augment.crops": "crops",
    "sgd.batch_size": "batch_size",
    "sgd.learning_rate": "learning_rate",
    "sgd.trainable": "trainable",
    "schedule.epochs": "epochs",
    "init.scheme": "init",
    "init.std": "init_std",
    "init.checkpoint": "init_from",
    "init.preprocessing": "preprocessing",
    "task": "task",
    "localise.head": "head",
}
"""Recipe keys with a parameter of `vggfeat train`; every other key goes by `--set`."""

ADVICE = {
    "posteriors": "'vggfeat evaluate -o FILE' keeps those",
    "train boxes": "'vggfeat train --task localise' makes a net that does",
    "evaluate": "'vggfeat evaluate {file}' scores them",
    "extract": "'vggfeat extract --dataset {dataset}' (its images: 'vggfeat download --dataset {dataset}')",
    "export": "'vggfeat export FILE.h5 -o {path}' then writes the other",
    "extract_own": "'vggfeat extract --dataset {dataset} --data DIR'",
    "merge": "'vggfeat merge {shards} -o {output}'",
    "model": "'vggfeat svm -o {path}' makes a model",
    "download": "fetch it with 'vggfeat download --dataset {dataset}'",
    "describe": "'vggfeat extract {folder}' describes the pictures in it",
    "make": "make it with {command}",
    "make_all": "make the first with {command}; 'vggfeat info --shards {output}' has a command for each",
    "make_again": "make it again with {command}",
    "finish": "finish it with {command} --resume",
}
"""`advice` of an error -> what to type next. Placeholders are the error's facts; `command` is a whole command."""

_PARAMETER = re.compile(r"`([a-z][a-z_]*(?:\.[a-z_]+)?)(?:=([^`]*))?`", re.IGNORECASE)


def in_flags(message: str) -> str:
    """A message with each `` `parameter` `` or `` `parameter=value` `` as typed in a shell.

    A dotted name is a recipe's key, set by a flag of `train` or by `--set`.
    """
    return _PARAMETER.sub(lambda match: _typed(match[1], match[2]), message)


def told(error: VggfeatError) -> str:
    """The line that a shell shows for an error: its message with flags, then the advice."""
    message = in_flags(str(error))
    if not error.advice:
        return message
    facts = {name: word(name, str(value)) for name, value in error.facts.items()}
    return f"{message}: {ADVICE[error.advice].format(**facts)}"


def word(name: str, text: str) -> str:
    """A fact as words of a shell; a command is one already, and `shards` is a pattern."""
    if name == "command":
        return text
    return shell_pattern(text) if name == "shards" else shlex.quote(as_argument(text))


def shell_pattern(text: str) -> str:
    """A pattern as a word of a shell: its stars stay outside of the quotes."""
    return "*".join(shlex.quote(part) if part else "" for part in as_argument(text).split("*"))


def merging(shards: str, output: str) -> str:
    """The `vggfeat merge` of the shards that a pattern names, also where they were merged before."""
    again = " --overwrite" if exists(output) else ""
    return f"vggfeat merge {shell_pattern(shards)} -o {shlex.quote(output)}{again}"


def _typed(name: str, value: str | None) -> str:
    name = RECIPE_FLAGS.get(name, name)
    if "." in name:
        return f"--set {name}" if value is None else f"--set {name}={value}"
    flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
    if value is None or value == "True":
        return flag
    if value == "False":
        return f"--no-{flag.removeprefix('--')}"
    return f"{flag} {value}"
