"""Where a verb's images come from: arguments, a list, a pipe or a data set."""

from __future__ import annotations

import os
import stat
import sys

from vggfeat.datasets import Dataset, load_dataset
from vggfeat.datasets.listing import from_list, from_paths
from vggfeat.errors import UsageError


def images_from(paths: tuple[str, ...], list_file: str | None, nul: bool, dataset: str | None, data: str) -> Dataset:
    """The one source of images that was named; a pipe without arguments is a list."""
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
    return from_list(sys.stdin.buffer, nul=nul)


def _piped() -> bool:
    """Whether stdin is a pipe or a file: a terminal would wait for ever, and /dev/null (cron) is no list."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # closed, or replaced by a test's stream
        return sys.stdin is not None and not sys.stdin.closed
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)
