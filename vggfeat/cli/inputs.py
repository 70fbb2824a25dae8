"""Where a verb's images come from: arguments, a list, a pipe or a data set; and which of them are this process's."""

from __future__ import annotations

import os
import stat
import sys

from vggfeat.datasets import Dataset, load_dataset
from vggfeat.datasets.listing import from_list, from_paths
from vggfeat.errors import UsageError
from vggfeat.store.shards import Shard
from vggfeat.system.launch import Launch


def images_from(
    paths: tuple[str, ...], list_file: str | None, nul: bool, dataset: str | None, data: str, sharded: bool = False
) -> Dataset:
    """The one source of images that was named; a pipe without arguments is a list, which `sharded` processes refuse."""
    if sum((bool(paths), dataset is not None, list_file is not None)) > 1:
        raise UsageError("images from PATHS, --list and --dataset: choose one")
    if dataset is not None:
        return load_dataset(dataset, data)
    if list_file is not None and list_file != "-":
        return from_list(list_file, nul=nul)
    if paths and paths != ("-",):
        if nul:
            raise UsageError("-0 describes a list: it goes with - or --list")
        return from_paths(paths)
    if not paths and list_file is None and not _piped():
        raise UsageError("no images: name files or folders, pipe a list in, or give --dataset or --list")
    if sharded:
        raise UsageError(
            "several processes cannot share a list on stdin: write it to a file and give every one --list FILE"
        )
    return from_list(sys.stdin.buffer, nul=nul)


def shard_of(shard: str | None, launch: Launch | None) -> Shard | None:
    """The shard that --shard names or that torchrun's rank is."""
    if shard is None:
        return Shard(launch.rank, launch.world) if launch is not None else None
    if launch is not None:
        raise UsageError(f"--shard under torchrun, whose rank {launch.rank} of {launch.world} is a shard: leave it out")
    return Shard.parse(shard)


def _piped() -> bool:
    """Whether stdin is a pipe or a file: a terminal would wait for ever, and /dev/null (cron) is no list."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # closed, or replaced by a test's stream
        return sys.stdin is not None and not sys.stdin.closed
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)
