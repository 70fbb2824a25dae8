"""Pictures as viewers show them, kind by kind: each table goes beyond the file in which the fault was first seen.

The files are written from raw bytes, and the right values are computed from the samples or by OpenCV.
"""

from __future__ import annotations

import io
import logging
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from raw_pictures import chunk, packed, png, tiff

from vggfeat.datasets import images
from vggfeat.datasets import tiff as tags_of
from vggfeat.datasets.images import decode
from vggfeat.errors import ImageError


def pixels(data: bytes, **options: Any) -> NDArray[np.uint8]:
    return np.asarray(decode(data, **options))


def reason(data: bytes, **options: Any) -> str:
    with pytest.raises(ImageError) as error:
        decode(data, **options)
    return str(error.value)


def ramp(bits: int, channels: int = 1) -> NDArray[np.int64]:
    """(6, 10 * channels) samples from black to white, the largest included."""
    count = 60 * channels
    return np.round(np.linspace(0, 2**bits - 1, count)).astype(np.int64)[np.arange(count) * 7 % count].reshape(6, -1)


def eight(samples: NDArray[np.int64], bits: int) -> NDArray[np.float64]:
    return samples * 255 / (2**bits - 1)


def close(found: NDArray[np.uint8], right: NDArray[np.float64], within: float = 1.0) -> bool:
    return found.shape == right.shape and bool(np.abs(found - right).max() <= within)


# TIFF: every sample format and photometric interpretation is read rightly or refused by name.


