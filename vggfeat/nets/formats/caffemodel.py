"""Reads the weights out of a .caffemodel, which is one protobuf message, without Caffe and without protobuf.

Only the fields that hold weights are looked at (caffe.proto):

    NetParameter        layers = 2 (V1LayerParameter), layer = 100 (LayerParameter)
    V1LayerParameter    name = 4, type = 5 (a number), blobs = 6
    LayerParameter      name = 1, type = 2 (a word), blobs = 7
    BlobProto           num, channels, height, width = 1, 2, 3, 4; data = 5; shape = 7; double_data = 8
    BlobShape           dim = 1

The file is mapped, not read; every length is checked against what encloses it before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from vggfeat.errors import WeightsError
from vggfeat.nets.contents import Layer
from vggfeat.system.numbers import number_of

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTH = {_FIXED64: 8, _FIXED32: 4}

MOST_FIELDS = 100_000
"""VGG_ILSVRC_19_layers has a few thousand fields: more than this is a file made to keep its reader busy."""

Buffer = npt.NDArray[np.uint8]

# What each kind of layer message calls its fields, and the types that have weights which vggfeat can use.
_V1_FIELDS = (4, 5, 6)
_FIELDS = (1, 2, 7)
_CONVOLUTION, _INNER_PRODUCT = (4, b"Convolution"), (14, b"InnerProduct")


class _DamagedError(Exception):
    """The message is not what it claims to be; the text says how."""


def read_caffemodel(path: str | Path) -> list[Layer]:
    """The layers with weights, in the file's order, float32.

    An inner product's weight may be stored as N x M or 1 x 1 x N x M. Channels stay as they are: the first layer of
    Oxford's nets reads BGR.

    Raises:
        WeightsError: the file is damaged, cut short, or no caffemodel of a plain net.
    """
    path = Path(path)
    try:
        mapped = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.zeros(0, np.uint8)
        layers = [layer for layer in _Message(np.asarray(mapped)).layers() if layer is not None]
    except _DamagedError as error:
        raise WeightsError(f"{path}: no readable caffemodel: {error}") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not layers:
        raise WeightsError(f"{path}: no caffemodel with weights: no layer in it has any")
    return layers


class _Message:
    """A caffemodel in memory, and the number of fields seen in it."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer
        self.fields_seen = 0

    def layers(self) -> Iterator[Layer | None]:
        """Its layers in order; None for each that has no weights."""
        for number, kind, start, end in self.fields(0, len(self.buffer)):
            if number == 2 and kind == _BYTES:
                yield self.layer(start, end, _V1_FIELDS)
            elif number == 100 and kind == _BYTES:
                yield self.layer(start, end, _FIELDS)

    def layer(self, start: int, end: int, numbers: tuple[int, int, int]) -> Layer | None:
        """A layer's name, weight and bias."""
        name, kind, blobs = "", b"", []
        type_number = 0
        for number, wire, first, last in self.fields(start, end):
            if number == numbers[0] and wire == _BYTES:
                name = self.buffer[first:last][:200].tobytes().decode("utf-8", "replace")
            elif number == numbers[1] and wire == _BYTES:
                kind = self.buffer[first:last][:200].tobytes()
            elif number == numbers[1] and wire == _VARINT:
                type_number = self.varint(first, last)[0]
            elif number == numbers[2] and wire == _BYTES:
                blobs.append(self.blob(first, last))
        if not blobs:
            return None
        if type_number not in (_CONVOLUTION[0], _INNER_PRODUCT[0]) and kind not in (_CONVOLUTION[1], _INNER_PRODUCT[1]):
            what = kind.decode("utf-8", "replace") or type_number
            raise _DamagedError(f"layer {name!r} of type {what} has weights; Table 1's nets have none such")
        if len(blobs) != 2:
            raise _DamagedError(f"layer {name!r} has {number_of(len(blobs), 'blob')} where a weight and a bias belong")
        weight, bias = (torch.from_numpy(values.astype(np.float32)).reshape(shape) for shape, values in blobs)
        if weight.ndim == 4 and (type_number, kind) in ((_INNER_PRODUCT[0], b""), (0, _INNER_PRODUCT[1])):
            if weight.shape[:2] != (1, 1):
                raise _DamagedError(f"layer {name!r} has a weight of shape {tuple(weight.shape)}")
            weight = weight[0, 0]
        return Layer(name, weight, bias.flatten())

    def blob(self, start: int, end: int) -> tuple[tuple[int, ...], npt.NDArray[np.floating]]:
        """A blob's shape and its values, still in the file."""
        legacy = {1: 1, 2: 1, 3: 1, 4: 1}
        shape: tuple[int, ...] | None = None
        pieces: dict[int, list[npt.NDArray[np.floating]]] = {5: [], 8: []}
        for number, wire, first, last in self.fields(start, end):
            if number in legacy and wire == _VARINT:
                legacy[number] = self.varint(first, last)[0]
            elif number == 7 and wire == _BYTES:
                shape = self.shape(first, last)
            elif number == 5 and wire in (_BYTES, _FIXED32):
                pieces[5].append(self.numbers(first, last, "<f4", packed=wire == _BYTES))
            elif number == 8 and wire in (_BYTES, _FIXED64):
                pieces[8].append(self.numbers(first, last, "<f8", packed=wire == _BYTES))
        found = pieces[5] or pieces[8]
        values = found[0] if len(found) == 1 else np.concatenate([np.zeros(0, np.float32), *found])
        shape = shape if shape is not None else tuple(legacy.values())
        if not len(values):
            raise _DamagedError("a blob has no values")
        if math.prod(shape) != len(values):
            raise _DamagedError(f"a blob of shape {shape} has {number_of(len(values), 'value')}")
        return shape, values

    def shape(self, start: int, end: int) -> tuple[int, ...]:
        """A BlobShape's dimensions, packed or one by one."""
        dims: list[int] = []
        for number, wire, first, last in self.fields(start, end):
            while number == 1 and wire in (_VARINT, _BYTES) and first < last:
                value, first = self.varint(first, last)
                dims.append(value)
                if len(dims) > 4:
                    raise _DamagedError("a blob has more than four dimensions")
        return tuple(dims)

    def numbers(self, start: int, end: int, dtype: str, packed: bool) -> npt.NDArray[np.floating]:
        """The floating-point values of a field: one packed run, or a run of fields of one value each."""
        size = int(dtype[-1])
        data = self.buffer[start:end]
        if not packed:  # each value stands behind its own tag byte, the first one's lying before `start`
            data = np.ascontiguousarray(self.buffer[start - 1 : end].reshape(-1, 1 + size)[:, 1:]).reshape(-1)
        if len(data) % size:
            raise _DamagedError(f"{number_of(len(data), 'byte is', 'bytes are')} not a whole number of values")
        return data.view(dtype)

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """The fields of the message at [start, end): number, wire type, and where the value lies.

        Unpacked values of one field that follow each other come as one field, from the first value to the last.
        """
        position = start
        while position < end:
            self.fields_seen += 1
            if self.fields_seen > MOST_FIELDS:
                raise _DamagedError(f"it has more than {MOST_FIELDS} fields")
            tag_start = position
            tag, position = self.varint(position, end)
            number, wire = tag >> 3, tag & 7
            first = position
            if wire == _VARINT:
                _, position = self.varint(position, end)
            elif wire == _BYTES:
                length, first = self.varint(position, end)
                position = first + length
            elif wire in _WIDTH:
                position = first + _WIDTH[wire]
                if first - tag_start == 1:
                    position += self.repeats(tag_start, position, end)
            else:
                raise _DamagedError(f"byte {tag_start} starts no field")
            if number == 0:
                raise _DamagedError(f"byte {tag_start} starts no field")
            if position > end:
                raise _DamagedError(f"the field at byte {tag_start} runs past its end: damaged or cut short")
            yield number, wire, first, position

    def repeats(self, start: int, after: int, end: int) -> int:
        """How many bytes the fields take that follow [start, after) with the same one-byte tag and size."""
        step = after - start
        tags = self.buffer[after:end][: (end - after) // step * step : step] if after < end else self.buffer[:0]
        total, block = 0, 1 << 12
        while total < len(tags):
            same = tags[total : total + block] == self.buffer[start]
            if not same.all():
                return (total + int(same.argmin())) * step
            total += len(same)
            block = min(block * 2, 1 << 22)
        return total * step

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """The number at a position, and the position behind it."""
        value = 0
        for index, byte in enumerate(self.buffer[position : min(end, position + 10)].tolist()):
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                return value, position + index + 1
        raise _DamagedError(f"the number at byte {position} does not end: damaged or cut short")
