"""3x3 convolutions by NNPACK, which torch contains: Winograd's F(6x6, 3x3), with filters that are transformed once.

A tile of 6x6 outputs takes 64 multiplications per pair of channels where the direct sum takes 324 (Lavin and Gray,
"Fast algorithms for convolutional neural networks", 2016). torch's own operator transforms the filters at every call,
which takes up to two thirds of its time; NNPACK's function (nnpack.h, which torch ships) also takes filters that were
transformed before, and applies the ReLU while it writes.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, byref, c_int, c_size_t, c_void_p
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_BYTES = 64 << 20
"""Working memory for one strip of rows. From 32 MB up the time hardly changed, but with more than 64 MB the heap gave
memory back to the system between pictures."""

TILE = 6
"""Outputs along a side of a tile."""

PRODUCTS = 64
"""Values of a tile and channel after its transform."""

# nnpack.h's enumerators.
_WINOGRAD = 3  # nnp_convolution_algorithm_wt8x8
_PRECOMPUTE, _REUSE = 2, 3  # nnp_convolution_transform_strategy
_IDENTITY, _RELU = 0, 1  # nnp_activation


class _Size(ctypes.Structure):
    """nnpack.h's nnp_size."""

    _fields_ = [("width", c_size_t), ("height", c_size_t)]


class _Padding(ctypes.Structure):
    """nnpack.h's nnp_padding."""

    _fields_ = [("top", c_size_t), ("right", c_size_t), ("bottom", c_size_t), ("left", c_size_t)]


@cache
def _library() -> ctypes.CDLL | None:
    """torch's library with NNPACK initialised; None where torch lacks NNPACK or the processor does not suit it."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        run, make_pool = library.nnp_convolution_inference, library.pthreadpool_create
        if library.nnp_initialize() != 0:
            return None
    except (OSError, AttributeError):
        return None
    shape = [c_size_t, c_size_t, _Size, _Padding, _Size, _Size]
    run.argtypes = [c_int, c_int, *shape, *[c_void_p] * 5, POINTER(c_size_t), c_int, *[c_void_p] * 3]
    make_pool.argtypes, make_pool.restype = [c_size_t], c_void_p
    return library


@cache
def is_available() -> bool:
    """Whether torch has NNPACK, it runs on this processor, and a small convolution comes out right."""
    if _library() is None:
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        torch.rand(shape, generator=generator, dtype=torch.float32) - 0.5 for shape in ((1, 3, 5, 9), (4, 3, 3, 3))
    )
    bias = torch.arange(4.0, dtype=torch.float32)
    try:
        found = convolve(x, transformed_filters(weight), bias, rectify=True)
    except RuntimeError:  # another NNPACK, which lacks what is asked of it
        return False
    return torch.allclose(found, F.relu(F.conv2d(x, weight, bias, padding=1)), atol=1e-4)


def transformed_filters(weight: Tensor) -> Tensor:
    """(K, C, 3, 3) float32 -> NNPACK's own form of them in bytes, about seven times as large."""
    weight = weight.detach().to(torch.float32).contiguous()
    out_channels, channels = weight.shape[:2]
    shape = _Shape(channels, out_channels, height=1, width=1)  # of any size: the form does not depend on it
    return _run(shape, _Padding(1, 1, 1, 1), None, weight, weight.new_zeros(out_channels), None, _PRECOMPUTE)


