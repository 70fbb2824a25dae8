"""Reads safetensors files: eight bytes of length, a JSON header, then the tensors' bytes.

https://github.com/huggingface/safetensors#format. The header is so plain that reading it takes less than a dependency.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vggfeat.errors import WeightsError
from vggfeat.system.numbers import number_of

MAX_HEADER = 100 << 20
"""The format's own limit."""

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def looks_like_safetensors(start: bytes) -> bool:
    """Whether the first 9 bytes of a file are a header's length and its opening brace."""
    return len(start) >= 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_HEADER


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors by name. Raises WeightsError for a damaged file and for numbers that are not floating-point."""
    data = np.memmap(path, np.uint8, mode="r")
    length = int.from_bytes(data[:8].tobytes(), "little")
    try:
        if length > len(data) - 8:
            raise ValueError(f"its header of {number_of(length, 'byte')} runs past its end")
        header = json.loads(data[8 : 8 + length].tobytes())
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        body = data[8 + length :]
        return {name: _tensor(name, row, body) for name, row in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else error
        raise WeightsError(f"{path}: no readable safetensors file, damaged or cut short ({reason})") from error


def _tensor(name: str, row: Any, body: np.ndarray[Any, Any]) -> Tensor:
    """A tensor, copied out of the file. Raises ValueError, KeyError or TypeError for a row that makes no sense."""
    if row["dtype"] not in _DTYPES:
        raise ValueError(f"{name} holds {row['dtype']}, no floating-point numbers")
    dtype, shape, (start, end) = _DTYPES[row["dtype"]], row["shape"], row["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
        raise ValueError(f"{name} has sizes that are not natural numbers")
    if not start <= end <= len(body) or math.prod(shape) * dtype.itemsize != end - start:
        raise ValueError(f"{name} of shape {tuple(shape)} lies at bytes {start} to {end} of {len(body)}")
    values = torch.from_numpy(body[start:end].copy())
    return (values.view(dtype) if len(values) else values.to(dtype)).reshape(shape)
