"""Pictures: decode, rescale, crop. The only file that opens them.

Everything a stranger's file can do wrong ends in one ImageError with a short reason, before much memory is taken.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageOps, UnidentifiedImageError

from vggfeat.errors import ImageError, ReadError
from vggfeat.nets.catalog import Filter

RGBImage = Image.Image
"""A loaded picture of Pillow's mode RGB."""

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""

# An explicit list: Pillow also has readers that start other programs (EPS) or that nobody has tested here.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF")

MAX_PIXELS = 100_000_000
"""Most pixels of a file: 300 MB decoded. A larger header is a mistake or a decompression bomb."""

MAX_RESCALED_PIXELS = 8_000_000
"""Most pixels after rescaling: VGG-D's first layers then take about 4 GB in fp32. A 1x5000 picture at Q = 256
would have 330 million; a panorama of 12:1 at Q = 768 still passes."""

# Pillow warns of sizes that are errors here, and of oddities beside the pixels. Once and for all, and for Pillow alone:
# filters are the whole process's, so that decoding threads which each set and restore them would lose others'.
warnings.filterwarnings("ignore", module=r"PIL\.")

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


Source = str | os.PathLike[str] | bytes | NDArray[Any] | Image.Image
"""A file's path or its bytes; or a picture in memory: Pillow's, or (H, W, 3) or (H, W) uint8 values."""


def decode(source: Source, *, exif: bool = False) -> Image.Image:
    """An image file (path), its bytes or a picture in memory -> a loaded RGB picture.

    Grey, palette, CMYK and 16-bit pictures are converted; transparency is laid on white; of an animation the first
    frame counts. `exif` honours the EXIF orientation.

    Raises ImageError with the reason: no image, truncated, too large; ReadError where its bytes cannot be had.
    """
    if not isinstance(source, str | os.PathLike | bytes):
        picture = _in_memory(source)
        return _to_rgb(ImageOps.exif_transpose(picture) if exif else picture)
    with _open(source) as stream:
        try:
            picture = Image.open(stream, formats=_FORMATS)
            _check_size(picture.size)
            # At full size: JPEG's own reduced decoding moves descriptors (cosine 0.972 at worst, Q = 256).
            picture.load()
            return _to_rgb(ImageOps.exif_transpose(picture) if exif else picture)
        except ImageError:
            raise
        except UnidentifiedImageError:
            raise ImageError(_not_an_image(stream)) from None
        except Image.DecompressionBombError:
            # Pillow's own limit, above ours, is checked while it reads the header.
            raise ImageError(_too_large()) from None
        except MemoryError:
            raise ImageError("not enough memory to decode it") from None
        except Exception as error:
            if isinstance(error, OSError) and error.errno:  # the system's word; Pillow's own OSErrors have no number
                raise ReadError((error.strerror or str(error)).lower()) from None
            # Pillow's decoders raise nearly anything on damaged data (OSError, SyntaxError, struct.error, ...);
            # for the run they all mean the same: this image has no pixels.
            raise ImageError(f"damaged image: {error or type(error).__name__}") from None


_WANTED = (
    "an image has (H, W, 3) or (H, W) uint8 values from 0 to 255; values from 0 to 1 become such by "
    "(255 * x).round().astype('uint8')"
)


def _in_memory(source: NDArray[Any] | Image.Image) -> Image.Image:
    """An array's values, or a Pillow picture that may still have to be loaded."""
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or not (source.ndim == 2 or source.shape[2:] == (3,)) or not source.size:
            raise ImageError(f"array of {source.dtype} {source.shape}: {_WANTED}")
        source = Image.fromarray(source)
    if not isinstance(source, Image.Image):
        advice = "tensor.permute(1, 2, 0).numpy() makes one" if hasattr(source, "permute") else "or a path"
        raise ImageError(f"{type(source).__name__} is no image: give a Pillow image or an array, {advice}; {_WANTED}")
    _check_size(source.size)
    try:
        source.load()
    except Exception as error:  # as in `decode`: Pillow's decoders raise nearly anything
        raise ImageError(f"damaged image: {error or type(error).__name__}") from None
    return source


def _open(source: str | os.PathLike[str] | bytes) -> BinaryIO:
    """A binary stream of a regular file (a FIFO would hang, a device never end) or of the bytes themselves."""
    if isinstance(source, bytes):
        return BytesIO(source)
    try:
        mode = Path(source).stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageError("is a folder")
        if not stat.S_ISREG(mode):
            raise ImageError("no regular file")
        return Path(source).open("rb")
    except OSError as error:
        raise ReadError((error.strerror or str(error)).lower()) from None
    except ValueError as error:  # an embedded NUL
        raise ImageError(str(error)) from None


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(_too_large(f"{width}x{height} pixels: "))


def _too_large(size: str = "") -> str:
    return f"{size}more than {MAX_PIXELS // 10**6} million pixels"


