"""More than 8 bits: integers and floats in TIFF, 16 bits in PNG, 10 and 12 in AVIF and HEIF."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import Picture, decode, encode, read_image, write_image
from amd_restore.image_io.colour import srgb_profile
from amd_restore.image_io.metadata import upright

H, W = 7, 9


def noise(dtype: Any, *shape: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def tiff(pixels: np.ndarray[Any, Any], **options: Any) -> bytes:
    """File by a writer that is not ours."""
    out = io.BytesIO()
    tifffile.imwrite(out, pixels, **options)
    return out.getvalue()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_float_tiff_round_trip(tmp_path: Path, channels: int) -> None:
    pixels = noise(np.float32, H, W, channels)
    write_image(tmp_path / "a.tif", Picture(pixels))
    back = read_image(tmp_path / "a.tif").pixels
    assert back.dtype == np.float32
    assert np.array_equal(back, pixels)
    assert np.array_equal(np.atleast_3d(tifffile.imread(tmp_path / "a.tif")), pixels)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_float_tiff_of_others(channels: int) -> None:
    pixels = noise(np.float32, H, W, channels)
    data = tiff(
        pixels.squeeze(),
        photometric="rgb" if channels > 1 else "minisblack",
        extrasamples=["unassalpha"] if channels == 4 else None,
    )
    assert np.array_equal(decode(data).pixels, pixels)


def test_float_pixels_in_formats_of_integers() -> None:
    pixels = noise(np.float32, H, W, 3)
    deep = decode(encode(Picture(pixels), ".png")).pixels
    assert deep.dtype == np.uint16
    assert np.abs(deep / 65535 - pixels).max() <= 0.5001 / 65535
    shallow = decode(encode(Picture(pixels), ".bmp")).pixels
    assert np.abs(shallow / 255 - pixels).max() <= 0.5001 / 255


def test_float_range() -> None:
    pixels = noise(np.float32, H, W)
    pixels[0, 0], pixels[1, 1] = -0.05, 1.05  # what sharpening leaves
    back = decode(tiff(pixels, photometric="minisblack")).pixels
    assert back[0, 0, 0] == 0 and back[1, 1, 0] == 1
    for wrong in (pixels * 255, np.where(pixels > 0.5, np.float32(np.nan), pixels)):
        with pytest.raises(AMDRestoreError, match=r"float samples must lie in \[0, 1\], these span"):
            decode(tiff(wrong, photometric="minisblack"))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32, np.float16])
def test_unusual_samples_are_named(dtype: type) -> None:
    data = tiff(np.zeros((H, W), dtype), photometric="minisblack")
    with pytest.raises(AMDRestoreError, match="TIFF samples are not supported; convert to 8 or 16 bits"):
        decode(data)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_white_is_zero(dtype: type) -> None:
    pixels = noise(dtype, H, W)
    inverted = (1 if dtype is np.float32 else np.iinfo(dtype).max) - pixels
    back = decode(tiff(pixels, photometric="miniswhite")).pixels
    assert np.array_equal(back[..., 0], inverted)


def test_12_bit_gray_spans_16_bits() -> None:
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x00])  # 0, 4095, 2048, 0
    ifd = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 6}
    directory = len(ifd).to_bytes(2, "little")
    for tag, value in ifd.items():
        directory += tag.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little")
    data = b"II*\0" + (14).to_bytes(4, "little") + packed + directory + bytes(4)
    assert decode(data).pixels[0, :, 0].tolist() == [0, 65535, 32776, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["rgb16", "gray16", "rgb32f"])
def test_orientation_of_deep_tiff_is_applied_once(orientation: int, kind: str) -> None:
    shape = (H, W) if kind == "gray16" else (H, W, 3)
    pixels = noise(np.float32 if kind == "rgb32f" else np.uint16, *shape)
    photometric = "minisblack" if kind == "gray16" else "rgb"
    data = tiff(pixels, photometric=photometric, extratags=[(274, "H", 1, orientation, False)])
    picture = decode(data)
    expected = upright(np.atleast_3d(pixels), orientation)
    assert np.array_equal(picture.pixels, expected)
    assert np.array_equal(decode(encode(picture, ".tif")).pixels, expected)


@pytest.mark.parametrize(("byteorder", "bigtiff"), [("<", False), (">", False), ("<", True)])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_kinds_of_16_bit_tiff(byteorder: Any, bigtiff: bool, planar: Any) -> None:
    pixels = noise(np.uint16, H, W, 3)
    stored = pixels if planar == "contig" else pixels.transpose(2, 0, 1)
    options: dict[str, Any] = {"photometric": "rgb", "planarconfig": planar, "byteorder": byteorder}
    data = tiff(stored, bigtiff=bigtiff, compression="zlib", extratags=[(274, "H", 1, 8, False)], **options)
    assert np.array_equal(decode(data).pixels, upright(pixels, 8))


def test_big_tiff_of_float() -> None:
    pixels = noise(np.float32, H, W, 3)  # which Pillow does not open at all
    data = tiff(pixels, photometric="rgb", bigtiff=True, extratags=[(274, "H", 1, 3, False)])
    assert np.array_equal(decode(data).pixels, upright(pixels, 3))


def test_premultiplied_alpha_is_divided_out() -> None:
    colour, alpha = noise(np.uint16, H, W, 3), np.full((H, W, 1), 32768, np.uint16)
    product = (colour * (32768 / 65535)).round().astype(np.uint16)
    back = decode(tiff(np.dstack([product, alpha]), photometric="rgb", extrasamples=["assocalpha"])).pixels
    assert np.abs(back[..., :3].astype(int) - colour).max() <= 1
    assert np.array_equal(back[..., 3:], alpha)


def test_a_mask_is_no_alpha() -> None:
    pixels = noise(np.uint16, H, W, 4)
    back = decode(tiff(pixels, photometric="rgb", extrasamples=["unspecified"])).pixels
    assert np.array_equal(back, pixels[..., :3])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiff_carries_everything(channels: int, dtype: type) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x8769], exif[0x8825] = "Camera maker", {0xA002: 1, 0x9003: "2026:01:02"}, {1: "N"}
    gray = srgb_profile()[:16] + b"GRAY" + srgb_profile()[20:]
    icc = gray if channels < 3 else srgb_profile()
    picture = Picture(noise(dtype, 300, 400, channels), icc, exif.tobytes(), (300.0, 150.0))
    data = encode(picture, ".tiff")
    back = decode(data)
    assert np.array_equal(back.pixels, picture.pixels)
    assert (back.icc, back.dpi) == (icc, (300.0, 150.0))
    written = Image.Exif()
    written.load(data)
    assert written[0x010F] == "Camera maker" and written.get_ifd(0x8825)[1] == "N"
    assert written.get_ifd(0x8769)[0xA002] == 400
    assert np.array_equal(np.atleast_3d(tifffile.imread(io.BytesIO(data))), picture.pixels)


def test_transparent_colour_of_16_bit_png() -> None:
    pixels = noise(np.uint16, H, W, 3)
    data = encode(Picture(pixels), ".png")
    key = b"".join(int(value).to_bytes(2, "big") for value in pixels[2, 3])
    from amd_restore.image_io.chunks import chunk

    back = decode(data[:33] + chunk(b"tRNS", key) + data[33:]).pixels
    assert back.shape[2] == 4 and back[2, 3, 3] == 0 and (back[..., 3] == 0).sum() == 1
    assert np.array_equal(back[..., :3], pixels)


def test_10_bit_avif() -> None:
    pixels: np.ndarray[Any, Any] = np.linspace(0, 1023, 64 * 64, dtype=np.uint16).reshape(64, 64, 1).repeat(3, 2)
    done, data = cv2.imencode(".avif", pixels, [cv2.IMWRITE_AVIF_DEPTH, 10, cv2.IMWRITE_AVIF_QUALITY, 100])
    assert done
    back = decode(data.tobytes()).pixels
    assert back.dtype == np.uint16
    assert np.abs(back / 65535 - pixels / 1023).max() < 4 / 1023


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_heif_round_trip(channels: int, dtype: type) -> None:
    pytest.importorskip("pillow_heif")
    y, x = np.mgrid[0:48, 0:64]
    planes = [0.5 + 0.4 * np.sin(x / 20 + i) * np.cos(y / 15) for i in range(channels)]
    pixels: np.ndarray[Any, Any] = (np.stack(planes, 2) * np.iinfo(dtype).max).astype(dtype)
    back = decode(encode(Picture(pixels), ".heic"))
    assert back.pixels.dtype == dtype and back.pixels.shape == pixels.shape
    assert np.abs(back.pixels.astype(float) - pixels).mean() < 0.01 * np.iinfo(dtype).max


def test_heif_orientation_is_applied_once() -> None:
    heif = pytest.importorskip("pillow_heif")
    stored = np.zeros((32, 64, 3), np.uint8)
    stored[:16, :16] = 255  # upper left
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Phone"
    out = io.BytesIO()
    heif.from_pillow(Image.fromarray(stored)).save(out, quality=90, exif=exif.tobytes())
    picture = decode(out.getvalue())
    assert picture.pixels.shape == (64, 32, 3)
    assert picture.pixels[4, -4].min() > 200 and picture.pixels[4, 4].max() < 60  # turned clockwise once
    again = decode(encode(picture, ".heic"))
    assert again.pixels.shape == (64, 32, 3) and again.pixels[4, -4].min() > 200


def test_heif_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    header = (24).to_bytes(4, "big") + b"ftypheic" + bytes(4) + b"heicmif1"
    for attempt in (lambda: decode(header), lambda: encode(Picture(np.zeros((8, 8, 3), np.uint8)), ".heic")):
        with pytest.raises(AMDRestoreError, match=r"pip install 'amd-restore\[heif\]'"):
            attempt()
