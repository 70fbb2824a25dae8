"""Writes .caffemodel files for the tests: protobuf's wire format by hand, checked by OpenCV, which reads them.

The other half is the prototxt that OpenCV needs beside the weights.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import numpy as np

from vggfeat.nets.catalog import NETS, Conv

V1_TYPES = {"Convolution": 4, "InnerProduct": 14, "Pooling": 17, "ReLU": 18, "Softmax": 20, "Data": 5}


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def block(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def blob(values: np.ndarray, shape: Sequence[int], style: str = "legacy") -> bytes:
    """A BlobProto. Styles: legacy (num, channels, height, width), shape, unpacked, double, split."""
    data = values.astype("<f4").ravel()
    if style == "legacy":
        padded = [1] * (4 - len(shape)) + list(shape)
        return b"".join(number(i + 1, n) for i, n in enumerate(padded)) + block(5, data.tobytes())
    if style == "unpacked":
        dims = b"".join(number(1, n) for n in shape)
        return b"".join(b"\x2d" + struct.pack("<f", value) for value in data) + block(7, dims)
    dims = block(1, b"".join(varint(n) for n in shape))
    if style == "double":
        return block(7, dims) + block(8, values.astype("<f8").tobytes())
    if style == "split":  # protobuf allows a packed field in several pieces, among other fields
        half = len(data) // 2
        return block(5, data[:half].tobytes()) + block(7, dims) + block(5, data[half:].tobytes())
    return block(7, dims) + block(5, data.tobytes()) + block(6, data.tobytes())  # the gradients as well


def layer(name: str, kind: str, blobs: Iterable[bytes], v1: bool) -> bytes:
    joined = b"".join(block(6 if v1 else 7, content) for content in blobs)
    if v1:
        top = block(2, b"below") + block(3, name.encode()) + block(4, name.encode()) + number(5, V1_TYPES[kind])
        return block(2, top + joined)
    top = block(1, name.encode()) + block(2, kind.encode()) + block(3, b"below") + block(4, name.encode())
    return block(100, top + number(10, 1) + joined)


def layer_names(net: str) -> list[str]:
    """Oxford's names: conv1_1 .. conv5_4, fc6, fc7, fc8."""
    names, stage, index = [], 1, 1
    for part in NETS[net].layers:
        if isinstance(part, Conv):
            names.append(f"conv{stage}_{index}")
            index += 1
        elif part == "M":
            stage, index = stage + 1, 1
    return [*names, "fc6", "fc7", "fc8"]


def caffemodel(
    net: str,
    layers: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    v1: bool = True,
    style: str = "legacy",
    fc_as_conv: bool = False,
) -> bytes:
    """The file for (weight, bias) of each layer: (out, in, k, k) of convolutions, (out, in) of inner products."""
    out = [block(1, b"VGG_ILSVRC"), layer("data", "Data", [], v1)]
    for position, (name, (weight, bias)) in enumerate(zip(layer_names(net), layers, strict=True)):
        kind, shape = "Convolution", list(weight.shape)
        if weight.ndim == 2:
            side = 7 if name == "fc6" else 1
            if fc_as_conv:
                shape = [len(weight), weight.shape[1] // side**2, side, side]
            else:
                kind = "InnerProduct"
        out.append(layer(name, kind, [blob(weight, shape, style), blob(bias, [len(bias)], style)], v1))
        out.append(layer(f"relu{position}", "ReLU", [], v1))
    return b"".join(out)


def prototxt(net: str, layers: Sequence[tuple[np.ndarray, np.ndarray]], fc_as_conv: bool = False) -> bytes:
    """The same net for OpenCV's importer, its input called data and its ends fc7 (after the ReLU) and prob."""
    out = ['name: "vgg" input: "data" input_dim: 1 input_dim: 3 input_dim: 224 input_dim: 224']
    below = "data"

    def add(name: str, kind: str, rest: str = "", top: str | None = None) -> None:
        nonlocal below
        out.append(f'layer {{ name: "{name}" type: "{kind}" bottom: "{below}" top: "{top or name}" {rest} }}')
        below = top or name

    names, widths = iter(layer_names(net)), iter(len(bias) for _, bias in layers)
    pools = 0
    for part in NETS[net].layers:
        if isinstance(part, Conv):
            name = next(names)
            rest = f"num_output: {next(widths)} kernel_size: {part.kernel} pad: {part.kernel // 2}"
            add(name, "Convolution", f"convolution_param {{ {rest} }}")
            add(f"relu_{name}", "ReLU", top=name)
        else:
            pools += 1
            add(f"pool{pools}", "Pooling", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }")
    for name in names:
        if fc_as_conv:
            kernel = 7 if name == "fc6" else 1
            add(name, "Convolution", f"convolution_param {{ num_output: {next(widths)} kernel_size: {kernel} }}")
        else:
            add(name, "InnerProduct", f"inner_product_param {{ num_output: {next(widths)} }}")
        if name != "fc8":
            add(f"relu_{name}", "ReLU", top=f"{name}_relu")
    add("prob", "Softmax")
    return "\n".join(out).encode()
