"""TIFF's tags, which EXIF shares: what Pillow would read wrongly or turn by itself. Knows bytes alone, no Pillow."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from vggfeat.errors import ImageError

BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, PLANAR = 258, 259, 262, 274, 284
COLOUR_MAP, INK_SET, SAMPLE_FORMAT, COEFFICIENTS, SUBSAMPLING, REFERENCE = 320, 332, 339, 529, 530, 532

_USED = frozenset({BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, PLANAR, COLOUR_MAP, INK_SET, SAMPLE_FORMAT})
_USED |= {COEFFICIENTS, SUBSAMPLING, REFERENCE}
"""Tags that are read: a file may have thousands of others, all of them long."""

MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
"""The photometric interpretations that are read."""

_REFUSED = {
    4: "a transparency mask",
    8: "CIE L*a*b* colours",
    9: "ICC L*a*b* colours",
    10: "ITU L*a*b* colours",
    32803: "a camera's colour filter array",
    32844: "LogL values",
    32845: "LogLuv colours",
    34892: "a camera's linear values",
}

_FORMATS = {2: "signed", 3: "float", 5: "complex integer", 6: "complex float"}
"""Sample formats other than unsigned integers (1), whose black and white are unknown."""

_TYPES = {1: "B", 3: "H", 4: "I", 5: "II", 10: "ii", 13: "I", 16: "Q"}
"""Field type -> its struct format; text and other types are skipped."""

_LONGEST_MAP = 3 << 16
"""Values of the longest colour map, one of 16 bits. A tag that claims more is damaged."""

_MOST_VALUES = 1024
"""Values read of any other tag; the longest ones have one value for each sample of a pixel."""

_UPRIGHT = range(1, 9)


@dataclass(frozen=True)
class Directory:
    """The first image's tags in a TIFF file or EXIF block."""

    order: str
    """"<" or ">", the byte order."""
    tags: Mapping[int, tuple[float, ...]]
    places: Mapping[int, tuple[int, str]]
    """Offset and form ("H" or "I") of the value of each tag of one short or long number."""

    def first(self, tag: int, default: int) -> int:
        """A tag's first value."""
        return int(self.tags.get(tag, (default,))[0])

    @property
    def orientation(self) -> int:
        """1 to 8, as EXIF has it; 1 (upright) for anything else."""
        value = self.first(ORIENTATION, 1)
        return value if value in _UPRIGHT else 1

    @property
    def bits(self) -> tuple[int, ...]:
        """Bits of each sample of a pixel."""
        return tuple(int(value) for value in self.tags.get(BITS, (1,)))


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins so is a TIFF or BigTIFF file."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_directory(stream: BinaryIO, wanted: Collection[int] = _USED) -> Directory | None:
    """The wanted tags of the first image; None where there are none to be read. Damaged tags are left out.

    Of a tag that comes twice the first one counts; of a long one, except a colour map, the first 1024 values.
    """
    stream.seek(0)
    head = stream.read(16)
    if not is_tiff(head):
        return None
    order, big = "<" if head[:2] == b"II" else ">", head[2:4] in (b"+\0", b"\0+")
    try:
        stream.seek(struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0])
        (count,) = struct.unpack(order + ("Q" if big else "H"), stream.read(8 if big else 2))
        start = stream.tell()
        size, room = (20, 8) if big else (12, 4)
        entries = stream.read(size * min(count, 4096))
        tags: dict[int, tuple[float, ...]] = {}
        places: dict[int, tuple[int, str]] = {}
        seen: set[int] = set()
        for at in range(0, len(entries) - size + 1, size):
            tag, kind, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), entries, at)
            if tag not in wanted or tag in seen or kind not in _TYPES or not 0 < number <= _LONGEST_MAP:
                continue
            seen.add(tag)  # even if it is cut off: thousands of entries may point to the same bytes
            number = number if tag == COLOUR_MAP else min(number, _MOST_VALUES)
            place = start + at + size - room
            values = _values(stream, order, big, _TYPES[kind], number, entries[at + size - room : at + size])
            if values:
                tags[tag] = values
                if _TYPES[kind] in ("H", "I") and number == 1:
                    places[tag] = (place, _TYPES[kind])
        return Directory(order, tags, places)
    except (struct.error, OSError, ValueError, OverflowError):
        return None


