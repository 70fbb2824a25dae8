"""Reads NumPy's files of weights by name: frossard's vgg16_weights.npz, TF-slim's names, and vgg16.npy's dictionary."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from vggfeat.errors import WeightsError
from vggfeat.nets.checkpoints import first_line
from vggfeat.nets.contents import Contents, Layer
from vggfeat.nets.formats.limits import MAX_DEFLATE
from vggfeat.system.numbers import number_of

Array = np.ndarray[Any, Any]

MAX_MEMO = 100_000
"""Entries of a pickle's memo; vgg19.npy has about 200."""

_NAME = re.compile(r"(?:.*/)?(conv\d_\d|fc[678])(?:_|/)(W|b|weights|biases|kernel|bias)(?::0)?")
_IGNORED = re.compile(r"(?:.*/)?(?:global_step|mean_rgb)(?::0)?")
"""What TF-slim's checkpoints hold besides."""


def read_npz(path: Path) -> Contents:
    """The layers of an .npz file with arrays `conv1_1_W`, `conv1_1_b`, .. or `vgg_16/conv1/conv1_1/weights`, ..

    Kernels are HWIO, matrices (in, out). Raises WeightsError for a damaged file and for other arrays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _contents(path, dict(_arrays(archive)))
    except WeightsError:
        raise
    except Exception as error:  # a damaged archive makes zipfile and numpy raise almost anything
        raise WeightsError(f"{path}: no readable .npz file, damaged or cut short ({first_line(error)})") from error


def read_npy(path: Path) -> Contents:
    """The layers of an .npy file with a pickled dictionary, name -> [weights, biases], as vgg16.npy has it.

    The pickle is read by an interpreter that builds plain arrays and containers and calls nothing else. Raises
    WeightsError for a damaged file and for a pickle that asks for more.
    """
    try:
        with path.open("rb") as stream:
            shape, dtype, _ = _header(stream)
            if dtype != np.dtype(object) or shape not in ((), (1,)):
                raise WeightsError(f"{path}: one array of {dtype} and shape {shape}, no weights of a net")
            _check_memo(stream)
            held = _Plain(stream, encoding="latin1").load()
    except WeightsError:
        raise
    except _ForbiddenError as error:
        raise WeightsError(f"{path}: not read, because {error}") from error
    except Exception as error:  # pickle raises almost anything on damaged data
        raise WeightsError(f"{path}: no readable .npy file, damaged or cut short ({first_line(error)})") from error
    held = held.item() if isinstance(held, _Array) else held
    if not isinstance(held, Mapping):
        raise WeightsError(f"{path}: holds a {type(held).__name__}, no dictionary of layers")
    flat: dict[str, Array] = {}
    for name, pair in held.items():
        pair = _by_key(pair) if isinstance(pair, Mapping) else pair
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(one, _Array) for one in pair)):
            raise WeightsError(f"{path}: {str(name)[:50]!r} is not a pair of weights and biases")
        weight, bias = (one.values for one in pair)
        if weight is None or bias is None:
            raise WeightsError(f"{path}: {str(name)[:50]!r} holds no floating-point numbers")
        flat[f"{name}_W"], flat[f"{name}_b"] = weight, bias
    return _contents(path, flat)


def _contents(path: Path, arrays: Mapping[str, Array]) -> Contents:
    parts: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        match = _NAME.fullmatch(name)
        if match is None:
            if _IGNORED.fullmatch(name):
                continue
            raise WeightsError(f"{path}: {name[:50]!r} is not a layer of a VGG net (conv1_1_W, .., fc8_b)")
        if array.dtype.kind != "f":
            raise WeightsError(f"{path}: {name} holds {array.dtype}, no floating-point numbers")
        parts.setdefault(match[1], {})["weight" if match[2] in ("W", "weights", "kernel") else "bias"] = array
    layers: list[Layer] = []
    for name in sorted(parts, key=lambda name: (name.startswith("fc"), name)):
        if len(parts[name]) != 2:
            raise WeightsError(f"{path}: {name} has a {next(iter(parts[name]))} alone; every layer has two arrays")
        weight, bias = (torch.from_numpy(np.array(parts[name][key], np.float32)) for key in ("weight", "bias"))
        layers.append(Layer.from_hwio(name, weight, bias, layers))
    return Contents(layers)


def _by_key(pair: Mapping[Any, Any]) -> list[Any]:
    """[weights, biases] of a layer's dictionary, whichever it has first."""
    return [pair[key] for key in sorted(pair, key=lambda key: str(key).startswith("b"))]