@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflate"])
@pytest.mark.parametrize("order", ["<", ">"], ids=["II", "MM"])
@pytest.mark.parametrize("white_is_zero", [False, True], ids=["min-is-black", "min-is-white"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_grey_tiffs_of_every_depth(bits: int, white_is_zero: bool, order: str, deflate: bool) -> None:
    samples = ramp(bits)
    data = tiff(
        10,
        6,
        packed(samples, bits, order),
        photometric=0 if white_is_zero else 1,
        bits=[bits],
        order=order,
        deflate=deflate,
    )
    if (bits, order) == (12, ">"):
        assert reason(data) == "big-endian TIFF file of 12-bit grey pixels: convert it to 8 bits a channel"
        return
    right = eight(2**bits - 1 - samples if white_is_zero else samples, bits)
    assert close(pixels(data), np.repeat(right[..., None], 3, axis=2))


@pytest.mark.parametrize("order", ["<", ">"], ids=["II", "MM"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("extra", [None, 0, 1, 2])
def test_rgb_tiffs_with_and_without_alpha(bits: int, order: str, extra: int | None) -> None:
    """Alpha, premultiplied (1) or not (2), is laid on white; an extra sample of no meaning (0) is ignored."""
    most = 2**bits - 1
    rgb = ramp(bits, 3).reshape(6, 10, 3)
    alpha = np.broadcast_to(np.where(np.arange(10) % 2, most, most // 4), (6, 10))[..., None]
    stored, right = rgb, eight(rgb, bits)
    tags: dict[int, Any] = {}
    if extra is not None:
        shown = rgb * alpha // most if extra == 1 else rgb
        stored, tags = np.concatenate([shown, alpha], axis=2), {338: ("H", [extra])}
        right = right if extra == 0 else right * alpha / most + 255 * (1 - alpha / most)
    data = packed(stored.reshape(6, -1), bits, order)
    made = tiff(10, 6, data, photometric=2, bits=[bits] * stored.shape[2], order=order, tags=tags)
    assert close(pixels(made), right, within=4 if extra == 1 else 1.5)


@pytest.mark.parametrize("order", ["<", ">"], ids=["II", "MM"])
@pytest.mark.parametrize("scale", [257, 1], ids=["16-bit map", "8-bit map"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_tiffs_whose_map_has_16_bits_or_in_fact_8(bits: int, scale: int, order: str) -> None:
    colours = np.random.default_rng(bits).integers(0, 256, (3, 2**bits))
    indices = ramp(bits)
    tags = {320: ("H", (colours * scale).ravel().tolist())}
    made = tiff(10, 6, packed(indices, bits), photometric=3, bits=[bits], order=order, tags=tags)
    right = np.moveaxis(colours[:, indices], 0, -1)
    assert np.array_equal(pixels(made), right)
    if bits != 2:  # which OpenCV does not read
        assert np.array_equal(cv2.imdecode(np.frombuffer(made, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], right)


@pytest.mark.parametrize("order", ["<", ">"], ids=["II", "MM"])
@pytest.mark.parametrize("bits", [8, 16])
def test_cmyk_tiffs(bits: int, order: str) -> None:
    if bits == 16 and ({"<": b"II", ">": b"MM"}[order], 5, (1,), 1, (16,) * 4, ()) not in TiffImagePlugin.OPEN_INFO:
        pytest.skip("this Pillow does not read them, and they are refused")
    cmyk = ramp(bits, 4).reshape(6, 10, 4)
    made = tiff(10, 6, packed(cmyk.reshape(6, -1), bits, order), photometric=5, bits=[bits] * 4, order=order)
    ink = eight(cmyk, bits)
    assert close(pixels(made), (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255, within=2)


def test_rgb_tiffs_in_separate_planes() -> None:
    rgb = ramp(8, 3).reshape(6, 10, 3)
    planes = np.moveaxis(rgb, -1, 0).astype(np.uint8).tobytes()
    tags = {284: ("H", [2]), 273: ("I", [8, 68, 128]), 279: ("I", [60, 60, 60])}
    assert np.array_equal(pixels(tiff(10, 6, planes, photometric=2, bits=[8] * 3, tags=tags)), rgb)


def test_a_pillow_that_reads_ycbcr_tiffs_wrongly_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiff(10, 6, packed(ramp(8, 3), 8), photometric=6, bits=[8] * 3, tags={530: ("H", [1, 1])})
    monkeypatch.setattr(images, "_reads_plain_ycbcr", lambda: False)
    with pytest.raises(ImageError) as caught:
        pixels(made)
    assert str(caught.value) == (
        "uncompressed TIFF YCbCr needs Pillow 13 or later, as earlier ones read it wrongly: pip install -U pillow"
    )


def test_ycbcr_tiffs_without_subsampling_are_jfifs() -> None:
    if not images._reads_plain_ycbcr():
        pytest.skip("this Pillow reads them wrongly, and they are refused")
    ycc = ramp(8, 3).reshape(6, 10, 3)
    made = tiff(10, 6, packed(ycc.reshape(6, -1), 8), photometric=6, bits=[8] * 3, tags={530: ("H", [1, 1])})
    y, cb, cr = (ycc[..., k].astype(float) for k in range(3))
    right = np.stack(
        [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
    )
    assert close(pixels(made), np.moveaxis(right.clip(0, 255), 0, -1), within=2)


RANGE = ", whose range is unknown: convert it to 8 bits a channel"
OTHER = ": convert it to 8 bits a channel"


@pytest.mark.parametrize("order", ["<", ">"], ids=["II", "MM"])
@pytest.mark.parametrize(
    ("photometric", "bits", "tags", "why"),
    [
        (1, [8], {339: ("H", [2])}, "8-bit signed pixels" + RANGE),
        (1, [16], {339: ("H", [2])}, "16-bit signed pixels" + RANGE),
        (1, [32], {339: ("H", [2])}, "32-bit signed pixels" + RANGE),
        (1, [16], {339: ("H", [3])}, "16-bit float pixels" + RANGE),
        (0, [32], {339: ("H", [3])}, "32-bit float pixels" + RANGE),
        (1, [64], {339: ("H", [3])}, "64-bit float pixels" + RANGE),
        (2, [32] * 3, {339: ("H", [3] * 3)}, "32-bit float pixels" + RANGE),
        (1, [32], {339: ("H", [5])}, "32-bit complex integer pixels" + RANGE),
        (1, [64], {339: ("H", [6])}, "64-bit complex float pixels" + RANGE),
        (1, [16], {339: ("H", [4])}, "16-bit undefined pixels" + RANGE),
        (1, [32], {}, "32-bit integer pixels" + OTHER),
        (1, [24], {}, "24-bit integer pixels" + OTHER),
        (2, [32] * 3, {}, "32-bit integer pixels" + OTHER),
        (4, [1], {}, "a TIFF file of a transparency mask" + OTHER),
        (5, [8] * 4, {332: ("H", [2])}, "a TIFF file of other inks than CMYK" + OTHER),
        (8, [8] * 3, {}, "a TIFF file of CIE L*a*b* colours" + OTHER),
        (9, [8] * 3, {}, "a TIFF file of ICC L*a*b* colours" + OTHER),
        (32803, [16], {}, "a TIFF file of a camera's colour filter array" + OTHER),
        (32844, [16], {}, "a TIFF file of LogL values" + OTHER),
        (777, [8], {}, "a TIFF file of unknown photometric interpretation 777" + OTHER),
        (6, [8] * 3, {}, "uncompressed TIFF YCbCr with subsampling or a range of its own" + OTHER),
        (
            6,
            [8] * 3,
            {530: ("H", [1, 1]), 532: ("H", [16, 235, 128, 240, 128, 240])},
            "uncompressed TIFF YCbCr with subsampling or a range of its own" + OTHER,
        ),
        (2, [16] * 3, {284: ("H", [2])}, "16-bit TIFF pixels in separate planes" + OTHER),
    ],
)
def test_tiffs_that_cannot_be_read_rightly_are_refused_by_name(
    photometric: int, bits: list[int], tags: dict[int, Any], why: str, order: str
) -> None:
    assert reason(tiff(4, 4, bytes(4 * 4 * 32), photometric=photometric, bits=bits, order=order, tags=tags)) == why


@pytest.mark.parametrize(
    ("photometric", "bits", "name"),
    [(2, [12] * 3, "12-bit RGB pixels, 3 samples a pixel"), (3, [16], "16-bit palette pixels"), (1, [6], "6-bit grey")],
)
def test_tiffs_that_pillow_does_not_know_are_refused_by_name(photometric: int, bits: list[int], name: str) -> None:
    assert reason(tiff(4, 4, bytes(4096), photometric=photometric, bits=bits)).startswith(f"TIFF file of {name}")


@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 77])
@pytest.mark.parametrize("order", ["<", ">"], ids=["II", "MM"])
@pytest.mark.parametrize("form", ["H", "I"])
def test_a_tiffs_orientation_is_applied_when_asked_alone(orientation: int, order: str, form: str) -> None:
    stored = ramp(8, 3).reshape(6, 10, 3)
    made = tiff(
        10,
        6,
        packed(stored.reshape(6, -1), 8),
        photometric=2,
        bits=[8] * 3,
        order=order,
        tags={274: (form, [orientation])},
    )
    assert np.array_equal(pixels(made), stored)
    assert np.array_equal(pixels(made, exif=True), upright(stored, orientation))


def peak(work: Callable[[], object]) -> int:
    """Most bytes that Python's allocator held during a call."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("tag", [None, 258, 320], ids=["strange tags", "bits", "cut colour map"])
def test_a_tiff_of_long_tags_at_the_same_bytes_takes_little_memory(tag: int | None) -> None:
    """A count of 3 << 16, once for each of 4000 tags or again and again for one."""
    number, rows = 3 << 16, 4000
    entries = [entry(tag or 1000 + i, 4, number, struct.pack("<I", 8)) for i in range(rows)]
    start = 1 << 19 if tag == 320 else 1 << 20  # bytes for a whole tag, or not
    table = struct.pack("<H", rows + 1) + b"".join([SIX, *entries])
    made = b"II*\0" + struct.pack("<I", start) + bytes(start - 8) + table
    found = []
    assert peak(lambda: found.append(tags_of.read_directory(io.BytesIO(made)))) < 8 << 20
    assert found[0].orientation == 6


def test_an_exif_block_is_asked_for_its_orientation_alone() -> None:
    colours = entry(320, 3, 30_000, struct.pack("<I", 0))
    block = exif_block(*[colours] * 200, SIX) + bytes(60_000)
    found = []
    assert peak(lambda: found.append(tags_of.exif_orientation(block))) < 200_000
    assert found == [6]


def test_the_first_values_of_a_long_tag_count() -> None:
    made = tiff(
        4, 4, bytes(64), photometric=1, bits=[8] * 2000, tags={274: ("H", [3] * 5000), 320: ("H", range(3 << 8))}
    )
    directory = tags_of.read_directory(io.BytesIO(made))
    assert directory is not None
    assert directory.orientation == 3
    assert directory.bits == (8,) * 1024
    assert directory.tags[320] == tuple(range(3 << 8))


@pytest.mark.parametrize(
    ("orientation", "photometric", "bits"), [(6, 1, 8), (1, 0, 16)], ids=["turned", "deep and white is zero"]
)
def test_a_huge_tiff_that_would_be_changed_in_memory_is_refused_by_name(
    tmp_path: Path, orientation: int, photometric: int, bits: int
) -> None:
    path = tmp_path / "sparse.tif"
    tags = {274: ("H", [orientation])}
    path.write_bytes(tiff(10, 6, packed(ramp(bits), bits), photometric=photometric, bits=[bits], tags=tags))
    small = np.asarray(decode(path))
    with path.open("r+b") as file:
        file.truncate(1 << 26)
    assert np.array_equal(decode(path), small)
    assert peak(lambda: decode(path)) < 100 << 20  # about the file's 64 MiB, not twice as much
    with path.open("r+b") as file:
        file.truncate((1 << 30) + 1)

    def refused() -> None:
        with pytest.raises(ImageError) as error:
            decode(path)
        assert str(error.value) == (
            "a TIFF file of 1073741825 bytes, too large to be read into memory: save it as PNG or JPEG"
        )

    assert peak(refused) < 1 << 20


def test_a_huge_tiff_that_needs_no_change_is_read_in_place(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    path.write_bytes(tiff(10, 6, packed(ramp(8), 8), photometric=1, bits=[8]))
    small = np.asarray(decode(path))
    with path.open("r+b") as file:
        file.truncate((1 << 30) + 1)
    assert np.array_equal(decode(path, exif=True), small)


def upright(stored: NDArray[Any], orientation: int) -> NDArray[Any]:
    """By EXIF's table: where the stored row 0 and column 0 belong."""
    return {
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: np.rot90(stored, 2).swapaxes(0, 1),
        8: np.rot90(stored),
    }.get(orientation, stored)


# PNG: tRNS names one colour, at the file's own depth; every depth and colour type.


@pytest.mark.parametrize("filtering", [0, 2], ids=["unfiltered", "up"])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_of_every_depth_becomes_white(depth: int, filtering: int) -> None:
    samples = ramp(depth)
    for value in sorted({0, 1, int(samples[2, 3]), 2**depth - 1}):
        made = png(samples, depth, before=chunk(b"tRNS", struct.pack(">H", value)), filtering=filtering)
        right = np.where(samples == value, 255, eight(samples, depth))
        assert close(pixels(made), np.repeat(right[..., None], 3, axis=2)), value


@pytest.mark.parametrize("filtering", [0, 2], ids=["unfiltered", "up"])
@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_rgb_colour_is_compared_in_all_of_its_bits(depth: int, filtering: int) -> None:
    samples = ramp(depth, 3).reshape(6, 10, 3)
    value = samples[2, 3].copy()
    near = value.copy()
    near[2] ^= 1  # differs in the lowest bit: opaque
    samples[0, 0], samples[5, 9] = near, value
    made = png(samples, depth, before=chunk(b"tRNS", struct.pack(">HHH", *value)), filtering=filtering)
    mask = (samples == value).all(axis=-1)
    assert mask.sum() == 2
    assert close(pixels(made), np.where(mask[..., None], 255, eight(samples, depth)))
    opaque = pixels(png(samples, depth, filtering=filtering))
    assert np.array_equal(pixels(made)[~mask], opaque[~mask]), "the other pixels keep their bits"


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palettes_transparency_is_laid_on_white(depth: int) -> None:
    rng = np.random.default_rng(depth)
    colours, alphas = rng.integers(0, 256, (2**depth, 3)), rng.integers(0, 256, 2 ** (depth - 1))
    indices = ramp(depth)
    made = png(indices, depth, palette=bytes(colours.ravel().tolist()), before=chunk(b"tRNS", bytes(alphas.tolist())))
    alpha = np.concatenate([alphas, np.full(2**depth - len(alphas), 255)])[indices][..., None] / 255
    assert close(pixels(made), colours[indices] * alpha + 255 * (1 - alpha), within=1.5)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [2, 4])
def test_an_alpha_channel_is_laid_on_white(depth: int, channels: int) -> None:
    samples = ramp(depth, channels).reshape(6, 10, channels)
    colour, alpha = eight(samples[..., :-1], depth), samples[..., -1:] / (2**depth - 1)
    right = np.broadcast_to(colour * alpha + 255 * (1 - alpha), (6, 10, 3))
    assert close(pixels(png(samples, depth, alpha=True)), right, within=2)


# Good pixels survive bad metadata: text, profiles, EXIF and wrong checksums of chunks that make no pixel.

RGB = ramp(8, 3).reshape(6, 10, 3)


def exif_block(*entries: bytes, order: str = "<") -> bytes:
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return head + struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)


def entry(tag: int, kind: int, count: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0")


SIX = entry(274, 3, 1, struct.pack("<H", 6))
EXIF = {
    "plain": exif_block(SIX),
    "big-endian": exif_block(entry(274, 3, 1, struct.pack(">H", 6), ">"), order=">"),
    "long": exif_block(entry(274, 4, 1, struct.pack("<I", 6))),
    "text as resolution": exif_block(SIX, entry(282, 2, 4, b"abc")),
    "negative bits": exif_block(entry(258, 8, 1, struct.pack("<h", -5)), SIX),
    "offset beyond the end": exif_block(SIX, entry(282, 5, 1, struct.pack("<I", 1 << 30))),
    "unknown type": exif_block(SIX, entry(283, 99, 7, b"\xff" * 4)),
    "huge count": exif_block(SIX, entry(37500, 7, 0xFFFFFFFF, b"\xff" * 4)),
    "cut off": exif_block(SIX, entry(282, 5, 1, b""))[:26],
}
"""Blocks that all say: turn by 90 degrees; some could not be written again, which Pillow tries."""


def test_whole_numbers_of_32_bits_in_memory_that_may_have_8_or_16_are_refused() -> None:
    grey = np.full((8, 8), 200, np.int32)
    with pytest.raises(ImageError) as caught:
        decode(Image.fromarray(grey))
    assert str(caught.value) == (
        "32-bit integer pixels up to 255, which may mean 8 or 16 bits: convert it to mode L or I;16"
    )
    assert np.asarray(decode(Image.fromarray(200 * 257 + 0 * grey)))[0, 0].tolist() == [200] * 3
    assert np.asarray(decode(Image.fromarray(0 * grey))).max() == 0


@pytest.mark.parametrize("block", EXIF.values(), ids=EXIF)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PNG behind the pixels"])
def test_orientation_is_read_whatever_else_an_exif_block_holds(kind: str, block: bytes) -> None:
    if kind == "JPEG":
        stream = io.BytesIO()
        Image.fromarray(RGB.astype(np.uint8)).save(stream, "JPEG", quality=95)
        plain = stream.getvalue()
        content = b"Exif\0\0" + block
        data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + plain[2:]
    elif kind == "PNG":
        plain, data = png(RGB, 8), png(RGB, 8, before=chunk(b"eXIf", block))
    else:
        plain = png(RGB, 8)
        data = plain[:-12] + chunk(b"eXIf", block) + plain[-12:]
    assert np.array_equal(pixels(data), pixels(plain))
    assert np.array_equal(pixels(data, exif=True), np.rot90(pixels(plain), -1))


@pytest.mark.parametrize(
    "rubbish",
    [b"", b"II", b"\xff" * 40, b"II*\0\xff\xff\xff\xff", exif_block(entry(274, 3, 1, b"\x09")), exif_block()[:8]],
)
def test_exif_rubbish_turns_nothing_and_costs_nothing(rubbish: bytes) -> None:
    for position in ("before", "behind"):
        plain = png(RGB, 8)
        bad = chunk(b"eXIf", rubbish)
        data = png(RGB, 8, before=bad) if position == "before" else plain[:-12] + bad + plain[-12:]
        assert np.array_equal(pixels(data, exif=True), RGB)


BIG = zlib.compress(bytes(3 << 20))
METADATA = {
    "text with a wrong checksum": chunk(b"tEXt", b"Comment\0hello", 1),
    "unknown chunk with a wrong checksum": chunk(b"zzZz", b"abc", 1),
    "gamma with a wrong checksum": chunk(b"gAMA", struct.pack(">I", 45455), 1),
    "transparency with a wrong checksum": chunk(b"tRNS", struct.pack(">HHH", *RGB[0, 0]), 1),
    "long compressed text": chunk(b"zTXt", b"Comment\0\0" + BIG),
    "long international text": chunk(b"iTXt", b"Comment\0\1\0\0\0" + BIG),
    "long plain text": chunk(b"tEXt", b"Comment\0" + b"x" * (2 << 20)),
    "many long texts": chunk(b"zTXt", b"a\0\0" + BIG) * 30,
    "large colour profile": chunk(b"iCCP", b"icc\0\0" + BIG),
    "rubbish colour profile": chunk(b"iCCP", b"icc\0\0" + b"\xff" * 30),
    "text that is not compressed as it says": chunk(b"zTXt", b"Comment\0\0rubbish"),
    "resolution that is too short": chunk(b"pHYs", b"\0"),
}


@pytest.mark.parametrize("bad", METADATA.values(), ids=METADATA)
def test_png_chunks_that_make_no_pixel_cost_none(bad: bytes) -> None:
    """As in libpng, browsers and OpenCV."""
    made = png(RGB, 8, before=bad)
    assert np.array_equal(pixels(made), RGB)
    assert np.array_equal(pixels(made, exif=True), RGB)


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE"])
def test_a_wrong_checksum_of_the_pixels_own_chunks_fails(name: bytes) -> None:
    data = bytearray(png(ramp(4), 4, palette=bytes(range(48))))
    at = data.index(name)
    length = struct.unpack(">I", data[at - 4 : at])[0]
    data[at + 4 + length] ^= 0xFF
    with pytest.raises(ImageError):
        decode(bytes(data))


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'


def test_an_orientation_in_xmp_turns_nothing_as_in_browsers_and_opencv() -> None:
    stream = io.BytesIO()
    Image.fromarray(RGB.astype(np.uint8)).save(stream, "JPEG", quality=95)
    plain = stream.getvalue()
    content = b"http://ns.adobe.com/xap/1.0/\0" + XMP
    jpeg = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + plain[2:]
    assert np.array_equal(pixels(jpeg, exif=True), pixels(plain))
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (6, 10, 3)
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    assert np.array_equal(pixels(png(RGB, 8, before=text), exif=True), RGB)
    raw = packed(RGB.reshape(6, -1), 8)
    made = tiff(10, 6, raw, photometric=2, bits=[8] * 3, tags={700: ("B", list(XMP))})
    assert np.array_equal(pixels(made, exif=True), RGB)
    webp = io.BytesIO()
    Image.fromarray(RGB.astype(np.uint8)).save(webp, "WEBP", lossless=True, xmp=XMP)
    assert np.array_equal(pixels(webp.getvalue(), exif=True), RGB)


# A GIF whose first frame covers a part of its canvas: the rest is transparent, so white.


def gif(
    canvas: tuple[int, int], frame: tuple[int, int, int, int], background: int = 0, transparent: bool = False
) -> bytes:
    """A frame of palette entry 1 (blue) in a canvas; entry 0 is red."""
    left, top, width, height = frame
    palette = bytes([255, 0, 0, 0, 0, 255, 0, 255, 0, 9, 9, 9])
    head = b"GIF89a" + struct.pack("<HHBBB", *canvas, 0b10000001, background, 0) + palette
    control = b"\x21\xf9\x04" + bytes([transparent, 0, 0, 2]) + b"\0" if transparent else b""
    # Uncompressed LZW: a clear code before each pixel keeps codes at three bits.
    codes = [code for _ in range(width * height) for code in (4, 1)] + [5]
    bits = np.array([[code >> k & 1 for k in range(3)] for code in codes], dtype=np.uint8).ravel()
    content = np.packbits(bits, bitorder="little").tobytes()
    blocks = b"".join(bytes([len(part)]) + part for part in (content[i : i + 255] for i in range(0, len(content), 255)))
    return head + control + b"," + struct.pack("<HHHHB", left, top, width, height, 0) + b"\2" + blocks + b"\0;"


@pytest.mark.parametrize("background", [0, 2])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("frame", [(0, 0, 9, 7), (0, 0, 9, 3), (2, 1, 4, 4), (8, 6, 1, 1), (0, 3, 3, 4)])
def test_what_a_gifs_first_frame_leaves_uncovered_is_white(
    frame: tuple[int, int, int, int], transparent: bool, background: int
) -> None:
    left, top, width, height = frame
    right = np.full((7, 9, 3), 255)
    right[top : top + height, left : left + width] = (0, 0, 255)
    assert np.array_equal(pixels(gif((9, 7), frame, background, transparent)), right)


# A JPEG that lacks its end mark alone keeps its pixels, with a note; one that lacks any pixel fails.


def jpegs() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((90, 70), Image.Resampling.BICUBIC)
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "baseline": (picture, {}),
        "progressive": (picture, {"progressive": True}),
        "grey": (picture.convert("L"), {}),
        "no subsampling": (picture, {"subsampling": 0, "quality": 98}),
        "restarts": (picture, {"restart_marker_blocks": 2}),
        "optimised": (picture, {"optimize": True}),
        "cmyk": (picture.convert("CMYK"), {}),
    }
    made = {}
    for name, (shown, options) in kinds.items():
        stream = io.BytesIO()
        shown.save(stream, "JPEG", **options)
        made[name] = stream.getvalue()
    return made


JPEGS = jpegs()


@pytest.mark.parametrize("data", JPEGS.values(), ids=JPEGS)
def test_a_jpeg_without_its_end_mark_keeps_its_pixels_with_a_note(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    whole = pixels(data)
    for cut in (data[:-2], data[:-1]):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert np.array_equal(pixels(cut, name="a.tar/x.jpg"), whole)
        assert caplog.messages in (["a.tar/x.jpg: lacks its end mark; all of its pixels are there"], [])


@pytest.mark.parametrize("data", JPEGS.values(), ids=JPEGS)
def test_a_jpeg_that_lacks_a_pixel_fails_wherever_it_is_cut(data: bytes) -> None:
    for end in [*range(100, len(data) - 8, 37), len(data) - 9, len(data) - 6]:
        with pytest.raises(ImageError):
            decode(data[:end])


def test_a_progressive_jpeg_cut_between_two_scans_fails() -> None:
    data = JPEGS["progressive"]
    at = data.index(b"\xff\xda")
    while (at := data.find(b"\xff\xda", at + 1)) > 0:
        with pytest.raises(ImageError):
            decode(data[: data.rindex(b"\xff\xc4", 0, at)])


# Pictures over 100 million pixels: an option.


def test_the_limit_on_pixels_is_an_argument() -> None:
    data = png(np.zeros((30, 40), dtype=np.int64), 8)
    assert reason(data, max_megapixels=0.001) == "40x30 pixels: more than 0.001 million pixels"
    assert pixels(data, max_megapixels=0.0012).shape == (30, 40, 3)
    assert reason(Image.new("L", (40, 30)), max_megapixels=0.001) == "40x30 pixels: more than 0.001 million pixels"


def test_a_picture_beyond_pillows_own_limit_is_read_when_asked() -> None:
    code_side = 14_000  # 196 million pixels; Pillow's own error begins at 179 million
    rows = zlib.compress(bytes((code_side // 8 + 1) * code_side), 1)
    header = struct.pack(">IIBBBBB", code_side, code_side, 1, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert reason(data) == "more than 100 million pixels"
    before = Image.MAX_IMAGE_PIXELS
    try:
        assert decode(data, max_megapixels=200).size == (code_side, code_side)
    finally:
        Image.MAX_IMAGE_PIXELS = before


# AVIF and HEIC are read; HEIC by an extra, which the error names.


def smooth() -> Image.Image:
    noise = np.random.default_rng(1).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((96, 64), Image.Resampling.BICUBIC)


def with_orientation(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_avif_pictures_are_read(orientation: int) -> None:
    if "AVIF" not in images._available():
        pytest.skip("this Pillow has no AVIF")
    stream = io.BytesIO()
    smooth().save(stream, "AVIF", quality=90, exif=with_orientation(orientation))
    stored = np.asarray(smooth()).astype(float)
    assert np.abs(pixels(stream.getvalue(), exif=True) - upright(stored, orientation)).mean() < 4


def test_a_pillow_without_avif_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    monkeypatch.setattr(images, "_available", lambda: {"JPEG"})
    assert reason(b"\0\0\0\x18ftypavif" + bytes(100)) == (
        "AVIF needs a Pillow that was built with it: pip install -U pillow"
    )


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_heic_pictures_are_read(orientation: int) -> None:
    heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    heif.from_pillow(smooth()).save(stream, quality=90, exif=with_orientation(orientation))
    stored = np.asarray(smooth()).astype(float)
    assert np.abs(pixels(stream.getvalue(), exif=True) - upright(stored, orientation)).mean() < 4


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1"])
def test_without_its_package_heic_names_the_extra(monkeypatch: pytest.MonkeyPatch, brand: bytes) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert reason(b"\0\0\0\x18ftyp" + brand + bytes(100)) == (
        "HEIC needs the package pillow-heif: pip install 'vggfeat[heif]'"
    )


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x4f\xff\x51\0\x2f", "JPEG 2000"),
        (b"\xff\x0a\xff\x07", "JPEG XL"),
        (b"8BPS\0\1", "Photoshop"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\3\4", "zip: unpack it, or give its images as a tar file"),
        (b"\x1f\x8b\x08", "gzip: unpack it"),
    ],
)
def test_other_formats_are_named(head: bytes, name: str) -> None:
    assert reason(head + bytes(100)) == (
        f"no image of a known format (JPEG, PNG, WEBP, BMP, DIB, GIF, TIFF, AVIF, HEIC), but {name}"
    )
