"""Pictures: decode, rescale, crop. The only file that opens them.

`png`, `tiff` and `jpeg` look at a file's bytes, `arrays` takes pictures in memory, `pixels` turns whatever Pillow gives
into RGB.

Any fault of an untrusted file ends in one ImageError with a short reason, before much memory is taken.
"""

from __future__ import annotations

import functools
import logging
import os
import stat
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from vggfeat.datasets import jpeg, png, tiff
from vggfeat.datasets.arrays import not_a_picture, picture_values
from vggfeat.datasets.pixels import from_deep, on_white, to_rgb, without_one_colour
from vggfeat.datasets.sample import MAX_MEGAPIXELS
from vggfeat.errors import ImageError, ReadError
from vggfeat.nets.catalog import Filter

log = logging.getLogger(__name__)

RGBImage = Image.Image
"""A loaded picture of Pillow's mode RGB."""

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""

# An explicit list: Pillow also has readers that start other programs (EPS) or that nobody has tested here.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF")

MAX_RESCALED_PIXELS = 8_000_000
"""Limit on pixels after rescaling: VGG-D's first layers then take about 4 GB in fp32. A 1x5000 picture at Q = 256
would have 330 million; a panorama of 12:1 at Q = 768 still passes."""

# Pillow warns of sizes that are errors here, and of oddities beside the pixels. Set once and for Pillow alone: filters
# belong to the whole process, so decoding threads that set and restore them would lose others' filters.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
# Last, so that a program that makes this one an error, as Pillow advises, keeps that.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)

CAPTION_SIZE = 16
"""Height of letters on drawn pictures, in pixels."""

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

_MOST_BYTES = 1 << 30
"""Limit on bytes read to mend a file; no picture within the pixel limit needs as many."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the stored picture upright."""

_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")

_OTHER_FORMATS = {
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"8BPS": "Photoshop",
    b"%PDF": "PDF",
    b"PK\x03\x04": "zip: unpack it, or give its images as a tar file",
    b"\x1f\x8b": "gzip: unpack it",
}
"""First bytes of files that are not read as pictures -> their format."""

Source = str | os.PathLike[str] | bytes | NDArray[Any] | Image.Image
"""A file's path or its bytes; or a picture in memory: Pillow's, or (H, W, 3), (H, W) or (H, W, 1) uint8 values."""


def decode(
    source: Source, *, exif: bool = False, max_megapixels: float = MAX_MEGAPIXELS, name: str = ""
) -> Image.Image:
    """An image file (path), its bytes or a picture in memory -> a loaded RGB picture.

    Grey, palette, CMYK and 16-bit pictures are converted; transparency becomes white; the first frame of an animation
    counts. What lies beside the pixels costs nothing: damaged text, profiles and EXIF are ignored, and a JPEG file
    that lacks its end mark alone is read with a warning. Where viewers differ, decoding follows the majority of
    browsers, OpenCV and ImageMagick.

    Args:
        source: the picture.
        exif: apply the EXIF orientation, or a TIFF file's; never XMP's, as in browsers and OpenCV.
        max_megapixels: most million pixels. Above the default, Pillow's own limit is raised for the whole process.
        name: what a warning calls it, where `source` is not a path.

    Raises ImageError with the reason: not an image, truncated, too large; ReadError if its bytes cannot be read.
    """
    if max_megapixels > MAX_MEGAPIXELS and Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, round(max_megapixels * 1e6))
    if not isinstance(source, str | os.PathLike | bytes):
        picture = _in_memory(source, max_megapixels)
        return _turned(to_rgb(picture), _orientation(picture) if exif else 1)
    with _open(source) as stream:
        try:
            return _decoded(stream, exif, max_megapixels)
        except Exception as error:
            failure = _failure(error, stream, max_megapixels)
        try:
            content = b"" if isinstance(failure, ReadError) else _mended(stream)
            picture = _decoded(BytesIO(content), exif, max_megapixels)
        except Exception:
            raise failure from None
        if content.endswith(jpeg.END):
            log.warning("%s: lacks its end mark; all of its pixels are there", name or _shown(source))
        return picture


def _decoded(stream: BinaryIO, exif: bool, limit: float) -> Image.Image:
    """A file's pixels; whatever Pillow raises for damaged data."""
    head = stream.read(16)
    stream.seek(0)
    if tiff.is_tiff(head) and (directory := tiff.read_directory(stream)) is not None:
        return _decoded_tiff(stream, directory, exif, limit)
    picture = Image.open(stream, formats=_formats(head))
    _check_size(picture.size, limit)
    first = picture.tile[0] if picture.tile else None  # (codec, extents, offset, raw mode)
    # At full size: JPEG's own reduced decoding moves descriptors (cosine 0.972 at worst, Q = 256).
    picture.load()
    if picture.format == "PNG" and "transparency" in picture.info and picture.mode != "P" and first is not None:
        rgb = without_one_colour(picture, str(first[3]), stream)
    else:
        rgb = to_rgb(picture)
    if picture.format == "GIF" and first is not None and first[1] is not None:
        rgb = on_white(rgb, first[1])
    return _turned(rgb, _orientation(picture) if exif else 1)


