"""Listings on stdout that are a command's result: the nets, and what a file is."""

from __future__ import annotations

import itertools
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from vggfeat.cli.advice import in_flags, merging
from vggfeat.cli.columns import columns, show
from vggfeat.nets.catalog import ALIASES
from vggfeat.store.shards import Shard
from vggfeat.system.numbers import number_of
from vggfeat.system.text import printable

if TYPE_CHECKING:
    from vggfeat.stages.info import ShardInfo, ShardsInfo
    from vggfeat.stages.nets import NetRow

KNOWN_AS = {net: alias.upper().replace("VGG", "VGG-") for alias, net in ALIASES.items()}
"""Names under which other libraries have the paper's nets."""


def print_nets(rows: Sequence[NetRow]) -> None:
    """Prints Tables 1 and 2, then the published weights. 80 columns hold both."""
    nets = columns("net", "known as", ">layers", ">params", "convolutions")
    for row in rows:
        parameters = f"{row['parameters'] / 1e6:.0f}M"
        known = KNOWN_AS.get(row["net"], "")
        nets.add_row(row["net"], known, str(row["weight_layers"]), parameters, _blocks(row["layers"]))
    weights = columns("weights", "net", ">top-1 error %", ">top-5 error %", "licence")
    for row in rows:
        for one in row["weights"]:
            errors = ("-" if one[key] is None else f"{one[key]:.1f}" for key in ("top1_error", "top5_error"))
            weights.add_row(one["source"], row["net"], *errors, one["license"].partition(" (")[0])
    out = Console(highlight=False)
    show(out, nets)
    out.print("2x64: two 3x3 convolutions with 64 channels; +1x1: and a 1x1 convolution.\n")
    show(out, weights)
    out.print("Errors on ILSVRC-2012 val, as published.")


def _blocks(layers: Sequence[str]) -> str:
    """`conv3-64 conv3-64 M conv3-256 conv1-256 M` -> `2x64 256+1x1`: one word per block."""
    blocks = [list(block) for pooling, block in itertools.groupby(layers, lambda layer: layer == "M") if not pooling]
    runs = [[_run(name, len(list(same))) for name, same in itertools.groupby(block)] for block in blocks]
    return " ".join(map("+".join, runs))


def _run(layer: str, count: int) -> str:
    """Equal layers in a row: `2x64`, `5x5:64`, `1x1` (which keeps the channels), `LRN`."""
    kernel, dash, channels = layer.removeprefix("conv").partition("-")
    if not dash:
        return layer
    named = {"3": channels, "1": "1x1"}.get(kernel, f"{kernel}x{kernel}:{channels}")
    return f"{count}x{named}" if count > 1 else named


LISTED = 8
"""Up to this many entries of a list are shown."""


def print_info(result: Mapping[str, Any]) -> None:
    """Prints a file's description: aligned names and values, then the commands that make it, and notes on them."""
    shown = dict(result)
    commands, notes = shown.pop("command", ""), shown.pop("notes", [])
    failed = shown.pop("failed_images", {})
    rows = list(_rows(shown))
    width = max(len(name) for name, _ in rows)
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for name, value in rows:
        print(_wrapped(f"{name:<{width}}  ", printable(value), columns))
    for number, (id, reason) in enumerate(failed.items()):
        if number == LISTED:
            print(f"  {len(failed) - LISTED} more (--failed has all)")
            break
        print(printable(f"  failed: {id}: {reason}"))
    if commands:
        print("\nto make it again:")
        for line in commands.split(" && "):
            print(f"  {printable(line)}")
        for note in notes:
            print(printable(in_flags(note)))


COMMANDS = 20
"""Up to this many commands are shown."""


def print_shards(result: ShardsInfo) -> None:
    """Prints a row for each shard, the sums, and what to run next."""
    table = columns("shard", "state", ">rows", ">done", ">failed", ">to do", "writer or reason")
    for one in result.shards:
        rows = ("-" if count is None else str(count) for count in (one.rows, one.done, one.failed, one.pending))
        table.add_row(one.shard, one.state, *rows, Text(printable(one.error or one.writer or "")))
    out = Console(highlight=False)
    show(out, table)
    by_count: dict[int, list[ShardInfo]] = {}
    for one in result.shards:
        by_count.setdefault(Shard.parse(one.shard).count, []).append(one)
    for place, (count, parts) in enumerate(by_count.items()):
        if place:
            print()
        of = f", of {number_of(count, 'shard')}" if len(by_count) > 1 else ""
        _print_what_follows(replace(result, shards=tuple(parts)), of)


def _print_what_follows(result: ShardsInfo, of: str) -> None:
    """The totals of an extraction in one number of shards, and what to run next; of: names that number in words."""
    counts, total = result.counts, result.total_rows
    shards = f"{counts['shards_done']} of {number_of(len(result.shards), 'shard')} done"
    of_rows = "? rows" if total is None else number_of(total, "row")
    print(f"{shards}; {counts['done']} of {of_rows} done, {counts['failed']} failed")
    open_ = [one for one in result.shards if one.state not in ("done", "running")]
    if open_:
        print(f"\nto do{of} (--array={_ranges([Shard.parse(one.shard).index for one in open_])}):")
        for one in open_[:COMMANDS]:
            print(f"  {printable(one.command or 'no shard tells how it was made')}")
        if len(open_) > COMMANDS:
            print(f"  {len(open_) - COMMANDS} more (--json has all)")
    elif counts["shards_done"] == len(result.shards):
        pattern = str(Shard.parse(result.shards[0].shard).pattern(Path(result.output)))
        print(f"\nnext: {printable(merging(pattern, result.output))}")


def _ranges(numbers: Sequence[int]) -> str:
    """`3,7-9`, as SLURM takes the indices of an array."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _wrapped(name: str, value: str, columns: int) -> str:
    """One row; on a terminal long values continue below their column."""
    if columns <= len(name) + 20:
        return name + value
    return textwrap.fill(value, columns, initial_indent=name, subsequent_indent=" " * len(name)) or name


def _rows(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """(name, value) pairs in words; nested ones follow under a name such as `input 1, net 1`."""
    for name, value in values.items():
        label = above + name.replace("_", " ")
        if name == "training" and isinstance(value, Mapping):  # the recipe is in the command
            value = {key: entry for key, entry in value.items() if key != "recipe"}
        if name == "top5" and value is None:  # says nothing among few classes
            continue
        if name == "preprocessing":
            yield label, "; ".join(map(_inline, value if isinstance(value, list) else [value])) or "-"
        elif isinstance(value, Mapping):
            yield from _rows(value, f"{label}: ")
        elif _nested(value):
            for number, entry in enumerate(value, start=1):
                yield from _rows(entry, f"{label.removesuffix('s')} {number}: ")
        else:
            yield label, _words(name, value)


def _inline(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_words(name, value).replace(',', '')}" for name, value in values.items())


def _nested(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(entry, Mapping) for entry in value)


def _words(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in ("mean", "std", "chance") and isinstance(value, float):
        return f"{100 * value:.1f} %"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        words = ", ".join(_words("", entry) for entry in value[:LISTED])
        return f"{len(value)}: {words}, .. (--json has all)" if len(value) > LISTED else words or "-"
    return "-" if value is None else str(value)
