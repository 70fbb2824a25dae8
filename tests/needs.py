"""What Windows or older libraries lack, and so some tests need to be skipped for."""

from __future__ import annotations

import importlib
import struct
import subprocess
import sys
from pathlib import Path

import h5py
import pytest


def need(*names: str) -> None:
    """Skips the test where this system has no such module, or no such name in one: `resource`, `os.fork`."""
    for name in names:
        module, _, attribute = name.partition(".")
        try:
            found = importlib.import_module(module)
        except ImportError:
            found = None
        if found is None or (attribute and not hasattr(found, attribute)):
            pytest.skip(f"this system has no {name}")


def need_hdf5_that_survives_damage(folder: Path) -> None:
    """Skips the test where HDF5 ends the process at a reference to no text of a heap, in place of an error."""
    path = folder / "damaged.h5"
    with h5py.File(path, "w") as file:
        file.attrs["names"] = ["a", "b"]
    content = path.read_bytes()
    reference = struct.pack("<IQI", 1, content.index(b"GCOL"), 1)  # length, where the heap lies, index in it
    assert reference in content
    path.write_bytes(content.replace(reference, reference[:-4] + struct.pack("<I", 8912912)))
    code = "import h5py, sys\nwith h5py.File(sys.argv[1]) as file:\n    file.attrs['names']"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True)
    path.unlink()
    if done.returncode != 1:  # an OSError's
        pytest.skip(f"this HDF5 ({h5py.version.hdf5_version}) ends the process at a damaged file")