def _decoded_tiff(stream: BinaryIO, directory: tiff.Directory, exif: bool, limit: float) -> Image.Image:
    """A TIFF file's pixels, where its tags say that Pillow reads them rightly or how to help it."""
    if reason := tiff.refusal(directory):
        raise ImageError(f"{reason}: convert it to 8 bits a channel")
    if tiff.is_plain_ycbcr(directory) and not _reads_plain_ycbcr():
        raise ImageError(
            "uncompressed TIFF YCbCr needs Pillow 13 or later, as earlier ones read it wrongly: pip install -U pillow"
        )
    deep = max(directory.bits) > 8 and len(directory.bits) == 1
    white_is_zero = deep and directory.first(tiff.PHOTOMETRIC, tiff.MIN_IS_WHITE) == tiff.MIN_IS_WHITE
    changes = {tiff.ORIENTATION: 1} if directory.orientation != 1 else {}  # or Pillow would turn it, asked or not
    changes |= {tiff.PHOTOMETRIC: tiff.MIN_IS_BLACK} if white_is_zero else {}
    try:
        picture = Image.open(tiff.patched(stream, directory, changes, _MOST_BYTES), formats=("TIFF",))
    except UnidentifiedImageError:
        raise ImageError(f"{tiff.described(directory)}: convert it to 8 bits a channel") from None
    _check_size(picture.size, limit)
    picture.info.pop("xmp", None)  # Pillow would turn it by XMP too
    picture.load()
    colours = directory.tags.get(tiff.COLOUR_MAP, ())
    if picture.mode == "P" and colours and max(colours) < 256:
        # A colour map has 16 bits a value, but some writers give 8; libtiff, and so most viewers, tell it likewise.
        picture.putpalette(bytes(int(value) for value in colours), "RGB;L")
    rgb = from_deep(picture, (1 << max(directory.bits)) - 1, white_is_zero) if deep else to_rgb(picture)
    return _turned(rgb, directory.orientation if exif else 1)


def _failure(error: Exception, stream: BinaryIO, limit: float) -> ImageError:
    """Whatever decoding raised, as the one error of this module."""
    if isinstance(error, ImageError):
        return error
    if isinstance(error, UnidentifiedImageError):
        return ImageError(_not_an_image(stream))
    if isinstance(error, Image.DecompressionBombError):  # Pillow checks its limit while it reads the header
        return ImageError(_too_large(limit))
    if isinstance(error, MemoryError):
        return ImageError("not enough memory to decode it")
    if isinstance(error, OSError) and error.errno:  # the system's error; Pillow's own OSErrors have no number
        return ReadError((error.strerror or str(error)).lower())
    # Pillow's decoders raise nearly anything on damaged data (OSError, SyntaxError, struct.error, ...).
    return ImageError(f"damaged image: {error or type(error).__name__}")


def _mended(stream: BinaryIO) -> bytes:
    """The bytes of a damaged file without the damage, if no pixel is lost: bad metadata, or no end mark; else b""."""
    stream.seek(0)
    head = stream.read(8)
    if not head.startswith((png.SIGNATURE, jpeg.START)):
        return b""
    data = head + stream.read(_MOST_BYTES)
    if head == png.SIGNATURE:
        return png.without_metadata(data)
    if not jpeg.lacks_its_end_alone(data):
        return b""
    data = data.rstrip(b"\xff")  # the first half of the mark
    endings = (Image.open(BytesIO(data + more + jpeg.END), formats=("JPEG",)) for more in jpeg.FOLLOWERS)
    return data + jpeg.END if len({picture.convert("RGB").tobytes() for picture in endings}) == 1 else b""


def _formats(head: bytes) -> tuple[str, ...]:
    """Pillow's readers for a file that begins so. Raises ImageError for a format whose reader is not installed."""
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand in _HEIC_BRANDS:
        try:
            import pillow_heif
        except ImportError:
            raise ImageError("HEIC needs the package pillow-heif: pip install 'vggfeat[heif]'") from None
        pillow_heif.register_heif_opener()
        return ("HEIF",)
    if brand not in _AVIF_BRANDS:
        return tuple(name for name in _FORMATS if name != "AVIF")  # which Pillow has since 11.3, where built with it
    if "AVIF" not in Image.OPEN and "AVIF" not in _available():
        raise ImageError("AVIF needs a Pillow that was built with it: pip install -U pillow")
    return ("AVIF",)


def _available() -> set[str]:
    """Pillow's formats, once all of them are loaded."""
    Image.init()
    return set(Image.OPEN)


