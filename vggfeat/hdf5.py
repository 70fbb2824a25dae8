"""What every reader of a stranger's HDF5 file checks first."""

from __future__ import annotations

import h5py


def own_dataset(file: h5py.Group, name: str) -> h5py.Dataset | None:
    """The data set of that name if its values lie in the file itself, else None.

    A soft or external link, external raw storage or a virtual data set could read any file of the machine.
    """
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return None
    data = file[name]
    return data if isinstance(data, h5py.Dataset) and not data.is_virtual and not data.external else None
