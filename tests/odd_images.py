"""Broken and odd pictures, made here: what a large collection from the web holds besides photos."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

LIMIT = "more than 100 million pixels"
DAMAGED = "damaged image: "
"""How the reason of any damage begins."""


def photo(width: int = 60, height: int = 44, seed: int = 0) -> Image.Image:
    """A picture with structure in it."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def corpus() -> Iterator[tuple[str, bytes, str | None]]:
    """(file name, content, the reason why it fails, or its beginning; None where it is a picture)."""
    whole = encoded(photo())
    yield from _good()
    for end in range(0, len(whole) - 10, 10):
        yield f"cut-at-{end:04}.jpg", whole[:end], "empty file" if end == 0 else ""
    yield "zero-bytes.jpg", bytes(5000), "no image: only zero bytes"
    yield "page.jpg", b"<!DOCTYPE html><html><body>404 not found</body></html>", "no image: an HTML or XML page"
    yield "drawing.svg.jpg", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "no image: an HTML or"
    yield "text.jpg", b"hello\n" * 100, "no image of a known format"
    yield "program.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n", "no image of a known format"
    yield "thin.png", encoded(photo(1, 5000), "PNG"), "1x5000 becomes 224x1120000 at Q = 224: too large"
    yield "bomb.png", _with_png_size(encoded(photo(), "PNG"), 30000, 30000), LIMIT
    yield "bomb.jpg", _with_jpeg_size(whole, 30000, 30000), LIMIT
    yield "bomb.gif", _with_gif_size(encoded(photo(), "GIF"), 30000, 30000), LIMIT
    yield "wide.jpg", _with_jpeg_size(whole, 65000, 1), ""
    yield "text-bomb.png", _with_png_text(encoded(photo(), "PNG"), 100 << 20), None
    yield "float.tif", encoded(Image.fromarray(np.ones((40, 50), dtype=np.float32)), "TIFF"), "32-bit float pixels"


def _good() -> Iterator[tuple[str, bytes, None]]:
    """What must give a descriptor."""
    rgb = photo()
    alpha = rgb.copy()
    alpha.putalpha(128)
    deep = (np.asarray(rgb.convert("L")).astype(np.uint16) * 257).astype(np.uint16)
    frames = [photo(seed=seed) for seed in (0, 1, 2)]
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    cmyk = encoded(rgb.convert("CMYK"), quality=95)
    progressive = encoded(rgb, progressive=True)
    yield "plain.jpg", encoded(rgb), None
    yield "progressive.jpg", progressive, None
    yield "a-jpeg-in-truth.png", encoded(rgb), None
    yield "no-suffix", encoded(rgb, "PNG"), None
    yield "cmyk-inverted-by-adobe.jpg", cmyk, None
    yield "cmyk-plain.jpg", _without_adobe_marker(cmyk), None
    yield "grey.jpg", encoded(rgb.convert("L")), None
    yield "16-bit.png", encoded(Image.fromarray(deep), "PNG"), None
    yield "16-bit.tif", encoded(Image.fromarray(deep), "TIFF"), None
    yield "1-bit.png", encoded(rgb.convert("1"), "PNG"), None
    yield "palette.png", encoded(palette, "PNG"), None
    yield "palette-transparent.png", encoded(palette, "PNG", transparency=0), None
    yield "transparent.webp", encoded(alpha, "WEBP"), None
    yield "grey-alpha.png", encoded(alpha.convert("LA"), "PNG"), None
    yield "animated.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), None
    yield "animated.webp", encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]), None
    yield "animated.png", encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]), None
    yield "bitmap.bmp", encoded(rgb, "BMP"), None
    yield "one-pixel.png", encoded(photo(1, 1), "PNG"), None
    yield "long-but-fitting.png", encoded(photo(10, 150), "PNG"), None
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"exif-{orientation}.jpg", encoded(rgb, exif=exif, quality=95), None
    wild = Image.Exif()
    wild[0x0112] = 9999
    yield "exif-senseless.jpg", encoded(rgb, exif=wild), None
    yield "trailing-bytes.jpg", encoded(rgb) + b"\0" * 1000 + b"<html>", None


def _without_adobe_marker(jpeg: bytes) -> bytes:
    """Takes the APP14 segment out, so that the stored CMYK values are no longer said to be inverted."""
    at = jpeg.index(b"\xff\xee")
    return jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]


def _with_jpeg_size(jpeg: bytes, width: int, height: int) -> bytes:
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def _with_gif_size(gif: bytes, width: int, height: int) -> bytes:
    return gif[:6] + struct.pack("<HH", width, height) + gif[10:]


def _with_png_size(png: bytes, width: int, height: int) -> bytes:
    """The header chunk rewritten, its checksum right."""
    chunk = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def _with_png_text(png: bytes, size: int) -> bytes:
    """A compressed comment that swells to `size` bytes, before the pixels."""
    chunk = b"zTXtcomment\0\0" + zlib.compress(bytes(size), 9)
    length = struct.pack(">I", len(chunk) - 4)
    return png[:33] + length + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def fuzzed(count: int, seed: int = 0) -> Iterator[bytes]:
    """Damaged JPEGs: bytes changed, pieces cut out, doubled or exchanged, as disks, networks and attackers leave them."""
    rng = np.random.default_rng(seed)
    seeds = [
        encoded(photo(), quality=75),
        encoded(photo(97, 31), progressive=True),
        encoded(photo(33, 65), subsampling=0, quality=98),
        encoded(photo().convert("CMYK")),
        encoded(photo().convert("L"), restart_marker_blocks=2),
    ]
    for number in range(count):
        data = bytearray(seeds[number % len(seeds)])
        for _ in range(int(rng.integers(1, 6))):
            at = int(rng.integers(min(700, len(data)) if rng.random() < 0.5 else len(data)))
            match int(rng.integers(5)):
                case 0:
                    data[at] ^= 1 << int(rng.integers(8))
                case 1:
                    data[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
                case 2:
                    del data[at : at + int(rng.integers(1, 40))]
                case 3:
                    data[at:at] = data[at : at + int(rng.integers(1, 200))]
                case 4:
                    data[at : at + 2] = b"\xff" + bytes([int(rng.integers(0xC0, 0x100))])
            if len(data) < 4:
                break
        yield bytes(data)
