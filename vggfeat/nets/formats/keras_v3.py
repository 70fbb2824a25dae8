"""Reads Keras 3's own files: `.weights.h5`, and `.keras`, a zip archive with one of them inside.

The layout: `layers/<layer>/vars/0` and `1` are a layer's kernel and bias; nested models repeat it below their own name.
A layer's name is its class and a count (`conv2d`, `conv2d_1`, ..); the `config.json` of a `.keras` file has the user's
names. HDF5 lists names alphabetically, so numbers are sorted by value. A user's own net has the same names as
`keras.applications`', so a file without Table 1's head does not tell its preprocessing.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import torch

from vggfeat.errors import WeightsError
from vggfeat.nets.checkpoints import first_line
from vggfeat.nets.contents import Contents, Layer
from vggfeat.nets.formats.heads import is_usual_head
from vggfeat.nets.formats.keras_config import steps_of
from vggfeat.nets.formats.own_hdf5 import RefusedError, child, opened, stored_bytes, values
from vggfeat.system.numbers import number_of

WEIGHTS_ENTRY = "model.weights.h5"

MOST_CONFIG = 1 << 22
"""Bytes of a configuration; that of a VGG net has 20 KB."""

_DEEPEST = 8
"""Models nested more deeply are made to exhaust the stack."""


def read_keras_archive(path: Path) -> Contents:
    """The layers of a `.keras` file. Raises WeightsError with the reason."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(WEIGHTS_ENTRY)
            if entry.file_size > path.stat().st_size:  # Keras stores it uncompressed
                raise WeightsError(f"{path}: claims {entry.file_size} bytes of content, more than the file has")
            content, config = archive.read(entry), _config(archive)
    except WeightsError:
        raise
    except Exception as error:  # a damaged archive makes zipfile raise almost anything
        raise WeightsError(f"{path}: no readable .keras file, damaged or cut short ({first_line(error)})") from error
    with opened(path, io.BytesIO(content)) as file:
        return with_steps(read_groups(path, file, len(content)), config)


def with_steps(content: Contents, config: str | bytes) -> Contents:
    """The content, with the steps that the model's configuration (JSON; empty if there is none) lists."""
    steps = steps_of(config)
    return replace(content, steps=steps, own_head=not is_usual_head(steps))


def _config(archive: zipfile.ZipFile) -> bytes:
    entry = next((one for one in archive.infolist() if one.filename == "config.json"), None)
    return archive.read(entry) if entry is not None and entry.file_size <= MOST_CONFIG else b""


def read_groups(path: Path, file: h5py.File, size: int) -> Contents:
    """The layers of Keras 3's layout, convolutions first; `size` is the most bytes that they can have."""
    found: list[tuple[str, list[torch.Tensor]]] = []
    for name, group in _layers(file, "", 0):
        arrays = []
        for key in sorted(group, key=_by_number):
            data = child(group, key)
            array = values(data, f"{name}/{key}", size)
            size -= stored_bytes(data)
            arrays.append(torch.from_numpy(array))
        if arrays:
            found.append((name, arrays))
    layers: list[Layer] = []
    for name, arrays in sorted(found, key=lambda pair: (pair[1][0].ndim != 4, _by_number(pair[0]))):
        if len(arrays) != 2 or arrays[0].ndim not in (2, 4) or arrays[1].ndim != 1:
            raise RefusedError(
                f"{name} has {number_of(len(arrays), 'array')} of weights, not the kernel and bias of a layer of "
                "Table 1's nets"
            )
        layers.append(Layer.from_hwio(name, arrays[0], arrays[1], layers))
    if not layers:
        raise WeightsError(f"{path}: no layer in it has weights")
    return Contents(layers, "keras3", any_head=True)


def _layers(group: h5py.Group, above: str, depth: int) -> Iterator[tuple[str, h5py.Group]]:
    """(name, group of its arrays) of every layer below a model's group."""
    if depth > _DEEPEST:
        raise RefusedError(f"models are nested more than {_DEEPEST} deep")
    listed = child(group, "layers")
    if not isinstance(listed, h5py.Group):
        raise RefusedError("layers is not a group")
    for name in listed:
        layer = child(listed, name)
        if not isinstance(layer, h5py.Group):
            raise RefusedError(f"layer {name!r} is not a group")
        if "layers" in layer:
            yield from _layers(layer, f"{above}{name}/", depth + 1)
        elif "vars" in layer:
            arrays = child(layer, "vars")
            if not isinstance(arrays, h5py.Group):
                raise RefusedError(f"{name}/vars is not a group")
            yield f"{above}{name}", arrays


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts conv2d_10 after conv2d_9."""
    return [(int(word), "") if word.isdecimal() else (-1, word) for word in re.split(r"(\d+)", name)]
