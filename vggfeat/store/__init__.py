"""The descriptor file (HDF5). Only this room opens it.

A row exists when its status says so: its values reach the disk before its status does. With HDF5's default library
version, a process killed at any instant leaves a file that opens.

`schema` lays a file out and checks it, `writer` fills and resumes it (`rows` writes in place), `reader` reads it,
`shards` says which rows are whose, `merging` joins shards, `locking` keeps a second writer away from an output,
`pooling` has the arithmetic of a descriptor, `neighbours` searches, `provenance` checks the recorded settings.

Names are imported on first use (PEP 562), so that the command line's help imports no h5py.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vggfeat.store.reader import Descriptors, File, as_descriptors, files_in, place_of, read_descriptors
    from vggfeat.store.schema import DONE, FAILED, FORMAT, FORMAT_VERSION, PENDING, check_readable, fingerprint
    from vggfeat.store.writer import DescriptorWriter, check_output

__all__ = [
    "DONE",
    "FAILED",
    "FORMAT",
    "FORMAT_VERSION",
    "PENDING",
    "DescriptorWriter",
    "Descriptors",
    "File",
    "as_descriptors",
    "check_output",
    "check_readable",
    "files_in",
    "fingerprint",
    "place_of",
    "read_descriptors",
]

_HOMES = {
    "DescriptorWriter": "writer",
    "check_output": "writer",
    "Descriptors": "reader",
    "File": "reader",
    "as_descriptors": "reader",
    "files_in": "reader",
    "place_of": "reader",
    "read_descriptors": "reader",
}
"""The modules of the names that are not in `schema`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'schema')}"), name)
