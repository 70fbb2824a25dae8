import io
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from needs import need
from PIL import Image, ImageCms

from vggfeat.datasets import images
from vggfeat.datasets.images import crop, decode, rescale, rescaled_size
from vggfeat.errors import ImageError

RAMP = np.linspace(0, 255, 64 * 48 * 3).reshape(48, 64, 3).astype(np.uint8)


def encoded(picture: Image.Image, format: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def pixels(data: bytes, **options) -> np.ndarray:
    return np.asarray(decode(data, **options))


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_the_pixels(format):
    assert np.array_equal(pixels(encoded(Image.fromarray(RAMP), format)), RAMP)


def test_webp_and_gif_and_jpeg_give_rgb():
    picture = Image.fromarray(RAMP)
    assert np.array_equal(pixels(encoded(picture, "WEBP", lossless=True)), RAMP)
    for format in ("GIF", "JPEG"):
        out = pixels(encoded(picture, format))
        assert out.shape == RAMP.shape
        assert np.abs(out.astype(int) - RAMP).mean() < 12


def test_the_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for format in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        assert np.allclose(pixels(data)[0, 0], [255, 0, 0], atol=3), format


def test_grey_and_one_bit_pictures_become_three_equal_channels():
    grey = Image.fromarray(RAMP[..., 0])
    assert np.array_equal(pixels(encoded(grey, "PNG")), np.repeat(RAMP[..., :1], 3, axis=2))
    bits = Image.fromarray((RAMP[..., 0] > 99).astype(np.uint8) * 255).convert("1")
    assert set(np.unique(pixels(encoded(bits, "PNG")))) == {0, 255}


def test_16_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 128, 129, 257, 32896, 65535]], dtype=np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    assert np.array_equal(pixels(encoded(Image.fromarray(values), "PNG"))[..., 0], expected)
    assert np.array_equal(pixels(encoded(Image.fromarray(values), "TIFF"))[..., 0], expected)