def _values(stream: BinaryIO, order: str, big: bool, form: str, number: int, inline: bytes) -> tuple[float, ...]:
    """A tag's values: in the entry itself, or where it points; () where they are cut off."""
    item = struct.Struct(order + form)
    length = item.size * number
    if length <= len(inline):
        content = inline[:length]
    else:
        stream.seek(struct.unpack(order + ("Q" if big else "I"), inline)[0])
        content = stream.read(length)
    if len(content) < length:
        return ()
    found = list(item.iter_unpack(content))
    if len(form) == 2:
        return tuple(above / below if below else 0.0 for above, below in found)
    return tuple(value for (value,) in found)


def refusal(directory: Directory) -> str:
    """Why the pixels cannot be read rightly; "" where they can, as far as the tags say."""
    kinds = {int(value) for value in directory.tags.get(SAMPLE_FORMAT, (1,))}
    bits, photometric = set(directory.bits), directory.first(PHOTOMETRIC, MIN_IS_WHITE)
    widths = "/".join(map(str, sorted(bits)))
    if kinds != {1}:
        name = next((_FORMATS[kind] for kind in sorted(kinds) if kind in _FORMATS), "undefined")
        return f"{widths}-bit {name} pixels, whose range is unknown"
    if photometric in _REFUSED:
        return f"a TIFF file of {_REFUSED[photometric]}"
    if photometric not in (MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, CMYK, YCBCR):
        return f"a TIFF file of unknown photometric interpretation {photometric}"
    if photometric == CMYK and directory.first(INK_SET, 1) != 1:
        return "a TIFF file of other inks than CMYK"
    if max(bits) > 16:
        return f"{widths}-bit integer pixels"
    if is_plain_ycbcr(directory) and not _of_jfif(directory):
        return "uncompressed TIFF YCbCr with subsampling or a range of its own"
    if directory.first(PLANAR, 1) == 2 and max(bits) > 8 and len(directory.bits) > 1:
        return f"{widths}-bit TIFF pixels in separate planes"
    return ""


def described(directory: Directory) -> str:
    """What kind of TIFF file it is, for one that Pillow does not know."""
    names = {MIN_IS_WHITE: "grey", MIN_IS_BLACK: "grey", RGB: "RGB", PALETTE: "palette", CMYK: "CMYK", YCBCR: "YCbCr"}
    name = names.get(directory.first(PHOTOMETRIC, MIN_IS_WHITE), "")
    bits = "/".join(map(str, dict.fromkeys(directory.bits)))
    order = "" if directory.order == "<" else "big-endian "
    samples = f", {len(directory.bits)} samples a pixel" if len(directory.bits) > 1 else ""
    return f"{order}TIFF file of {bits}-bit {name} pixels{samples}"


def patched(stream: BinaryIO, directory: Directory, changes: Mapping[int, int], most_bytes: int) -> BinaryIO:
    """The file with other values of tags that are one whole number, in memory; without changes the stream itself.

    Raises ImageError for a file of more than `most_bytes` that would have to be changed.
    """
    changes = {tag: value for tag, value in changes.items() if tag in directory.places}
    if not changes:
        return stream
    size = stream.seek(0, os.SEEK_END)
    if size > most_bytes:
        raise ImageError(f"a TIFF file of {size} bytes, too large to be read into memory: save it as PNG or JPEG")
    stream.seek(0)
    content = BytesIO()
    shutil.copyfileobj(stream, content)  # a whole read would be in memory twice
    for tag, value in changes.items():
        place, form = directory.places[tag]
        content.seek(place)
        content.write(struct.pack(directory.order + form, value))
    content.seek(0)
    return content


def exif_orientation(block: bytes) -> int:
    """The orientation, 1 to 8, of an EXIF block as JPEG, PNG and WebP carry it; 1 where it has no readable one."""
    block = block.removeprefix(b"Exif\0\0")
    directory = read_directory(BytesIO(block), (ORIENTATION,))
    return 1 if directory is None else directory.orientation


def is_plain_ycbcr(directory: Directory) -> bool:
    """Whether the samples are uncompressed YCbCr."""
    return directory.first(PHOTOMETRIC, MIN_IS_WHITE) == YCBCR and directory.first(COMPRESSION, 1) == 1


def _of_jfif(directory: Directory) -> bool:
    """Whether the samples are JFIF's: not subsampled, BT.601, full range."""
    coefficients = directory.tags.get(COEFFICIENTS, (0.299, 0.587, 0.114))
    return (
        tuple(directory.tags.get(SUBSAMPLING, (2, 2))) == (1, 1)
        and all(abs(a - b) < 1e-3 for a, b in zip(coefficients, (0.299, 0.587, 0.114), strict=False))
        and tuple(directory.tags.get(REFERENCE, (0, 255, 128, 255, 128, 255))) == (0, 255, 128, 255, 128, 255)
    )
