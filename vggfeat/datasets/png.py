"""PNG's chunks: good pixels kept from bad metadata, and which colour is transparent. Knows bytes alone, no Pillow."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_KEPT = (*_PIXELS, b"tRNS", b"eXIf")


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """(name, content, whether its checksum is right) of each chunk, up to IEND or the end of the file."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        checksum = data[at + 8 + length : at + 12 + length]
        yield name, content, checksum == struct.pack(">I", zlib.crc32(name + content))
        if name == b"IEND":
            return
        at += 12 + length


def without_metadata(data: bytes) -> bytes:
    """The same pixels without the chunks that do not make them: text, profiles, and any with a wrong checksum.

    As browsers and libpng do, a wrong checksum costs an ancillary chunk but spoils a critical one, which stays.
    Returns b"" where nothing would change.
    """
    out = bytearray(SIGNATURE)
    for name, content, right in chunks(data):
        if name in _PIXELS and not right:
            return b""
        if name in _KEPT and right:
            out += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return bytes(out) if len(out) < len(data) else b""


def transparent_sample(value: int, depth: int) -> int:
    """tRNS's grey value or channel as a sample of that depth: of its 16 bits only as many count."""
    return value & ((1 << depth) - 1)
