"""How far the shards of an extraction are, and which of them a process is writing."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vggfeat.errors import StoreError
from vggfeat.store.locking import holder
from vggfeat.store.merging import Head, difference, read_head
from vggfeat.store.shards import Shard, whole_path

State = Literal["done", "running", "unfinished", "missing", "unreadable", "different"]


@dataclass(frozen=True)
class ShardState:
    """One shard's file."""

    shard: Shard
    path: Path
    head: Head | None
    """None where the file is missing or unreadable."""
    writer: str | None
    """The process that has the output's lock."""
    error: str = ""
    """Why the file is unreadable, or how it differs from the others."""

    @property
    def state(self) -> State:
        """A shard is unfinished if it has rows to do and no process is writing it, different if most are of another
        extraction."""
        if self.writer is not None:
            return "running"
        if self.head is not None and self.error:
            return "different"
        if self.head is None:
            return "unreadable" if self.error else "missing"
        return "unfinished" if self.head.pending else "done"

    @property
    def done(self) -> int:
        """Rows with a descriptor that counts."""
        return 0 if self.head is None or self.error else self.head.rows - self.head.pending - self.head.failed


def shard_states(output: Path) -> list[ShardState]:
    """The state of all shards of an output, `feats.h5` or one of its shards, in their order.

    Files that are being written may be read. Raises StoreError where there are no shards.
    """
    whole = whole_path(output)
    counts = sorted(set(_counts(whole)))
    if not counts:
        pattern = whole.with_name(f"{whole.stem}.shard-*-of-*{whole.suffix}")
        raise StoreError(f"no shards of {whole} here ({pattern})")
    by_count = ([_state(Shard(index, count), whole) for index in range(count)] for count in counts)
    return [one for states in by_count for one in _compared(states)]


def _compared(states: list[ShardState]) -> list[ShardState]:
    """The shards of one count, with the difference of those that belong to another extraction than most."""
    known = [one.head for one in states if one.head is not None and one.head.portion is not None]
    if not known:
        return states
    kinds = [_kind(head) for head in known]
    usual = known[kinds.index(max(kinds, key=kinds.count))]
    return [
        one
        if one.head is None or one.head.portion is None or _kind(one.head) == _kind(usual)
        else replace(one, error=_difference(one.head, usual))
        for one in states
    ]


def _difference(head: Head, usual: Head) -> str:
    same_list = head.portion and usual.portion and head.portion.list_sha256 == usual.portion.list_sha256
    return difference(head, usual) or ("other classes" if same_list else "made from another list")


def _kind(head: Head) -> str:
    """What the shards of one extraction have in common."""
    portion = head.portion
    assert portion is not None
    attributes = head.attributes
    return json.dumps([attributes["settings"], attributes["dataset"], portion.list_sha256, head.class_names])


def _counts(whole: Path) -> Iterator[int]:
    """The number of shards that each file's name says; a shard that has begun may have a lock alone."""
    stem, suffix = glob.escape(whole.stem), glob.escape(whole.suffix)
    for path in (*whole.parent.glob(f"{stem}.shard-*-of-*{suffix}"), *whole.parent.glob(f".{stem}.shard-*-of-*.lock")):
        name = path.name.removeprefix(f"{whole.stem}.").removeprefix(f".{whole.stem}.").removesuffix(".lock")
        match = re.fullmatch(rf"shard-(\d+)-of-([1-9]\d*){re.escape(whole.suffix)}", name)
        if match and int(match[1]) < int(match[2]):
            yield int(match[2])


def _state(shard: Shard, whole: Path) -> ShardState:
    path = shard.path(whole)
    writer = holder(path)
    try:
        return ShardState(shard, path, read_head(path) if path.exists() else None, writer)
    except StoreError as error:
        return ShardState(shard, path, None, writer, str(error))