def test_transparency_is_laid_on_white():
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 3] = (0, 255, 128)
    assert pixels(encoded(Image.fromarray(rgba), "PNG"))[0].tolist() == [[255] * 3, [0] * 3, [127] * 3]
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([9, 9, 9])
    assert pixels(encoded(palette, "PNG", transparency=0)).tolist() == [[[255] * 3]]
    assert pixels(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG", transparency=(1, 2, 3))).tolist() == [[[255] * 3]]


def test_cmyk_is_converted_plain_and_adobe_inverted_alike():
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    data = encoded(cmyk, "JPEG", quality=100)  # Pillow writes Adobe's marker and inverted values
    assert b"Adobe" in data
    assert np.allclose(pixels(data)[0, 0], [255, 0, 0], atol=4)
    assert np.allclose(pixels(encoded(cmyk, "TIFF"))[0, 0], [255, 0, 0], atol=1)
    # A plain CMYK JPEG has no Adobe marker and its values are as they stand.
    inverted = encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 255)), "JPEG", quality=100)
    start = inverted.index(b"\xff\xee")
    length = int.from_bytes(inverted[start + 2 : start + 4], "big")
    plain = inverted[:start] + inverted[start + 2 + length :]
    assert np.allclose(pixels(plain)[0, 0], [255, 0, 0], atol=4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured_only_when_asked(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.zeros((2, 3, 3), dtype=np.uint8)
    upright[0, 0], upright[0, 2], upright[1, 0] = 250, 150, 50
    data = encoded(Image.fromarray(upright), "PNG", exif=exif)
    assert np.array_equal(pixels(data), upright), "ignored by default"
    expected = {  # by EXIF 2.3's table: where the stored row 0 and column 0 belong in the upright picture
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, -1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright),
    }[orientation]
    assert np.array_equal(pixels(data, exif=True), expected)


def reason(source) -> str:
    with pytest.raises(ImageError) as error:
        decode(source)
    return str(error.value)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    need("os.mkfifo")
    os.mkfifo(tmp_path / "fifo.jpg")
    assert reason(str(tmp_path / "fifo.jpg")) == "not a regular file"
    assert reason("/dev/zero") == "not a regular file"


def test_what_cannot_be_read_says_why(tmp_path):
    assert reason(str(tmp_path / "missing.jpg")) == "no such file or directory"
    assert reason(str(tmp_path)) == "is a folder"
    assert reason("a\0b.jpg") == "embedded null byte"
    assert reason(b"") == "empty file"
    assert reason(b"\0" * 100) == "no image: only zero bytes"
    assert reason(b"  <!DOCTYPE html><html>404</html>") == "no image: an HTML or XML page"
    assert reason(b"hello, world") == ("no image of a known format (JPEG, PNG, WEBP, BMP, DIB, GIF, TIFF, AVIF, HEIC)")
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").startswith("no image of a known format")


def test_a_truncated_jpeg_is_a_failure_at_every_tenth_byte():
    data = encoded(Image.fromarray(RAMP), "JPEG")
    for end in range(0, len(data) - 2, 10):
        assert reason(data[:end])


def test_damaged_files_raise_nothing_but_image_errors():
    rng = np.random.default_rng(0)
    for format in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        data = bytearray(encoded(Image.fromarray(RAMP), format))
        for _ in range(150):
            broken = bytearray(data)
            for at in rng.integers(0, len(data), 5):
                broken[at] = rng.integers(256)
            try:
                assert decode(bytes(broken)).mode == "RGB"
            except ImageError as error:
                assert str(error)


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    header = encoded(Image.new("L", (1, 1)), "PNG")
    bomb = header.replace((1).to_bytes(4, "big") * 2, (30000).to_bytes(4, "big") * 2, 1)
    # The size is read before the checksum of the header chunk would be found wrong.
    import zlib

    chunk = bomb[12:29]
    bomb = bomb[:29] + zlib.crc32(chunk).to_bytes(4, "big") + bomb[33:]
    assert reason(bomb) == "more than 100 million pixels"


def test_extreme_shapes_fail_instead_of_filling_the_memory():
    with pytest.raises(ImageError) as error:
        rescale(Image.new("RGB", (1, 5000)), 256)
    assert str(error.value) == "1x5000 becomes 256x1280000 at Q = 256: too large"
    assert rescale(Image.new("RGB", (100, 1200)), 768).shape == (9216, 768, 3)


def test_float_pixels_are_refused():
    data = encoded(Image.fromarray(np.ones((4, 4), dtype=np.float32)), "TIFF")
    assert reason(data) == "32-bit float pixels, whose range is unknown: convert it to 8 bits a channel"


def test_an_icc_profile_does_not_change_the_pixels():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(pixels(encoded(Image.fromarray(RAMP), "PNG", icc_profile=profile)), RAMP)


@pytest.mark.parametrize(
    ("size", "Q", "expected"),
    [
        ((300, 200), 256, (384, 256)),
        ((200, 300), 256, (256, 384)),
        ((500, 375), 256, (341, 256)),
        ((7, 7), 224, (224, 224)),
        ((1000, 999), 512, (512, 512)),
    ],
)
def test_the_smallest_side_becomes_q_and_the_longer_one_is_rounded_down(size, Q, expected):
    assert rescaled_size(*size, Q) == expected
    height, width, _ = rescale(Image.new("RGB", size), Q).shape
    assert (width, height) == expected


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("Q", [224, 256, 512])
def test_rescaling_is_antialiased_as_torchs_own(filter, Q):
    rng = np.random.default_rng(1)
    picture = rng.integers(80, 176, (400, 600, 3), dtype=np.uint8)  # no overshoot is clipped
    ours = rescale(Image.fromarray(picture), Q, filter).astype(np.float32)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    theirs = F.interpolate(tensor, ours.shape[:2], mode=filter, antialias=True, align_corners=False)
    difference = np.abs(ours - theirs[0].permute(1, 2, 0).clamp(0, 255).numpy())
    assert difference.max() <= 2
    assert difference.mean() < 0.5


def test_a_crop_is_cut_at_the_border_and_an_outside_one_refused():
    picture = Image.fromarray(RAMP)
    assert np.array_equal(np.asarray(crop(picture, (60, -5, 80, 3))), RAMP[0:3, 60:64])
    with pytest.raises(ImageError) as error:
        crop(picture, (64, 0, 80, 10))
    assert str(error.value) == "box (64, 0, 80, 10) lies outside of the 64x48 picture"


def test_memory_errors_are_the_images_not_the_runs(monkeypatch):
    def fail(*args, **options):
        raise MemoryError

    monkeypatch.setattr(images.Image, "open", fail)
    assert reason(b"x") == "not enough memory to decode it"