# An .npz file.


def _arrays(archive: zipfile.ZipFile) -> Iterator[tuple[str, Array]]:
    for entry in archive.infolist():
        if entry.file_size > MAX_DEFLATE * entry.compress_size + 1024:
            raise ValueError(f"{entry.filename} claims {entry.file_size} bytes, more than it can have")
        with archive.open(entry) as stream:
            yield entry.filename.removesuffix(".npy"), _array(io.BytesIO(stream.read()))


def _array(stream: io.BytesIO) -> Array:
    shape, dtype, fortran = _header(stream)
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    data = stream.read()
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} has {number_of(len(data), 'byte')}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape, type and whether the order is Fortran's, from NumPy's header."""
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"a header of version {version}")
    shape, fortran, dtype = read(stream)
    return shape, dtype, fortran


# A pickle of arrays, without pickle's power: no global of any module is ever reached.


def _check_memo(stream: BinaryIO) -> None:
    """Raises ValueError for a place in the pickle's memo that would make the reader allocate all memory."""
    start = stream.tell()
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name.endswith(("PUT", "GET")) and int(argument or 0) > MAX_MEMO:
            raise ValueError(f"a memo of {argument} entries")
    stream.seek(start)


class _ForbiddenError(Exception):
    """The pickle asks for more than arrays and plain containers."""


class _DType:
    """Stands for numpy.dtype: keeps the name alone."""

    def __init__(self, name: object) -> None:
        self.name = name
        self.order = "<"

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]


class _Array:
    """Stands for numpy.ndarray: floating-point values, or the one object of a 0-dimensional array of objects."""

    def __init__(self) -> None:
        self.values: Array | None = None
        self.held: object = None

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], _DType)):
            raise ValueError("an array without its parts")
        _, shape, dtype, fortran, data = state
        if isinstance(data, list):
            self.held = data[0] if len(data) == 1 else None
            return
        if dtype.name not in ("f2", "f4", "f8"):
            return
        data = data.encode("latin1") if isinstance(data, str) else data
        kind = np.dtype(f"{'>' if dtype.order == '>' else '<'}{dtype.name}")
        if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) * kind.itemsize != len(data):
            raise ValueError(f"an array of shape {shape} has {number_of(len(data), 'byte')}")
        self.values = np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")

    def item(self) -> object:
        """The object of an array of one."""
        return self.held


class _Function:
    """A callable that no pickle can change."""

    def __init__(self, name: tuple[str, str]) -> None:
        self.name = name

    def __call__(self, *args: object) -> object:
        return _ALLOWED[self.name](*args)

    def __setstate__(self, _: object) -> None:
        raise _ForbiddenError("its pickle changes a function")


def _latin1(text: object, encoding: object) -> bytes:
    """Bytes, as Python 3 writes them for Python 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes of another encoding")
    return text.encode("latin1")


def _from_buffer(data: object, dtype: object, shape: object, order: object) -> _Array:
    """An array, as protocol 5 pickles it."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", bytes(data) if isinstance(data, bytearray) else data))
    return array


_ALLOWED: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): lambda *_: _Array(),
    ("numpy", "dtype"): lambda name, *_: _DType(name.decode("latin1") if isinstance(name, bytes) else name),
    ("_codecs", "encode"): _latin1,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    **{(module, "_reconstruct"): lambda *_: _Array() for module in ("numpy.core.multiarray", "numpy._core.multiarray")},
}


class _Plain(pickle.Unpickler):
    """Knows a few names, which stand for functions of this module."""

    def find_class(self, module: str, name: str) -> Any:
        """One of the known functions. Raises _ForbiddenError for any other name."""
        if (module, name) not in _ALLOWED:
            raise _ForbiddenError(
                f"its pickle asks for {module}.{name} and so could run code; save the arrays by name with numpy.savez"
            )
        return _Function((module, name))

    def persistent_load(self, _: object) -> Any:
        """Raises _ForbiddenError: such a pickle leads outside of the file."""
        raise _ForbiddenError("its pickle refers to something outside of the file")
