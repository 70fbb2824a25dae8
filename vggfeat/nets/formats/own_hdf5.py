"""Reads values of an untrusted HDF5 file that lie in the file itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vggfeat.errors import WeightsError
from vggfeat.nets.checkpoints import first_line
from vggfeat.nets.formats.limits import MAX_DEFLATE
from vggfeat.system.hdf5 import open_to_read


class RefusedError(Exception):
    """The file does not hold what its names claim; the text says how."""


@contextmanager
def opened(path: Path, source: Any = None) -> Iterator[h5py.File]:
    """The file (or the open stream `source` in its place). Any failure inside becomes a WeightsError with its path."""
    try:
        with h5py.File(source, "r") if source is not None else open_to_read(path) as file:
            yield file
    except RefusedError as error:
        raise WeightsError(f"{path}: {error}") from error
    except WeightsError:
        raise
    except Exception as error:  # a damaged file makes h5py raise almost anything
        raise WeightsError(f"{path}: no readable HDF5 file, damaged or cut short ({first_line(error)})") from error


def child(group: h5py.Group, path: str) -> h5py.Group | h5py.Dataset:
    """The object at a path below a group. Refuses links, which can lead to other files."""
    found: Any = group
    for part in filter(None, path.split("/")):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) and part != "." else None
        if link is None:
            raise RefusedError(f"{path!r} is named and not there")
        if not isinstance(link, h5py.HardLink):
            raise RefusedError(f"{path!r} is a link and not data of this file: refused")
        found = found[part]
    return found


def checked(data: h5py.Group | h5py.Dataset, name: str, size: int) -> h5py.Dataset:
    """A data set, once it is known to lie in at most `size` bytes of this file that can hold what it claims."""
    if not isinstance(data, h5py.Dataset):
        raise RefusedError(f"{name!r} is not a data set")
    if data.is_virtual or data.external:
        raise RefusedError(f"{name!r} has its values in another file: refused")
    stored = stored_bytes(data)
    if stored > size or data.nbytes > stored * (MAX_DEFLATE if data.chunks else 1):  # chunks may be compressed
        raise RefusedError(f"{name!r} claims {data.nbytes} bytes, more than the file has")
    return data


def values(data: h5py.Group | h5py.Dataset, name: str, size: int) -> np.ndarray[Any, Any]:
    """A data set's floating-point numbers, which lie in at most `size` bytes, as float32."""
    found = checked(data, name, size)
    if found.dtype.kind != "f":
        raise RefusedError(f"{name!r} holds {found.dtype}, no floating-point numbers")
    if not found.size:
        raise RefusedError(f"{name!r} is empty")
    return np.asarray(found[()], np.float32)


def stored_bytes(data: h5py.Dataset) -> int:
    """What a data set takes of the file: less than its numbers where these are of 16 bits, or compressed."""
    return int(data.id.get_storage_size())
