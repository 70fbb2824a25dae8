"""Joining the shards of several processes in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggfeat.store.naming import Naming
from vggfeat.store.reader import shape_of
from vggfeat.store.rows import RowFile
from vggfeat.store.schema import (
    FAILED,
    PENDING,
    TEXT_ROWS,
    Layout,
    attributes_of,
    first_difference,
    plain_attributes,
    read_text,
    reading,
    write_all,
)
from vggfeat.store.shards import Portion
from vggfeat.system.files import replacing
from vggfeat.system.hdf5 import written

COPIED = 256
"""Rows copied at once: 12 MB of the paper's longest descriptors."""


@dataclass(frozen=True)
class Head:
    """A descriptor file's settings and counts, without its rows."""

    path: Path
    portion: Portion | None
    rows: int
    pending: int
    failed: int
    class_names: tuple[str, ...]
    labels: tuple[int, np.dtype[Any]] | None
    """(number of dimensions, type)."""
    attributes: dict[str, Any]

    @property
    def naming(self) -> Naming:
        """How the user named the images and the weights."""
        return Naming.of(self.attributes)

    @property
    def versions(self) -> dict[str, str]:
        """The versions of vggfeat, Python and libraries that wrote it."""
        names = [name for name in self.attributes if name.endswith("_version") and name != "format_version"]
        return {name: self.attributes[name] for name in names}


def read_head(path: Path) -> Head:
    """Reads a file's head. Raises StoreError unless it is a descriptor file."""
    with reading(path) as file:
        status = file["status"][:]
        return Head(
            path,
            Portion.of(file.attrs),
            len(status),
            int((status == PENDING).sum()),
            int((status == FAILED).sum()),
            tuple(read_text(file["class_names"])),
            (file["labels"].ndim, file["labels"].dtype) if "labels" in file else None,
            plain_attributes(file) | shape_of(file),
        )


def difference(head: Head, first: Head) -> str:
    """How another extraction than that of `first` made a file, in words; "" for parts of one."""
    for name in ("settings", "dataset"):
        found = first_difference(head.attributes[name], first.attributes[name], "" if name == "settings" else name)
        if found:
            return found
    return ""


def merge_files(heads: Sequence[Head], output: Path, progress: Callable[[int, int], None]) -> None:
    """Copies shards, checked to fit and in the order of their rows, into one file, whole or not at all.

    The caller has the OutputLock of `output`. `progress` is called with (rows copied, rows).
    """
    first = next((head for head in heads if head.rows), heads[0])
    settings = first.attributes["settings"]
    layer_dims = first.attributes["layer_dims"]
    layout = Layout(
        rows=sum(head.rows for head in heads),
        dim=first.attributes["dim"],
        kept=sum(layer_dims) * len(settings["scales"]) if first.attributes["keep_scales"] else 0,
        store=settings["store"],
        class_names=first.class_names,
        labels=first.labels,
    )
    labelled = first.labels is not None
    attributes = attributes_of(
        settings, first.attributes["dataset"], layer_dims, labelled, first.versions, first.naming
    )
    with replacing(output) as temporary:
        with written(temporary) as file:
            layout.create(file, attributes)
            for name in ("ids", "subset", "labels") if labelled else ("ids", "subset"):
                write_all(file[name], _pieces(heads, name, TEXT_ROWS))
        with RowFile(temporary) as rows:
            done = 0
            for head in heads:
                done = _copy_rows(head, rows, done, lambda copied: progress(copied, layout.rows))


def _pieces(heads: Sequence[Head], name: str, size: int) -> Iterator[NDArray[Any]]:
    """A column of all shards in pieces of `size` rows across their borders: the bytes that DescriptorWriter writes."""
    waiting: list[NDArray[Any]] = []
    room = size
    for head in heads:
        start = 0
        while start < head.rows:
            with reading(head.path) as shard:
                waiting.append(shard[name][start : min(start + room, head.rows)])
            start += len(waiting[-1])
            room -= len(waiting[-1])
            if room == 0:
                yield np.concatenate(waiting)
                waiting, room = [], size
    if waiting:
        yield np.concatenate(waiting)


def _copy_rows(head: Head, rows: RowFile, at: int, progress: Callable[[int], None]) -> int:
    """Copies a shard's rows to rows `at` and following; returns the next free row."""
    names = [name for name in ("descriptors", "scales", "errors", "status") if name in rows]
    with closing(_blocks(head, names)) as blocks:
        for start, name, values in blocks:
            if name != "errors" or (values != b"").any():  # the file stays sparse
                rows.write(name, at + start, values)
            if name == names[-1]:
                progress(min(at + start + COPIED, at + head.rows))
    return at + head.rows


def _blocks(head: Head, names: Sequence[str]) -> Generator[tuple[int, str, NDArray[Any]], None, None]:
    """(first row, name, values) of a shard's data sets, block by block.

    A generator, so that `reading` never sees an error of its user's: a full disk is no damage of the shard.
    """
    with reading(head.path) as shard:
        for start in range(0, head.rows, COPIED):
            for name in names:
                yield start, name, shard[name][start : start + COPIED]
