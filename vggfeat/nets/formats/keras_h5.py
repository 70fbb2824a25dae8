"""Reads the weights out of Keras' HDF5 files of the legacy layout, which Keras' published weights have.

The layout: the root, or its group `model_weights` in a whole model's file, has an attribute `layer_names`; the
group of each such layer has an attribute `weight_names`; each of those names a data set. What the names look like
has changed over the years (`block1_conv1_W_1:0`, `block1_conv1/kernel:0`), so order and shapes are what counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from vggfeat.errors import WeightsError
from vggfeat.nets.contents import Layer


class _RefusedError(Exception):
    """The file is not what its names claim; the text says how."""


def read_keras(path: str | os.PathLike[str]) -> list[Layer]:
    """The layers with weights, in the file's order, float32, as torch lays them out.

    Kernels are turned from H, W, in, out into (out, in, H, W), and the first fully-connected layer's inputs from
    H, W, C order into C, H, W. The first layer of Keras' copies of Oxford's weights reads BGR, as the original.

    Raises:
        WeightsError: the file is damaged, of another layout, or holds no plain net; or an object in it lies in
            another file or claims to be larger than the file.
    """
    path = Path(path)
    try:
        with h5py.File(path, "r") as file:
            arrays = list(_arrays(file, path.stat().st_size))
    except _RefusedError as error:
        raise WeightsError(f"{path}: {error}") from error
    except Exception as error:  # a damaged file makes h5py raise almost anything
        what = str(error) or type(error).__name__
        raise WeightsError(f"{path}: no readable HDF5 file, damaged or cut short ({what})") from error
    if not arrays:
        raise WeightsError(f"{path}: no layer in it has weights")
    layers: list[Layer] = []
    for (name, kernel), (bias_name, bias) in zip(arrays[::2], arrays[1::2], strict=False):
        if kernel.ndim not in (2, 4) or bias.ndim != 1:
            raise WeightsError(
                f"{path}: {name} and {bias_name} are not the kernel and bias of a layer of Table 1's nets"
            )
        layers.append(Layer(name, _as_torch(kernel, layers), bias))
    if len(arrays) % 2:
        raise WeightsError(f"{path}: {arrays[-1][0]} has no bias")
    return layers


def _as_torch(kernel: Tensor, before: list[Layer]) -> Tensor:
    """A kernel in torch's layout; `before` are the layers that come before it."""
    if kernel.ndim == 4:
        return kernel.permute(3, 2, 0, 1).contiguous()  # H W I O -> O I H W
    if before and before[-1].weight.ndim == 4:  # the first fully-connected layer reads the last map
        channels = len(before[-1].weight)
        side = round((len(kernel) / channels) ** 0.5)
        if side * side * channels == len(kernel):
            return kernel.reshape(side, side, channels, -1).permute(3, 2, 0, 1).flatten(1)  # H W C O -> O (C H W)
    return kernel.T.contiguous()


def _arrays(file: h5py.File, size: int) -> Iterator[tuple[str, Tensor]]:
    """The weights' data sets, in order, with their names."""
    whole_model = file.get("model_weights", getlink=True) is not None
    root = _child(file, "model_weights") if whole_model else file
    if not isinstance(root, h5py.Group) or "layer_names" not in root.attrs:
        raise _RefusedError(
            "an HDF5 file, but not Keras' weights in the legacy layout (it has no attribute layer_names); Keras 3 "
            "writes that layout with model.save('x.h5')"
        )
    for layer in _names(root, "layer_names"):
        group = _child(root, layer)
        if not isinstance(group, h5py.Group):
            raise _RefusedError(f"layer {layer!r} is no group")
        for name in _names(group, "weight_names"):
            values = _values(_child(group, name), name, size)
            size -= values.nbytes  # all together may not claim more than the file has
            yield name, torch.from_numpy(values.astype(np.float32, copy=False))


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """An attribute that lists names: bytes or text."""
    listed: Any = np.asarray(group.attrs[attribute]).ravel().tolist()
    return [name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in listed]


def _child(group: h5py.Group, path: str) -> h5py.Group | h5py.Dataset:
    """The object at a path below a group, reached by hard links alone: the others can lead to other files."""
    found: Any = group
    for part in filter(None, path.split("/")):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) and part != "." else None
        if link is None:
            raise _RefusedError(f"{path!r} is named and not there")
        if not isinstance(link, h5py.HardLink):
            raise _RefusedError(f"{path!r} is a link and not data of this file: refused")
        found = found[part]
    return found


def _values(data: h5py.Group | h5py.Dataset, name: str, size: int) -> np.ndarray[Any, Any]:
    """A data set's values, once it is known to be plain numbers inside this file, of at most `size` bytes."""
    if not isinstance(data, h5py.Dataset):
        raise _RefusedError(f"{name!r} is no data set")
    if data.is_virtual or data.external:
        raise _RefusedError(f"{name!r} has its values in another file: refused")
    if data.dtype.kind != "f":
        raise _RefusedError(f"{name!r} holds {data.dtype}, no floating-point numbers")
    if not data.size:
        raise _RefusedError(f"{name!r} is empty")
    if data.nbytes > size:
        raise _RefusedError(f"{name!r} claims {data.nbytes} bytes, more than the file has")
    return np.asarray(data[()])
