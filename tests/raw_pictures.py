"""TIFF and PNG files written from raw bytes, with every sample format: no library decides what is right."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def packed(samples: NDArray[np.integer], bits: int, order: str = "<") -> bytes:
    """Rows (H, n) of unsigned samples of so many bits, each row padded to a whole byte, high bits first."""
    if bits in (8, 16, 32):
        return samples.astype(f"{order}u{bits // 8}").tobytes()
    planes = (samples[..., None] >> np.arange(bits - 1, -1, -1)) & 1  # (H, n, bits)
    return np.packbits(planes.reshape(len(samples), -1).astype(np.uint8), axis=1).tobytes()


def tiff(
    width: int,
    height: int,
    data: bytes,
    *,
    photometric: int,
    bits: Sequence[int],
    order: str = "<",
    deflate: bool = False,
    tags: Mapping[int, tuple[str, Sequence[int]]] | None = None,
) -> bytes:
    """A one-strip TIFF file; `tags` adds or replaces tags as (struct letter, values)."""
    content = zlib.compress(data) if deflate else data
    entries: dict[int, tuple[str, Sequence[int]]] = {
        256: ("H", [width]),
        257: ("H", [height]),
        258: ("H", bits),
        259: ("H", [8 if deflate else 1]),
        262: ("H", [photometric]),
        273: ("I", [8]),
        277: ("H", [len(bits)]),
        278: ("H", [height]),
        279: ("I", [len(content)]),
        **(tags or {}),
    }
    content += bytes(len(content) % 2)
    start = 8 + len(content)
    behind = start + 2 + 12 * len(entries) + 4
    table, values = b"", b""
    for tag, (letter, numbers) in sorted(entries.items()):
        field = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        kind = {"B": 1, "H": 3, "I": 4}[letter]
        if len(field) <= 4:
            inline = field.ljust(4, b"\0")
        else:
            inline = struct.pack(order + "I", behind + len(values))
            values += field + bytes(len(field) % 2)
        table += struct.pack(order + "HHI", tag, kind, len(numbers)) + inline
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return head + content + struct.pack(order + "H", len(entries)) + table + bytes(4) + values


def chunk(name: bytes, content: bytes, checksum: int | None = None) -> bytes:
    """A PNG chunk; a wrong checksum on request."""
    right = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", right if checksum is None else checksum)


def png(
    samples: NDArray[np.integer],
    depth: int,
    *,
    palette: bytes = b"",
    before: bytes = b"",
    alpha: bool = False,
    filtering: int = 0,
) -> bytes:
    """A PNG file of (H, W) or (H, W, C) samples; `before` are chunks in front of the pixels.

    `filtering`: 0, or 2, which stores each row as its difference from the one above.
    """
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    colour = 3 if palette else {(1, False): 0, (3, False): 2, (2, True): 4, (4, True): 6}[channels, alpha]
    rows = packed(samples.reshape(height, -1), depth, ">")
    lines = np.frombuffer(rows, np.uint8).reshape(height, -1)
    if filtering:
        lines = np.concatenate([lines[:1], lines[1:] - lines[:-1]])
    raw = b"".join(bytes([filtering]) + line.tobytes() for line in lines)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"PLTE", palette) if palette else b"", before]
    parts += [chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
