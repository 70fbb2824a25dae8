"""How far the shards of an extraction are, and which of them a process is writing."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vggfeat.errors import StoreError
from vggfeat.store.locking import holder
from vggfeat.store.merging import Head, read_head
from vggfeat.store.shards import Shard, whole_path

State = Literal["done", "running", "unfinished", "missing", "unreadable"]


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
    """Why the file is unreadable."""

    @property
    def state(self) -> State:
        """A shard is unfinished if it has rows to do and no process is writing it."""
        if self.writer is not None:
            return "running"
        if self.head is None:
            return "unreadable" if self.error else "missing"
        return "unfinished" if self.head.pending else "done"

    @property
    def done(self) -> int:
        """Rows with a descriptor."""
        return 0 if self.head is None else self.head.rows - self.head.pending - self.head.failed


def shard_states(output: Path) -> list[ShardState]:
    """The state of all shards of an output, `feats.h5` or one of its shards, in their order.

    Files that are being written may be read. Raises StoreError where there are no shards.
    """
    whole = whole_path(output)
    counts = sorted(set(_counts(whole)))
    if not counts:
        pattern = whole.with_name(f"{whole.stem}.shard-*-of-*{whole.suffix}")
        raise StoreError(f"no shards of {whole} here ({pattern})")
    return [_state(Shard(index, count), whole) for count in counts for index in range(count)]


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
