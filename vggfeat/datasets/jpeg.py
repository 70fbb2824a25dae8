"""JPEG's markers: whether a file that ends too early has all of its pixels. Knows bytes alone, no Pillow."""

from __future__ import annotations

from collections.abc import Iterator

START, END = b"\xff\xd8", b"\xff\xd9"

_SCAN = 0xDA
_BASELINE, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_BARE = (*range(0xD0, 0xD9), 0x01)
"""Markers without a length: restarts, start, and TEM."""

FOLLOWERS = (b"\x00" * 64, b"\x55" * 64, b"\xaa" * 64, b"\x33\x0f" * 32)
"""Bits that might follow. Pixels that are the same with each of them depend on nothing that is missing."""


def lacks_its_end_alone(data: bytes) -> bool:
    """Whether every scan that the pixels need has begun, and no end mark follows: only the last scan may be cut off."""
    frame: dict[int, list[bool]] = {}
    """Component -> whether each of its 64 coefficients has come in full precision."""
    progressive = False
    for marker, content in _segments(data):
        if marker == 0xD9:
            return False
        if marker in (*_BASELINE, _PROGRESSIVE) and len(content) >= 6:
            progressive = marker == _PROGRESSIVE
            frame = {content[at]: [False] * 64 for at in range(6, len(content) - 2, 3)}
        if marker == _SCAN and content:
            number = content[0]
            if len(content) < 4 + 2 * number:
                return False
            first, last, precision = content[1 + 2 * number : 4 + 2 * number]
            for component in content[1 : 1 + 2 * number : 2]:
                if component not in frame or last > 63:
                    return False
                if not progressive:
                    frame[component] = [True] * 64
                elif precision & 15 == 0:
                    frame[component][first : last + 1] = [True] * (last + 1 - first)
    return bool(frame) and all(all(done) for done in frame.values())


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of each segment; of a scan its header, the coded data behind it being passed over."""
    at = 2
    while at + 1 < len(data):
        if data[at] != 0xFF:
            at = data.find(b"\xff", at)
            if at < 0:
                return
            continue
        marker = data[at + 1]
        if marker in (0x00, 0xFF) or marker in _BARE:  # stuffed bytes and restarts inside of a scan
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            yield marker, b""
            return
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, data[at + 4 : at + 2 + length]
        at += 2 + max(length, 2)
