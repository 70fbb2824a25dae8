"""Where a verb's images come from: arguments, a list, a pipe or a data set; and which of them are this process's."""

from __future__ import annotations

import array
import contextlib
import os
import shlex
import stat
import sys
from pathlib import Path

import click
from click.core import ParameterSource

from vggfeat.cli import console
from vggfeat.datasets import Dataset, load_dataset
from vggfeat.datasets.folder import own_images
from vggfeat.datasets.listing import from_list, from_paths
from vggfeat.errors import UsageError
from vggfeat.store.shards import Shard
from vggfeat.system.launch import Launch

_BENCHMARKS = ("caltech101", "caltech256", "VOCdevkit", "ilsvrc2012")
"""Folders of a data root."""


def images_from(
    paths: tuple[str, ...],
    list_file: str | None,
    nul: bool,
    dataset: str | None,
    data: str | None = None,
    *,
    sharded: bool = False,
    labelled: bool = False,
) -> Dataset:
    """The images of the one source that was named; a pipe without arguments is a list.

    Args:
        paths, list_file, nul, dataset: as on the command line.
        data: the data root; None if the verb uses --data for something else.
        sharded: several processes take part, which cannot share a list on stdin.
        labelled: a folder that is a tree of classes brings its labels.
    """
    data_alone = dataset is None and data is not None and _typed("data")
    if nul and list_file is None and (data_alone or dataset is not None or paths not in ((), ("-",))):
        raise UsageError("-0 describes a list: it goes with - or --list")
    if data is not None and data_alone:
        if paths or list_file:
            raise UsageError("--data goes with --dataset: leave it out, or name no other images")
        return _data_alone(data)
    if dataset == "folder" and len(paths) == 1 and Path(paths[0]).is_dir() and not _typed("data"):
        raise UsageError(f"{paths[0]} and --dataset folder: choose one; --data {shlex.quote(paths[0])} is both")
    if sum((bool(paths), dataset is not None, list_file is not None)) > 1:
        raise UsageError("images from PATHS, --list and --dataset: choose one")
    if dataset is not None:
        return load_dataset(dataset, data or "data")
    if list_file is not None and list_file != "-":
        return from_list(list_file, nul=nul)
    if paths and paths != ("-",):
        return own_images(paths) if labelled else from_paths(paths)
    if not paths and list_file is None and not _piped():
        raise UsageError("no images: name files or folders, pipe a list in, or give --dataset or --list")
    if sharded:
        raise UsageError(
            "several processes cannot share a list on stdin: write it to a file and give every one --list FILE"
        )
    return from_list(sys.stdin.buffer, nul=nul)


def _data_alone(data: str) -> Dataset:
    """--data without --dataset: the user's own folder, unless it holds benchmark sets."""
    held = [name for name in _BENCHMARKS if (Path(data) / name).is_dir()]
    if held:
        raise UsageError(f"{data} holds {' and '.join(held)}: say which data set with --dataset")
    console.note(f"--data {data} without --dataset is read as --dataset folder")
    return load_dataset("folder", data)


def _typed(parameter: str) -> bool:
    """Whether a parameter was typed, rather than a default or from the environment."""
    context = click.get_current_context(silent=True)
    return context is not None and context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE


def shard_of(shard: str | None, launch: Launch | None) -> Shard | None:
    """The shard that --shard names or that torchrun's rank is."""
    if shard is None:
        return Shard(launch.rank, launch.world) if launch is not None else None
    if launch is not None:
        raise UsageError(f"--shard under torchrun, whose rank {launch.rank} of {launch.world} is a shard: leave it out")
    return Shard.parse(shard)


def _piped() -> bool:
    """Whether stdin is a pipe or a file: a terminal would wait for ever, and /dev/null (cron) is no list."""
    mode = _stdin_mode()
    if mode is None:
        return sys.stdin is not None and not sys.stdin.closed
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def note_unread_pipe() -> None:
    """Says that a list piped in does not count, for a verb that can do without pictures.

    It is not read unasked, as by verbs that need pictures: in a shell's loop it may be what the loop reads.
    """
    mode = _stdin_mode()
    if mode is not None and stat.S_ISFIFO(mode) and _waiting():
        console.note("standard input is not read: - stands for the pictures listed there")


def _waiting() -> int:
    """Bytes that wait in a pipe: many programs start others with a pipe that nobody writes to."""
    try:
        import fcntl
        import termios
    except ImportError:  # Windows
        return 0
    count = array.array("i", [0])
    with contextlib.suppress(OSError):  # a system that does not tell
        fcntl.ioctl(sys.stdin.fileno(), termios.FIONREAD, count)
    return count[0]


def _stdin_mode() -> int | None:
    """What kind of file stdin is; None if it is closed, or replaced by a test's stream."""
    try:
        return os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return None
