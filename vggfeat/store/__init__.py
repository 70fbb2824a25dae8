"""The descriptor file (HDF5): the only files that open it.

A row exists when its status says so: its values are flushed to the file before its status is. With HDF5's default
library version, a process killed at any instant leaves a file that opens.

`schema` lays a file out and checks it, `writer` fills and resumes it, `reader` reads it, `shards` joins the files of
several processes, `holding` keeps a second process away from an output.

Names are imported on first use (PEP 562), so that the command line's help imports no h5py.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vggfeat.store.reader import Descriptors, read_descriptors
    from vggfeat.store.schema import DONE, FAILED, FORMAT, FORMAT_VERSION, PENDING, fingerprint
    from vggfeat.store.writer import DescriptorWriter

__all__ = [
    "DONE",
    "FAILED",
    "FORMAT",
    "FORMAT_VERSION",
    "PENDING",
    "DescriptorWriter",
    "Descriptors",
    "fingerprint",
    "read_descriptors",
]

_HOMES = {"DescriptorWriter": "writer", "Descriptors": "reader", "read_descriptors": "reader"}
"""The modules of the names that are not in `schema`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'schema')}"), name)