def convolve(
    x: Tensor, filters: Tensor, bias: Tensor, *, rectify: bool = False, most_bytes: int = MOST_BYTES
) -> Tensor:
    """A 3x3 convolution of stride 1 with a padding of 1.

    Args:
        x: (N, C, H, W) float32.
        filters: from `transformed_filters`, for C channels and K outputs.
        bias: (K,).
        rectify: apply a ReLU, which keeps NaN.
        most_bytes: working memory at a time, at most; but one row of tiles in any case.

    Returns:
        (N, K, H, W), contiguous. Each picture's values are the same bits whatever its batch.

    Raises ValueError for what NNPACK would read wrongly, in silence, by its address.
    """
    x, bias = x.detach().contiguous(), bias.detach().contiguous()
    if not x.dtype == bias.dtype == torch.float32 or len(filters) != 4 * PRODUCTS * x.shape[1] * len(bias):
        raise ValueError("pictures and biases must be float32, and the filters made for as many channels")
    out = x.new_empty(len(x), len(bias), *x.shape[2:])
    for picture, result in zip(x, out, strict=True):
        _convolve_one(picture, filters, bias, result, _RELU if rectify else _IDENTITY, most_bytes)
    return out


def _convolve_one(x: Tensor, filters: Tensor, bias: Tensor, out: Tensor, activation: int, most_bytes: int) -> None:
    """Writes the convolution of x (C, H, W) to out (K, H, W), in strips of rows."""
    height, width = x.shape[1:]
    bytes_of_row = 4 * PRODUCTS * (len(x) + len(out)) * -(-width // TILE)
    rows = TILE * max(1, most_bytes // bytes_of_row)
    if rows >= height:
        _strip(x, filters, bias, out, _Padding(1, 1, 1, 1), activation)
        return
    # numpy copies on this thread; torch's others would then wait, awake, on the cores that NNPACK's threads need.
    values, found = x.numpy(), out.numpy()
    for first in range(0, height, rows):
        last = min(height, first + rows)
        above, below = int(first > 0), int(last < height)  # rows beyond the strip that it sees
        part = torch.from_numpy(values[:, first - above : last + below].copy())
        strip = out.new_empty(len(out), last - first, width)
        _strip(part, filters, bias, strip, _Padding(1 - above, 1, 1 - below, 1), activation)
        found[:, first:last] = strip.numpy()


def _strip(x: Tensor, filters: Tensor, bias: Tensor, out: Tensor, padding: _Padding, activation: int) -> None:
    height, width = x.shape[1:]
    _run(_Shape(len(x), len(out), height, width), padding, x, filters, bias, out, _REUSE, activation)


class _Shape(NamedTuple):
    """Of one call: the channels of its input and output, and its input's rows and columns."""

    channels: int
    out_channels: int
    height: int
    width: int


def _run(
    shape: _Shape,
    padding: _Padding,
    x: Tensor | None,
    filters: Tensor,
    bias: Tensor,
    out: Tensor | None,
    strategy: int,
    activation: int = _IDENTITY,
) -> Tensor:
    """nnp_convolution_inference: writes to out and returns its working memory.

    With _PRECOMPUTE there is no x and no out, and what it returns is its own form of the filters. All tensors are on
    the CPU, contiguous, and float32 but for filters in that form.
    """
    library = _library()
    assert library is not None
    sizes = shape.channels, shape.out_channels, _Size(shape.width, shape.height), padding, _Size(3, 3), _Size(1, 1)
    tensors = [None if one is None else one.data_ptr() for one in (x, filters, bias, out)]
    pool = _pool(os.getpid(), torch.get_num_threads())
    needed = c_size_t(0)

    def call(working: int | None) -> None:
        """Without working memory it only says how much it needs."""
        status = library.nnp_convolution_inference(
            _WINOGRAD, strategy, *sizes, *tensors, working, byref(needed), activation, None, pool, None
        )
        if status != 0:
            raise RuntimeError(f"NNPACK's convolution failed with status {status} (nnpack.h, nnp_status)")

    call(None)
    working = torch.empty(needed.value, dtype=torch.uint8)
    call(working.data_ptr())
    return working


@cache
def _pool(process: int, threads: int) -> int | None:
    """NNPACK's threads, of this process alone: a fork does not copy them. None: the calling thread."""
    library = _library()
    assert library is not None
    return None if threads == 1 else library.pthreadpool_create(threads)
