"""Reads variables out of MATLAB's files of format 5 ("MAT-File Format", MathWorks), every length checked first.

SciPy's reader, which is compiled, crashes on 1 in 50 damaged files; this one needs a page for the parts that MatConvNet
uses: numbers, text, cells and structures, plain or compressed.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vggfeat.nets.catalog import NETS
from vggfeat.system.numbers import number_of

_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _TEXT = 1, 2, 4
_NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
    16: "u1",
    17: "u2",
}
"""NumPy's names of the types in which values are stored; 16 and 17 are UTF-8 and UTF-16."""

MAX_DEPTH = 16
_PEEK = 256
"""Bytes of a compressed variable that hold its name."""
_DEFLATE_RATIO = 1032
"""Most bytes that deflate makes of one."""
MAX_INFLATED = 9 * NETS["E"].parameters()
"""Bytes of a compressed variable: the deepest net in float64, and an eighth more for all else."""


def read_mat5(path: Path, wanted: Collection[str]) -> dict[str, Any]:
    """The wanted variables: numbers as arrays, text as str, cells as lists, structures as lists of dicts.

    Raises ValueError, or zlib.error, for a damaged file.
    """
    data = memoryview(path.read_bytes())
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data[126:128]))
    if order is None:
        raise ValueError("no header of 128 bytes")
    return dict(_File(order).variables(data[128:], wanted))


class _File:
    """The byte order, and what is read with it."""

    def __init__(self, order: str) -> None:
        self.order = order

    def variables(self, data: memoryview, wanted: Collection[str]) -> Iterator[tuple[str, Any]]:
        """(name, value) of each wanted variable."""
        for kind, content in self.elements(data):
            if kind == _COMPRESSED:
                start = zlib.decompressobj().decompress(content, _PEEK)
                if (name := self.name(memoryview(start)[8:])) in wanted:
                    yield name, self.value(self.inflated(content), 0)
            elif kind == _MATRIX and (name := self.name(content)) in wanted:
                yield name, self.value(content, 0)

    def inflated(self, content: memoryview) -> memoryview:
        """The one matrix in a compressed element. Raises ValueError for other content, and before more is inflated."""
        stream = zlib.decompressobj()
        kind, size = (int(n) for n in np.frombuffer(stream.decompress(content, 8), f"{self.order}u4", 2))
        if kind != _MATRIX:
            raise ValueError(f"a compressed element that holds an element of type {kind}, not a matrix")
        if size > min(_DEFLATE_RATIO * len(content), MAX_INFLATED):
            raise ValueError(f"a compressed matrix that claims {size} bytes, more than it can have")
        matrix = stream.decompress(stream.unconsumed_tail, size + 8)  # up to 7 bytes pad it
        if not stream.eof or len(matrix) < size:
            raise ValueError(f"a compressed matrix that has not the {size} bytes that it claims")
        return memoryview(matrix)[:size]

    def elements(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """(type, content) of each element, one after the other."""
        place = 0
        while place < len(data):
            if place + 8 > len(data):
                raise ValueError("an element without its size")
            kind, size = (int(n) for n in np.frombuffer(data[place : place + 8], f"{self.order}u4"))
            if kind >> 16:  # up to four bytes, in the tag itself
                kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
                following = place + 8
                if size > 4:
                    raise ValueError(f"a small element of {size} bytes")
            else:
                start = place + 8
                following = start + size + (-size % 8 if kind != _COMPRESSED else 0)
            if start + size > len(data):
                raise ValueError("an element that runs past the end")
            yield kind, data[start : start + size]
            place = following

    def name(self, matrix: memoryview) -> str:
        """A variable's name, from as much of it as is there."""
        parts = self.elements(matrix)
        for _ in range(2):  # flags, sides
            next(parts, None)
        return bytes(next(parts, (0, memoryview(b"")))[1]).decode("latin1")

    def value(self, matrix: memoryview, depth: int) -> Any:
        """The value of a matrix element."""
        if not matrix:
            return np.zeros((0, 0))
        if depth > MAX_DEPTH:
            raise ValueError(f"values nested more than {MAX_DEPTH} deep")
        parts = self.elements(matrix)
        flags = self.numbers(*self.part(parts))
        sides = [int(side) for side in self.numbers(*self.part(parts))]
        self.part(parts)  # the name
        kind = int(flags[0]) & 0xFF if len(flags) else 0
        count = math.prod(sides)
        if any(side < 0 for side in sides) or count > len(matrix):  # every cell and every number has a byte at least
            raise ValueError(f"a matrix of shape {tuple(sides)} in {number_of(len(matrix), 'byte')}")
        if kind == _CELL:
            return [self.value(self.part(parts)[1], depth + 1) for _ in range(count)]
        if kind == _STRUCT:
            return self.structures(parts, count, depth)
        if kind == _TEXT:
            return "".join(map(chr, self.numbers(*self.part(parts)).tolist()))
        values = self.numbers(*self.part(parts))
        if len(values) != count:
            raise ValueError(f"a matrix of shape {tuple(sides)} has {number_of(len(values), 'value')}")
        return values.reshape(sides, order="F")

    def structures(self, parts: Iterator[tuple[int, memoryview]], count: int, depth: int) -> list[dict[str, Any]]:
        """The structures of an array, each a dict by field."""
        lengths = self.numbers(*self.part(parts))
        length = int(lengths[0]) if len(lengths) else 0
        text = bytes(self.part(parts)[1])
        if length <= 0:
            raise ValueError("a structure whose fields have no names")
        fields = [text[at : at + length].split(b"\0")[0].decode("latin1") for at in range(0, len(text), length)]
        return [{field: self.value(self.part(parts)[1], depth + 1) for field in fields} for _ in range(count)]

    def numbers(self, kind: int, content: memoryview) -> np.ndarray[Any, Any]:
        """The numbers of an element."""
        if kind not in _NUMBERS:
            raise ValueError(f"numbers of type {kind}")
        dtype = np.dtype(f"{self.order}{_NUMBERS[kind]}")
        return np.frombuffer(content[: len(content) // dtype.itemsize * dtype.itemsize], dtype)

    @staticmethod
    def part(parts: Iterator[tuple[int, memoryview]]) -> tuple[int, memoryview]:
        """The next element. Raises ValueError where there is no more."""
        found = next(parts, None)
        if found is None:
            raise ValueError("a matrix without its parts")
        return found
