"""Any of Pillow's modes -> RGB, as most viewers show it."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageChops

from vggfeat.datasets import png
from vggfeat.errors import ImageError


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any Pillow mode -> RGB, as a viewer would show it."""
    mode = picture.mode
    if mode == "RGB" and "transparency" not in picture.info:
        return picture
    if mode.startswith("I"):
        return from_deep(picture, 65535)
    if mode == "F":
        raise ImageError("32-bit float pixels, whose range is unknown: convert it to 8 bits a channel")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        opaque = Image.new("RGBA", picture.size, "white")
        opaque.alpha_composite(picture.convert("RGBA"))
        return opaque.convert("RGB")
    if mode == "CMYK" and picture.format == "JPEG" and "adobe" not in picture.info:
        # Pillow takes every CMYK JPEG for Adobe's, whose values are inverted; without its marker they are not.
        picture = ImageChops.invert(picture)
    return picture.convert("RGB")


def from_deep(picture: Image.Image, most: int, inverted: bool = False) -> Image.Image:
    """Grey values 0 to `most` -> 0 to 255, rounded (Pillow itself would clip them at 255)."""
    values = np.asarray(picture).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > most):
        raise ImageError(f"32-bit integer pixels beyond {most}: convert it to 8 or 16 bits a channel")
    values = most - values if inverted else values
    return Image.fromarray(((values * 255 + most // 2) // most).astype(np.uint8)).convert("RGB")


def without_one_colour(picture: Image.Image, rawmode: str, stream: BinaryIO) -> Image.Image:
    """A grey or RGB PNG picture, the colour that its tRNS chunk makes transparent being white.

    The colour is compared at the file's own depth, which Pillow has changed: 2 bits become 8, 16 bits a channel the
    high 8, of which many colours have the same.
    """
    depth = {"1": 1, "L;2": 2, "L;4": 4, "I;16B": 16, "RGB;16B": 16}.get(rawmode, 8)
    samples = np.asarray(picture).astype(np.uint16)  # (H, W) or (H, W, 3)
    if depth in (2, 4):
        samples //= 255 // ((1 << depth) - 1)
    if rawmode == "RGB;16B":
        stream.seek(0)
        low = Image.open(stream, formats=("PNG",))
        # Of each pair of bytes the other one. A tile is a named tuple since Pillow 11.
        tile: Any = low.tile[0]
        swapped: Any = tile._replace(args="RGB;16L") if hasattr(tile, "_replace") else (*tile[:3], "RGB;16L")
        low.tile = [swapped]
        low.load()
        samples = samples << 8 | np.asarray(low)
    transparent = picture.info["transparency"]
    wanted = transparent if isinstance(transparent, tuple) else (transparent,)
    colour = np.array([png.transparent_sample(value, depth) for value in wanted], dtype=np.uint16)
    mask = (samples.reshape(*samples.shape[:2], -1) == colour).all(axis=-1)
    opaque = picture.copy()
    del opaque.info["transparency"]
    pixels = np.array(to_rgb(opaque))
    pixels[mask] = 255
    return Image.fromarray(pixels)


def on_white(picture: Image.Image, extents: tuple[int, int, int, int]) -> Image.Image:
    """A GIF picture, white outside of its first frame: that part of the canvas is transparent, as in browsers."""
    if extents == (0, 0, *picture.size):
        return picture
    canvas = Image.new("RGB", picture.size, "white")
    canvas.paste(picture.crop(extents), extents[:2])
    return canvas