def _in_memory(source: NDArray[Any] | Image.Image, limit: float) -> Image.Image:
    """An array's values, or a Pillow picture that may still have to be loaded."""
    if isinstance(source, np.ndarray):
        source = Image.fromarray(picture_values(source))
    if not isinstance(source, Image.Image):
        raise not_a_picture(source)
    _check_size(source.size, limit)
    try:
        source.load()
    except Exception as error:  # as in `_failure`: Pillow's decoders raise nearly anything
        raise ImageError(f"damaged image: {error or type(error).__name__}") from None
    if source.mode == "I" and source.format is None and 0 < int(np.asarray(source).max(initial=0)) <= 255:
        raise ImageError("32-bit integer pixels up to 255, which may mean 8 or 16 bits: convert it to mode L or I;16")
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
            raise ImageError("not a regular file")
        return Path(source).open("rb")
    except OSError as error:
        raise ReadError((error.strerror or str(error)).lower()) from None
    except ValueError as error:  # an embedded NUL, in other words since Python 3.13
        raise ImageError("embedded null byte" if "\0" in _shown(source) else str(error)) from None


def _shown(source: str | os.PathLike[str] | bytes) -> str:
    return "a picture" if isinstance(source, bytes) else os.fspath(source)


def _check_size(size: tuple[int, int], limit: float) -> None:
    width, height = size
    if width * height > limit * 1e6:
        raise ImageError(_too_large(limit, f"{width}x{height} pixels: "))


def _too_large(limit: float, size: str = "") -> str:
    return f"{size}more than {limit:g} million pixels"


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
    found = next((f", but {name}" for start, name in _OTHER_FORMATS.items() if head.startswith(start)), "")
    return f"no image of a known format ({', '.join(_FORMATS)}, HEIC){found}"


def _orientation(picture: Image.Image) -> int:
    """A picture's EXIF orientation, 1 to 8, whatever else its EXIF block holds."""
    block = picture.info.get("exif")
    if block is None and "Raw profile type exif" in picture.info:  # PNG, by ImageMagick
        try:
            block = bytes.fromhex("".join(str(picture.info["Raw profile type exif"]).split("\n")[3:]))
        except ValueError:
            return 1
    return tiff.exif_orientation(block) if isinstance(block, bytes) else 1


def _turned(picture: Image.Image, orientation: int) -> Image.Image:
    return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture


def crop(picture: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """The part inside a box (xmin, ymin, xmax, ymax; 0-based, half-open), clipped to the picture.

    Raises ImageError if nothing is left.
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

    Raises ImageError if the result would be too large (extreme shapes).
    """
    size = rescaled_size(picture.width, picture.height, Q)
    if size[0] * size[1] > MAX_RESCALED_PIXELS:
        raise ImageError(f"{picture.width}x{picture.height} becomes {size[0]}x{size[1]} at Q = {Q}: too large")
    resized = picture if picture.size == size else picture.resize(size, _FILTERS[filter])
    return np.asarray(resized)


def rescaled_crop(picture: Image.Image, Q: int, left: int, top: int, side: int, filter: Filter = "bilinear") -> Picture:
    """The square of `side` pixels at (left, top) of the picture rescaled to smallest side Q -> (side, side, 3) RGB.

    Equal to a crop of `rescale`'s result (to one grey level), but computes only the pixels of the square.
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
    """Writes the picture as a JPEG with boxes drawn on it, each with a colour and a caption.

    Boxes (xmin, ymin, xmax, ymax) are in pixels of the picture, which is enlarged to a smallest side of `side`.
    """
    factor = max(1.0, side / min(picture.size))
    canvas = picture.resize((round(picture.width * factor), round(picture.height * factor)), _FILTERS["bicubic"])
    draw, font = ImageDraw.Draw(canvas), _caption_font()
    for box, colour, caption in outlines:
        xmin, ymin, xmax, ymax = (value * factor for value in box)
        corners = (xmin, ymin, max(xmin, xmax - 1), max(ymin, ymax - 1))
        draw.rectangle(corners, outline=colour, width=3)
        place = (corners[0] + 5, corners[1] + 3)
        draw.rectangle(draw.textbbox(place, caption, font=font), fill="black")
        draw.text(place, caption, fill=colour, font=font)
    canvas.save(path, "JPEG", quality=90)


@functools.cache
def _reads_plain_ycbcr() -> bool:
    """Whether this Pillow reads the uncompressed YCbCr that it writes: before 13 it takes a pixel for four bytes."""
    made, stream = Image.frombytes("YCbCr", (4, 3), bytes(range(36))), BytesIO()
    try:
        made.save(stream, "TIFF")
        with Image.open(stream, formats=("TIFF",)) as read:
            return read.mode == made.mode and read.tobytes() == made.tobytes()
    except OSError:
        return False


def _caption_font() -> Any:
    """Pillow's own font; before 10.1 it has one small size."""
    try:
        return ImageFont.load_default(CAPTION_SIZE)
    except TypeError:
        return ImageFont.load_default()


def write_png(path: str | os.PathLike[str], pixels: NDArray[np.uint8]) -> None:
    """(H, W) grey or (H, W, 3) RGB values -> a PNG file."""
    Image.fromarray(pixels).save(path, "PNG")


def write_jpeg(
    path: str | os.PathLike[str], pixels: NDArray[np.uint8], size: tuple[int, int], quality: int = 90
) -> None:
    """(H, W, 3) RGB values, resized to (width, height) -> a JPEG file."""
    Image.fromarray(pixels).resize(size, _FILTERS["bicubic"]).save(path, "JPEG", quality=quality)
