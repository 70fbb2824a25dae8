"""Reads Keras' HDF5 files of the legacy layout, which Keras' published weights have.

The layout: the root, or its group `model_weights` in a whole model's file, has an attribute `layer_names`; the
group of each such layer has an attribute `weight_names`; each of those names a data set. The form of the names has
changed over the years (`block1_conv1_W_1:0`, `block1_conv1/kernel:0`), so order and shapes are what counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from vggfeat.errors import WeightsError
from vggfeat.nets.contents import Contents, Layer
from vggfeat.nets.formats.keras_v3 import read_groups, with_steps
from vggfeat.nets.formats.own_hdf5 import RefusedError, child, opened, stored_bytes, values


def read_keras(path: str | os.PathLike[str]) -> Contents:
    """The layers with weights, in the file's order, float32, as torch lays them out.

    Kernels are turned from H, W, in, out into (out, in, H, W), and the first fully-connected layer's inputs from
    H, W, C order into C, H, W. The first layer of Keras' copies of Oxford's weights reads BGR, as the original. Files
    of Keras 3's layout (`.weights.h5`) are passed to their reader.

    Raises:
        WeightsError: the file is damaged, of another layout, or holds no plain net; or an object in it lies in
            another file or claims to be larger than the file.
    """
    path = Path(path)
    size = path.stat().st_size
    with opened(path) as file:
        if "layers" in file and "layer_names" not in file.attrs:
            return read_groups(path, file, size)
        return with_steps(as_layers(path, _arrays(file, size)), file.attrs.get("model_config", b""))


def as_layers(path: Path, arrays: Iterable[tuple[str, Tensor]]) -> Contents:
    """Kernels and biases by turns -> layers."""
    named = list(arrays)
    if not named:
        raise WeightsError(f"{path}: no layer in it has weights")
    layers: list[Layer] = []
    for (name, kernel), (bias_name, bias) in zip(named[::2], named[1::2], strict=False):
        if kernel.ndim not in (2, 4) or bias.ndim != 1:
            raise WeightsError(
                f"{path}: {name} and {bias_name} are not the kernel and bias of a layer of Table 1's nets"
            )
        layers.append(Layer.from_hwio(name, kernel, bias, layers))
    if len(named) % 2:
        raise WeightsError(f"{path}: {named[-1][0]} has no bias")
    published = named[0][0].startswith("block1_conv1")
    return Contents(layers, "keras" if published else "other", any_head=True)


def _arrays(file: h5py.File, size: int) -> Iterator[tuple[str, Tensor]]:
    """The weights' data sets, in order, named with their layer."""
    whole_model = file.get("model_weights", getlink=True) is not None
    root = child(file, "model_weights") if whole_model else file
    if not isinstance(root, h5py.Group) or "layer_names" not in root.attrs:
        if str(file.attrs.get("format", "")).startswith("vggfeat-"):
            raise RefusedError("a file of descriptors, posteriors or an SVM, not of weights")
        raise RefusedError(
            "an HDF5 file, but not Keras' weights (it has neither the attribute layer_names nor a group layers)"
        )
    for layer in _names(root, "layer_names"):
        group = child(root, layer)
        if not isinstance(group, h5py.Group):
            raise RefusedError(f"layer {layer!r} is not a group")
        for name in _names(group, "weight_names"):
            data = child(group, name)
            array = values(data, name, size)
            size -= stored_bytes(data)  # all together may not claim more than the file has
            yield f"{layer}/{name}", torch.from_numpy(array)


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """An attribute that lists names: bytes or text."""
    listed: Any = np.asarray(group.attrs[attribute]).ravel().tolist()
    return [name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in listed]
