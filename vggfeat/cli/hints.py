"""The command to type after each command, as a note on stderr."""

from __future__ import annotations

import shlex
from collections.abc import Collection

import click

from vggfeat.cli.advice import word
from vggfeat.cli.console import note
from vggfeat.cli.options import GIVEN

NEXT = {
    "nets": "vggfeat download --net D",
    "download weights": "vggfeat extract --net {net} --scales 256 PICTURES",
    "download dataset": "vggfeat extract --dataset {dataset} --net D",
    "train": "vggfeat predict {path} PICTURES",
    "train ilsvrc2012": "vggfeat evaluate --weights {path} {data}",
    "train localise": "vggfeat localise --protocol 1 --weights {path} {data}",
    "extract": "vggfeat export {path} -o FILE.npy",
    "extract shard": "vggfeat info --shards {path}",
    "extract failed": "vggfeat info --failed {path}",
    "extract labelled": "vggfeat svm {path} -o model.h5",
    "svm": "vggfeat svm {files} -o model.h5",
    "svm model": "vggfeat predict {path} PICTURES",
    "svm probabilities": "vggfeat predict {path} PICTURES --probabilities",
    "evaluate": "vggfeat evaluate --report report {typed}",
    "evaluate report": "vggfeat evaluate -o FILE.h5 {typed}",
    "evaluate files": "vggfeat evaluate {path} OTHER.h5",
    "merge": "vggfeat info {path}",
    "predict": "vggfeat predict {path} PICTURES --top 5 --header",
    "localise protocol 1": "vggfeat localise --classifier NET.pt {typed}",
    "localise": "vggfeat localise --report report {typed}",
    "localise report": "vggfeat localise --draw pictures {typed}",
    "export": "vggfeat info {path}",
    "similar": "vggfeat similar --report similar {typed}",
    "similar pictures report": "vggfeat similar {path} --report duplicates",
    "similar report": "vggfeat similar {path} PICTURES",
    "bench train": "vggfeat train --net {net} --dataset folder --data PICTURES",
    "bench svm": "vggfeat svm FILE.h5 -o model.h5",
    "bench": "vggfeat extract --net {net} --scales {scales} PICTURES",
}
"""What was done -> what follows; capitals stand for what only the user knows."""


def hint(done: str, quiet: bool, **facts: str | list[str]) -> None:
    """Prints the next command. `facts` fill the template's places: a text, or a list of words; `shards` is a pattern.

    Nothing is printed with --quiet.
    """
    if not quiet:
        words = {
            name: shlex.join(value) if isinstance(value, list) else word(name, value) for name, value in facts.items()
        }
        note(f"next: {NEXT[done].format(**words)}".rstrip())


def typed(ctx: click.Context, without: Collection[str] = ()) -> list[str]:
    """The options and arguments that the user gave this command, in words that give them again.

    without: names of parameters that a recipe may hold, but that would be refused if they were typed.
    """
    options: list[str] = []
    arguments: list[str] = []
    for parameter in ctx.command.params:
        value = ctx.params.get(parameter.name or "")
        given = ctx.get_parameter_source(parameter.name or "") in GIVEN and parameter.name not in without
        if value is None or not given:
            continue
        values = [str(one) for one in (value if isinstance(value, tuple) else (value,))]
        if isinstance(parameter, click.Option) and not parameter.multiple:  # numbers, which one word gives
            values = [",".join(values)]
        if isinstance(parameter, click.Argument):
            arguments += values
        elif isinstance(value, bool):
            options += [*parameter.opts[:1]] if value else [*parameter.secondary_opts[:1]]
        else:
            options += [word for one in values for word in (parameter.opts[0], one)]
    if any(word.startswith("-") for word in arguments):
        arguments.insert(0, "--")
    return [*options, *arguments]