def _not_an_image(stream: BinaryIO) -> str:
    """Why Pillow knows no such format, from the first bytes."""
    stream.seek(0)
    head = stream.read(64)
    if not head:
        return "empty file"
    if not head.strip(b"\0"):
        return "no image: only zero bytes"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "no image: an HTML or XML page"
    return f"no image of a known format ({', '.join(_FORMATS)})"


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Any Pillow mode -> RGB, as a viewer would show it."""
    mode = picture.mode
    if mode == "RGB" and "transparency" not in picture.info:
        return picture
    if mode.startswith("I"):
        return _from_16_bit(picture)
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


def _from_16_bit(picture: Image.Image) -> Image.Image:
    """Grey values 0 to 65535 -> 0 to 255, rounded (Pillow itself would clip them at 255)."""
    values = np.asarray(picture).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ImageError("32-bit integer pixels beyond 65535: convert it to 8 or 16 bits a channel")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")


def crop(picture: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """The part inside a box (xmin, ymin, xmax, ymax; 0-based, half-open), cut at the picture's border.

    Raises ImageError where nothing is left.
    """
    left, top = max(0, round(box[0])), max(0, round(box[1]))
    right, bottom = min(picture.width, round(box[2])), min(picture.height, round(box[3]))
    if left >= right or top >= bottom:
        raise ImageError(f"box {tuple(box)} lies outside of the {picture.width}x{picture.height} picture")
    return picture.crop((left, top, right, bottom))


def rescaled_size(width: int, height: int, Q: int) -> tuple[int, int]:
    """(width, height) with the smallest side at Q pixels and the longer one at int(Q * long / short)."""
    short, long = min(width, height), max(width, height)
    longer = Q * long // short
    return (Q, longer) if width <= height else (longer, Q)


def rescale(picture: Image.Image, Q: int, filter: Filter = "bilinear") -> Picture:
    """Isotropic rescaling to smallest side Q (Sect. 3.2), antialiased -> (H, W, 3) RGB.

    Raises ImageError where the result would be too large (extreme shapes).
    """
    size = rescaled_size(picture.width, picture.height, Q)
    if size[0] * size[1] > MAX_RESCALED_PIXELS:
        raise ImageError(f"{picture.width}x{picture.height} becomes {size[0]}x{size[1]} at Q = {Q}: too large")
    resized = picture if picture.size == size else picture.resize(size, _FILTERS[filter])
    return np.asarray(resized)


def rescaled_crop(picture: Image.Image, Q: int, left: int, top: int, side: int, filter: Filter = "bilinear") -> Picture:
    """The square of `side` pixels at (left, top) of the picture rescaled to smallest side Q -> (side, side, 3) RGB.

    Equal to cutting it out of `rescale`'s result (to one grey level), but computes the pixels of the square alone.
    Raises ImageError as `rescale` does, and ValueError for a square that is not inside.
    """
    width, height = rescaled_size(picture.width, picture.height, Q)
    if not (0 <= left <= width - side and 0 <= top <= height - side):
        raise ValueError(f"no square of {side} at ({left}, {top}) in {width}x{height}")
    if width * height > MAX_RESCALED_PIXELS:
        raise ImageError(f"{picture.width}x{picture.height} becomes {width}x{height} at Q = {Q}: too large")
    x, y = picture.width / width, picture.height / height
    box = (left * x, top * y, (left + side) * x, (top + side) * y)
    return np.asarray(picture.resize((side, side), _FILTERS[filter], box=box))


def thumbnail(picture: RGBImage, side: int) -> bytes:
    """The whole picture, no larger than `side` pixels each way, as a JPEG's bytes."""
    small = picture.copy()
    small.thumbnail((side, side))
    stream = BytesIO()
    small.save(stream, "JPEG", quality=70, optimize=True)
    return stream.getvalue()


def write_outlined(
    path: str | os.PathLike[str],
    picture: RGBImage,
    outlines: Sequence[tuple[Sequence[float], str, str]],
    side: int = 480,
) -> None:
    """The picture with boxes drawn on it, each with a colour and a caption, as a JPEG; small pictures are enlarged.

    Boxes (xmin, ymin, xmax, ymax) are in the picture's own pixels; its smallest side becomes at least `side`.
    """
    factor = max(1.0, side / min(picture.size))
    canvas = picture.resize((round(picture.width * factor), round(picture.height * factor)), _FILTERS["bicubic"])
    draw = ImageDraw.Draw(canvas)
    for box, colour, caption in outlines:
        xmin, ymin, xmax, ymax = (value * factor for value in box)
        corners = (xmin, ymin, max(xmin, xmax - 1), max(ymin, ymax - 1))
        draw.rectangle(corners, outline=colour, width=3)
        place = (corners[0] + 5, corners[1] + 3)
        draw.rectangle(draw.textbbox(place, caption, font_size=16), fill="black")
        draw.text(place, caption, fill=colour, font_size=16)
    canvas.save(path, "JPEG", quality=90)


def write_png(path: str | os.PathLike[str], pixels: NDArray[np.uint8]) -> None:
    """(H, W) grey or (H, W, 3) RGB values -> a PNG file."""
    Image.fromarray(pixels).save(path, "PNG")


def write_jpeg(
    path: str | os.PathLike[str], pixels: NDArray[np.uint8], size: tuple[int, int], quality: int = 90
) -> None:
    """(H, W, 3) RGB values, resized to (width, height) -> a JPEG file."""
    Image.fromarray(pixels).resize(size, _FILTERS["bicubic"]).save(path, "JPEG", quality=quality)
