"""One list for several processes: which rows are whose. Processes do not communicate; `merge` joins their files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vggfeat.datasets import Dataset
from vggfeat.errors import UsageError
from vggfeat.system.text import name_bytes


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from 0 as torchrun's ranks and most job arrays are."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            last = max(self.count, 1) - 1
            raise UsageError(f"shard {self}: shards count from 0, so of {self.count} the last is {last}/{self.count}")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @staticmethod
    def parse(text: object) -> Shard:
        """`3/16`. Raises UsageError for anything else."""
        match = re.fullmatch(r"(\d+)/([1-9]\d*)", text) if isinstance(text, str) else None
        if match is None:
            raise UsageError(f"shard {text!r}: expected a number and how many there are, such as 3/16")
        return Shard(int(match[1]), int(match[2]))

    def path(self, output: Path) -> Path:
        """`feats.h5` -> `feats.shard-03-of-16.h5`."""
        return self._path(output, f"{self.index:0{len(str(self.count))}}")

    def pattern(self, output: Path) -> Path:
        """A shell pattern for all shards: `feats.h5` -> `feats.shard-*-of-16.h5`."""
        return self._path(output, "*")

    def _path(self, output: Path, number: str) -> Path:
        return output.with_name(f"{output.stem}.shard-{number}-of-{self.count}{output.suffix}")

    def rows(self, blocks: Sequence[range]) -> range:
        """This shard's rows: consecutive whole blocks, so that every row keeps its batch mates."""
        mine = blocks[len(blocks) * self.index // self.count : len(blocks) * (self.index + 1) // self.count]
        if mine:
            return range(mine[0].start, mine[-1].stop)
        at = blocks[len(blocks) * self.index // self.count].start if blocks else 0
        return range(at, at)


def is_shard_name(name: str) -> bool:
    """Whether a file is named as `Shard.path` names shards."""
    return re.search(r"\.shard-\d+-of-\d+(\.[^.]*)?$", name) is not None


def whole_path(shard: Path) -> Path:
    """`feats.shard-03-of-16.h5` -> `feats.h5`."""
    return shard.with_name(re.sub(r"\.shard-\d+-of-\d+(?=(\.[^.]*)?$)", "", shard.name))


@dataclass(frozen=True)
class Portion:
    """The rows of a list that a file holds, and a hash of the list."""

    shard: Shard
    first_row: int
    total_rows: int
    list_sha256: str
    """Hash of all ids of the list, in order."""

    def __str__(self) -> str:
        return f"shard {self.shard} of a list of {self.total_rows}"

    def attributes(self) -> dict[str, Any]:
        """The attributes that record it in a file."""
        return {
            "shard": str(self.shard),
            "first_row": self.first_row,
            "total_rows": self.total_rows,
            "list_sha256": self.list_sha256,
        }

    @staticmethod
    def of(attributes: Mapping[str, Any]) -> Portion | None:
        """A file's portion from its attributes; None for a whole file."""
        if "shard" not in attributes:
            return None
        return Portion(
            Shard.parse(str(attributes["shard"])),
            int(attributes["first_row"]),
            int(attributes["total_rows"]),
            str(attributes["list_sha256"]),
        )


def cut(dataset: Dataset, shard: Shard, blocks: Sequence[range]) -> tuple[Dataset, Portion]:
    """A shard's samples (perhaps an empty list) and which rows of the whole they are."""
    rows = shard.rows(blocks)
    samples = dataset.samples[rows.start : rows.stop]
    if any(sample.labels is None for sample in dataset.samples):
        # All shards agree on having labels: only if every sample of the whole list has one.
        samples = tuple(sample if sample.labels is None else replace(sample, labels=None) for sample in samples)
    digest = hashlib.sha256()
    for sample in dataset.samples:
        digest.update(name_bytes(sample.id) + b"\0")
    return replace(dataset, samples=samples), Portion(shard, rows.start, len(dataset.samples), digest.hexdigest())
