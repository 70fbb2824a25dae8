"""The descriptor file (HDF5): the only files that open it.

A row exists when its status says so: its values are flushed to the file before its status is. With HDF5's default
library version, a process killed at any instant leaves a file that opens.

`schema` lays a file out and checks it, `writer` fills and resumes it, `reader` reads it, `shards` joins the files of
several processes, `holding` keeps a second process away from an output.
"""

from vggfeat.store.reader import Descriptors, read_descriptors
from vggfeat.store.schema import DONE, FAILED, FORMAT, FORMAT_VERSION, PENDING, STORES, fingerprint
from vggfeat.store.writer import DescriptorWriter

__all__ = [
    "DONE",
    "FAILED",
    "FORMAT",
    "FORMAT_VERSION",
    "PENDING",
    "STORES",
    "DescriptorWriter",
    "Descriptors",
    "fingerprint",
    "read_descriptors",
]
