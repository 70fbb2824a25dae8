"""Checks for untrusted HDF5 files, and writing that survives a full disk."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

import h5py

from vggfeat.system.sparsefile import SparseFile

DAMAGE = (
    OSError,
    KeyError,
    ValueError,
    TypeError,
    RuntimeError,
    AttributeError,
    IndexError,
    OverflowError,
    MemoryError,
)
"""Exceptions that h5py, and code that uses its values, raise on a damaged file."""

CUT_SHORT = "it is cut short, as by an interrupted copy"

OTHER_LOCKS = "flag values don't match"
"""How HDF5 refuses a file that this program has open with another setting of locks."""

_MISSING = re.compile(r"(?:object|attribute:) '([^']+)'")
"""How HDF5 names an entry that a file lacks."""

_TEXTS_AT_ONCE = 256


def damage(error: BaseException) -> str:
    """What is wrong with a file whose reading raised one of DAMAGE; an entry that it lacks is told by its name."""
    if "truncated file" in str(error):
        return CUT_SHORT
    if not isinstance(error, KeyError):
        return str(error)
    found = _MISSING.search(str(error))
    return f"no {found[1]!r}" if found else f"no {error}"


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Whether a file has HDF5's signature; a missing one has not. Raises OSError for one that may not be read."""
    try:
        return bool(h5py.is_hdf5(path))
    except OSError:
        with open(path, "rb"):  # noqa: PTH123 - whose error names the file and the reason
            raise


def open_to_read(path: str | os.PathLike[str]) -> h5py.File:
    """The file, without a lock, so that one that is being written can be read.

    HDF5 opens a file twice in one program only with the same setting of locks: where the program has it open itself,
    as in a notebook, the other settings are tried too. Raises what h5py raises.
    """
    for locking in (False, None):
        try:
            return h5py.File(path, "r", locking=locking)
        except OSError as error:
            if OTHER_LOCKS not in str(error):
                raise
    return h5py.File(path, "r", locking=True)


def is_open_here(error: BaseException) -> bool:
    """Whether HDF5 refused a file because this program has it open in another way."""
    text = str(error)
    # HDF5's word on h5clear is of a file that a killed SWMR writer left marked.
    return OTHER_LOCKS in text or ("already open" in text and "h5clear" not in text)


def own_dataset(file: h5py.Group, name: str) -> h5py.Dataset | None:
    """The data set of that name if its values lie in the file itself, else None.

    A soft or external link, external raw storage or a virtual data set could read any file of the machine.

    Raises ValueError if it claims to be larger than the file, since reading it would fill the memory.
    """
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return None
    data = file[name]
    if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external:
        return None
    if data.nbytes > data.file.id.get_filesize():
        raise ValueError(f"{name!r} claims {data.nbytes} bytes, more than the file has")
    return data


def texts(data: h5py.Dataset) -> list[bytes]:
    """A data set of names. Raises ValueError if they claim more bytes than the file has: many can share one."""
    found: list[bytes] = []
    left = data.file.id.get_filesize()
    for start in range(0, len(data), _TEXTS_AT_ONCE):
        some = data[start : start + _TEXTS_AT_ONCE].tolist()
        left -= sum(map(len, some))
        if left < 0:
            raise ValueError(f"{data.name!r} claims more bytes than the file has")
        found += some
    return found


@contextlib.contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """A new HDF5 file, built in memory and written when the block ends. Raises OSError if writing fails.

    HDF5 must never meet a full disk: it delays small writes, h5py drops the error when they fail later, and closing
    the file then retries until it crashes.
    """
    memory = SparseFile()
    with h5py.File(memory, "w") as file:
        yield file
    with open(path, "wb") as stream:  # noqa: PTH123 - also takes a str
        memory.copy_to(stream)
