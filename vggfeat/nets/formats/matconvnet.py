"""Reads MatConvNet's files, such as imagenet-vgg-verydeep-16.mat: MATLAB's format 5, and 7.3 by h5py.

`layers` is a cell array of structures with a `name` and `weights` {kernel, bias} (before beta 16 `filters` and
`biases`); kernels are HWIO, fully-connected layers are 7x7 and 1x1 convolutions. `meta.normalization.averageImage`, or
`normalization` at the top, is the mean that the net expects to be subtracted, in RGB order and of values 0 to 255.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from vggfeat.errors import WeightsError
from vggfeat.nets.checkpoints import first_line
from vggfeat.nets.contents import Contents, Layer
from vggfeat.nets.formats.mat5 import read_mat5
from vggfeat.nets.formats.own_hdf5 import RefusedError, checked, child, opened, stored_bytes, values
from vggfeat.nets.preprocessing import Preprocessing
from vggfeat.system.numbers import number_of

Array = np.ndarray[Any, Any]

MAX_LAYERS = 1000
_NO_NET = "a MATLAB file, but no MatConvNet net (it has no layers with weights)"


def read_matconvnet(path: Path) -> Contents:
    """The layers with weights, in order. Raises WeightsError with the reason."""
    with path.open("rb") as stream:
        version = stream.read(10)
    found, mean = _version_7_3(path) if version == b"MATLAB 7.3" else _version_5(path)
    layers: list[Layer] = []
    for name, kernel, bias in found:
        if kernel.dtype.kind != "f" or bias.dtype.kind != "f" or kernel.ndim > 4:
            raise WeightsError(f"{path}: {name} is not a convolution of floating-point numbers")
        kernel = kernel.reshape(kernel.shape + (1,) * (4 - kernel.ndim))  # MATLAB drops trailing sides of 1
        weight = torch.from_numpy(np.ascontiguousarray(kernel, np.float32))
        layers.append(Layer.from_hwio(name, weight, torch.from_numpy(np.array(bias, np.float32).ravel()), layers))
    if not layers:
        raise WeightsError(f"{path}: {_NO_NET}")
    return Contents(layers, preprocessing=_preprocessing(mean))


def _preprocessing(mean: Array | None) -> Preprocessing | None:
    """Subtraction of a mean colour; None for a mean image that varies from pixel to pixel."""
    if mean is None or mean.dtype.kind not in "fiu" or mean.size == 0 or mean.size % 3:
        return None
    pixels = mean.reshape(-1, 3) if mean.shape[-1] == 3 else mean.reshape(1, -1)
    if pixels.shape[1] != 3 or not np.isfinite(pixels).all() or np.ptp(pixels, axis=0).max() > 1e-3:
        return None
    red, green, blue = (float(str(value)) for value in pixels[0])  # 116.779, not its nearest float32
    return Preprocessing("RGB", 1.0, (red, green, blue), (1.0, 1.0, 1.0), "bicubic")


# MATLAB's format 5.


def _version_5(path: Path) -> tuple[list[tuple[str, Array, Array]], Array | None]:
    try:
        content = read_mat5(path, ("layers", "meta", "normalization"))
        if "layers" not in content:
            raise WeightsError(f"{path}: {_NO_NET}")
        entries = [_structure(entry) for entry in content["layers"][:MAX_LAYERS]]
        layers = [layer for entry in entries if (layer := _struct_layer(entry))]
        holder = _structure(content["meta"]).get("normalization") if "meta" in content else content.get("normalization")
        mean = _structure(holder).get("averageImage")
        return layers, mean if isinstance(mean, np.ndarray) else None
    except WeightsError:
        raise
    except Exception as error:  # whatever a damaged file leads to
        raise WeightsError(f"{path}: no readable .mat file, damaged or cut short ({first_line(error)})") from error


def _structure(value: Any) -> dict[str, Any]:
    """A 1x1 structure; empty for anything else."""
    return value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) else {}


def _struct_layer(layer: dict[str, Any]) -> tuple[str, Array, Array] | None:
    pair = (
        layer.get("weights") if "weights" in layer else [layer[name] for name in ("filters", "biases") if name in layer]
    )
    if not isinstance(pair, list) or not pair:  # MatConvNet gives layers without weights an empty cell or matrix
        return None
    name = str(layer.get("name", ""))[:100]
    if len(pair) != 2 or not all(isinstance(array, np.ndarray) for array in pair):
        raise ValueError(f"layer {name!r} has no pair of kernel and bias")
    return name, pair[0], pair[1]


# MATLAB's format 7.3: HDF5, cells as references to objects below #refs#, the axes in reverse order.


def _version_7_3(path: Path) -> tuple[list[tuple[str, Array, Array]], Array | None]:
    size = path.stat().st_size
    with opened(path) as file:
        if "layers" not in file:
            raise RefusedError(_NO_NET)
        layers = []
        for entry in _cells(file, child(file, "layers"), size):
            if isinstance(entry, h5py.Group) and "weights" in entry:
                stored = list(_cells(file, child(entry, "weights"), size))
                pair = [values(one, "weights", size) for one in stored]
                if pair and len(pair) != 2:
                    raise RefusedError(f"a layer has {number_of(len(pair), 'array')} of weights")
                if pair:
                    size -= sum(map(stored_bytes, stored))
                    layers.append((_text(entry, size), pair[0].T, pair[1].T))
        return layers, _average_image(file, size)


def _average_image(file: h5py.File, size: int) -> Array | None:
    for place in ("meta/normalization/averageImage", "normalization/averageImage"):
        try:
            return values(child(file, place), place, size).T
        except RefusedError:
            continue
    return None


def _cells(file: h5py.File, cell: h5py.Group | h5py.Dataset, size: int) -> Iterator[h5py.Group | h5py.Dataset]:
    """The objects of a cell array."""
    listed = checked(cell, "a cell array", size)
    if listed.dtype != h5py.ref_dtype:
        return
    for reference in listed[()].ravel()[:MAX_LAYERS]:
        yield file[reference]


def _text(layer: h5py.Group, size: int) -> str:
    codes = checked(child(layer, "name"), "name", size)[()].ravel()[:100] if "name" in layer else []
    return "".join(map(chr, codes))
