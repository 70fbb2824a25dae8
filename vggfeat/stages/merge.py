"""Shards to one descriptor file, in the order of their list."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vggfeat.errors import StoreError, UsageError
from vggfeat.page.commands import shard_command
from vggfeat.store import File, files_in, place_of
from vggfeat.store.locking import OutputLock
from vggfeat.store.merging import Head, difference, merge_files, read_head
from vggfeat.store.schema import is_descriptor_file
from vggfeat.store.shards import Portion, Shard, whole_path
from vggfeat.system.arguments import with_checked_arguments
from vggfeat.system.bars import Progress, callback, with_bar
from vggfeat.system.files import check_replaceable, exists, same_file
from vggfeat.system.numbers import number_of

log = logging.getLogger(__name__)


@with_checked_arguments
@with_bar("merge", "row")
def merge(
    shards: File | Sequence[File],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Progress | bool | None = True,
) -> Path:
    """Joins the shards of one extraction into one file and returns its path.

    The values are the shards', bit for bit. The memory needed does not grow with the files; the output appears whole or
    not at all, and the shards stay.

    Args:
        shards: files that `extract` wrote with `shard`, all of them, in any order: their paths, or what
            `read_descriptors` gave.
        output: the file to write. overwrite: replace it where it exists.
        progress: True, a bar on terminals and in notebooks; False, none; or a function, called with (rows copied, rows,
            0).

    Raises StoreError for shards that are missing, unfinished, given twice or of another extraction, with the command
    that mends it among its facts; UsageError without shards.
    """
    paths = [place_of(one) for one in files_in(shards)]
    if not paths:
        raise UsageError("no shards: name the files that extract wrote with `shard`")
    target = Path(output)
    if any(same_file(path, target) for path in paths):
        raise UsageError(f"{target} is one of the shards: name another `output`")
    with OutputLock(target):
        if target.exists() and not overwrite:
            raise StoreError(f"{target} exists: `overwrite` replaces it")
        check_replaceable(target, is_descriptor_file, "a descriptor file")
        heads = _in_order([read_head(path) for path in paths])
        tick = callback(progress) or (lambda done, total, failed: None)
        merge_files(heads, target, lambda done, total: tick(done, total, 0))
    _warn_of_versions(heads)
    return target


def _in_order(heads: Sequence[Head]) -> list[Head]:
    """The shards in the order of their rows, checked to be all finished parts of one extraction, each given once."""
    portions = [_portion(head) for head in heads]
    first, list_of = heads[0], portions[0]
    by_index: dict[int, Head] = {}
    for head, portion in zip(heads, portions, strict=True):
        _check_same_extraction(first, head)
        if portion.shard.count != list_of.shard.count:
            raise StoreError(f"{head.path} is {portion}, {first.path} is {list_of}: they do not fit together")
        if (portion.list_sha256, portion.total_rows) != (list_of.list_sha256, list_of.total_rows):
            raise StoreError(f"{head.path} was made from another list than {first.path}: {portion}, {list_of}")
        other = by_index.setdefault(portion.shard.index, head)
        if other is not head:
            raise StoreError(f"{other.path} and {head.path} are both shard {portion.shard}: name one")
    _check_same_kind_of_labels([head for head in heads if head.rows])
    _check_complete(by_index, list_of.shard.count, first)
    ordered = [by_index[index] for index in sorted(by_index)]
    row = 0
    for head in ordered:
        if _portion(head).first_row != row:
            raise StoreError(f"{head.path} begins at row {_portion(head).first_row}, expected {row}: make it again")
        row += head.rows
    if row != list_of.total_rows:
        raise StoreError(f"{ordered[-1].path} ends at row {row} of {list_of.total_rows}: make it again")
    return ordered


def _portion(head: Head) -> Portion:
    if head.portion is None:
        raise StoreError(f"{head.path} is not a shard: it has the whole of its list")
    return head.portion


def _check_same_extraction(first: Head, head: Head) -> None:
    if otherwise := difference(head, first):
        raise StoreError(
            f"{head.path} was made otherwise than {first.path} ({otherwise})",
            advice="make_again",
            command=_command(first, _portion(head).shard),
        )
    if head.class_names != first.class_names:
        raise StoreError(f"{head.path} has other classes than {first.path}: {len(head.class_names)} there")


def _check_same_kind_of_labels(heads: Sequence[Head]) -> None:
    """A list that got or lost its labels between two shards; shards without rows have none."""
    kinds = [head.labels[0] if head.labels else 0 for head in heads]
    for head, kind in zip(heads, kinds, strict=True):
        if kind != kinds[0]:
            words = ("no labels", "one class an image", "a label for each class")
            raise StoreError(
                f"{head.path} was made otherwise than {heads[0].path} ({words[kind]} there, {words[kinds[0]]} here)",
                advice="make_again",
                command=_command(heads[0], _portion(head).shard),
            )


def _check_complete(by_index: dict[int, Head], count: int, first: Head) -> None:
    missing = [Shard(index, count) for index in range(count) if index not in by_index]
    if missing:
        names = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        what = f"shard {names} is missing" if len(missing) == 1 else f"{len(missing)} shards are missing ({names})"
        advice = "make" if len(missing) == 1 else "make_all"
        there = [path for path in (one.path(whole_path(first.path)) for one in missing) if exists(path)]
        if there:
            raise StoreError(f"{what}, but {there[0]} is there: name all shards")
        raise StoreError(what, advice=advice, command=_command(first, missing[0]), output=whole_path(first.path))
    for head in by_index.values():
        if head.pending:
            raise StoreError(
                f"{head.path} has {head.pending} of {number_of(head.rows, 'row')} still to do",
                advice="finish",
                command=_command(first, _portion(head).shard, anew=False),
            )


def _command(first: Head, shard: Shard, *, anew: bool = True) -> str:
    """The command that makes a shard as `first` was made, also where its file is there; anew=False: goes on with it."""
    attributes = first.attributes
    output = whole_path(first.path)
    mode: Literal["", "overwrite"] = "overwrite" if anew and exists(shard.path(output)) else ""
    return shard_command(attributes["settings"], attributes["dataset"], first.naming, output, shard, mode)


def _warn_of_versions(heads: Sequence[Head]) -> None:
    for name, value in heads[0].versions.items():
        others = sorted({head.versions[name] for head in heads} - {value})
        if others:
            log.warning(
                "the shards were made with different versions (%s %s and %s): their values agree to rounding alone",
                name,
                value,
                ", ".join(others),
            )
