"""Image files: what they carry survives, and what is wrong with them is said in one line."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import (
    Picture,
    decode,
    encode,
    fill_transparent,
    read_frames,
    read_image,
    read_shape,
    write_image,
)
from amd_restore.image_io.picture import lenient

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def random_pixels(channels: int, dtype: type = np.uint8, height: int = 19, width: int = 23) -> np.ndarray[Any, Any]:
    high = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, high, (height, width, channels), dtype, endpoint=True)


def smooth_pixels(channels: int) -> np.ndarray[Any, Any]:
    y, x = np.mgrid[0:64, 0:80]
    planes = [128 + 100 * np.sin(x / 20 + i) * np.cos(y / 15) for i in range(channels)]
    return np.stack(planes, axis=2).round().astype(np.uint8)


def exif_bytes(orientation: int = 1, **ifd: Any) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "Camera maker"
    exif[0x0112] = orientation
    exif[0x8769] = {0xA002: 23, 0xA003: 19, 0x9003: "2026:01:02 03:04:05", 0x927C: b"maker note"}
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 3.0)}
    return exif.tobytes()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".tif"])
def test_lossless_round_trip(tmp_path: Path, channels: int, dtype: type, suffix: str) -> None:
    pixels = random_pixels(channels, dtype)
    path = tmp_path / f"picture{suffix}"
    write_image(path, Picture(pixels))
    back = read_image(path).pixels
    assert back.dtype == dtype
    assert np.array_equal(back, pixels)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bmp_round_trip(tmp_path: Path, channels: int) -> None:
    pixels = random_pixels(channels)
    write_image(tmp_path / "a.bmp", Picture(pixels))
    assert np.array_equal(read_image(tmp_path / "a.bmp").pixels, pixels)


@pytest.mark.parametrize(("suffix", "channels"), [(".jpg", 1), (".JPEG", 3), (".webp", 3), (".webp", 4)])
def test_lossy_formats_stay_close(tmp_path: Path, suffix: str, channels: int) -> None:
    pixels = smooth_pixels(channels)
    write_image(tmp_path / f"a{suffix}", Picture(pixels))
    back = read_image(tmp_path / f"a{suffix}").pixels
    assert back.shape == pixels.shape
    visible = pixels[..., -1] > 0 if channels == 4 else np.ones(pixels.shape[:2], bool)
    assert np.abs(back.astype(int) - pixels)[visible].mean() < 2


def test_16_bits_are_rounded_where_the_format_has_8() -> None:
    pixels = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64, 1)
    back = decode(encode(Picture(pixels), ".bmp")).pixels
    assert np.array_equal(back, np.rint(pixels / 257).astype(np.uint8))


@pytest.mark.parametrize("name", ["фото 写真.png", "ünïcode ☃.jpg", "a b'c\"d.webp"])
def test_any_name(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / "ордер" / name, Picture(smooth_pixels(3)))
    assert read_image(tmp_path / "ордер" / name).pixels.shape == (64, 80, 3)


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encode(Picture(random_pixels(3)), ".png"))
    assert np.array_equal(read_image(tmp_path / "a.jpg").pixels, random_pixels(3))


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("LA", 2), ("P", 3), ("RGB", 3), ("RGBA", 4), ("I;16", 1)]
)
def test_modes_of_png(mode: str, channels: int) -> None:
    rgb = Image.fromarray(smooth_pixels(3))
    image = (
        rgb.convert("L").convert("I").point(lambda v: v * 257).convert(mode) if mode == "I;16" else rgb.convert(mode)
    )
    out = io.BytesIO()
    image.save(out, "PNG")
    pixels = decode(out.getvalue()).pixels
    assert pixels.shape == (64, 80, channels)
    assert pixels.dtype == (np.uint16 if mode == "I;16" else np.uint8)
    expected = np.asarray(image.convert("RGB") if mode == "P" else image)
    if mode != "1":
        assert np.array_equal(pixels.squeeze(), expected)


def test_16_bit_png_of_gray_and_alpha() -> None:
    pixels = random_pixels(2, np.uint16)
    height, width = pixels.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 4, 0, 0, 0)), (b"IDAT", zlib.compress(lines)))
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in (*chunks, (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    assert np.array_equal(decode(data).pixels, pixels)


def test_transparent_colour_of_a_palette() -> None:
    image = Image.fromarray(smooth_pixels(3)).convert("P")
    out = io.BytesIO()
    image.save(out, "PNG", transparency=image.getpixel((0, 0)))
    pixels = decode(out.getvalue()).pixels
    assert pixels.shape[2] == 4 and pixels[0, 0, 3] == 0 and (pixels[..., 3] == 255).any()


def test_cmyk_becomes_rgb_without_its_profile() -> None:
    out = io.BytesIO()
    profile = SRGB[:16] + b"CMYK" + SRGB[20:]
    Image.fromarray(smooth_pixels(3)).convert("CMYK").save(out, "JPEG", quality=95, icc_profile=profile)
    picture = decode(out.getvalue())
    assert picture.icc is None
    assert np.abs(picture.pixels.astype(int) - smooth_pixels(3)).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff"])
def test_orientation_is_applied_once(orientation: int, suffix: str) -> None:
    from PIL import ImageOps

    out = io.BytesIO()
    image = Image.fromarray(smooth_pixels(3))
    kind = {".png": "PNG", ".jpg": "JPEG", ".tiff": "TIFF"}[suffix]
    image.save(out, kind, exif=exif_bytes(orientation))
    picture = decode(out.getvalue())
    with Image.open(io.BytesIO(out.getvalue())) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    assert np.array_equal(picture.pixels, expected)
    again = decode(encode(picture, ".png"))
    assert np.array_equal(again.pixels, expected)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff"])
def test_metadata_are_carried(suffix: str) -> None:
    out = io.BytesIO()
    Image.fromarray(smooth_pixels(3)).save(out, "JPEG", exif=exif_bytes(6), icc_profile=SRGB)
    picture = decode(out.getvalue())
    big = Picture(np.zeros((200, 160, 3), np.uint8), picture.icc, picture.exif)
    with Image.open(io.BytesIO(encode(big, suffix))) as written:
        assert written.info["icc_profile"] == SRGB
        exif = written.getexif()
        assert exif[0x010F] == "Camera maker"
        assert exif.get(0x0112, 1) == 1
        camera = exif.get_ifd(0x8769)
        assert camera[0x9003] == "2026:01:02 03:04:05"
        assert (camera[0xA002], camera[0xA003]) == (160, 200)
        assert 0x927C not in camera
        assert exif.get_ifd(0x8825)[1] == "N"
        written.load()


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_profile_of_16_bit_files(channels: int, suffix: str) -> None:
    pixels = random_pixels(channels, np.uint16)
    data = encode(Picture(pixels, SRGB, exif_bytes()), suffix)
    back = decode(data)
    assert back.icc == SRGB
    assert np.array_equal(back.pixels, pixels)
    others_view: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(others_view[..., 2], pixels[..., 0])
    if suffix == ".png":
        with Image.open(io.BytesIO(data)) as written:
            assert written.getexif()[0x010F] == "Camera maker"


def test_profile_of_another_colour_space_is_dropped() -> None:
    gray = SRGB[:16] + b"GRAY" + SRGB[20:]
    out = io.BytesIO()
    Image.fromarray(smooth_pixels(1)[..., 0]).save(out, "PNG", icc_profile=gray)
    assert decode(out.getvalue()).icc == gray
    with Image.open(io.BytesIO(encode(decode(out.getvalue()), ".webp"))) as webp:
        assert "icc_profile" not in webp.info
    out = io.BytesIO()
    Image.fromarray(smooth_pixels(3)).save(out, "PNG", icc_profile=gray)
    assert decode(out.getvalue()).icc is None


def test_damaged_exif_does_not_stop_the_picture() -> None:
    out = io.BytesIO()
    Image.fromarray(smooth_pixels(3)).save(out, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage")
    assert decode(out.getvalue()).pixels.shape == (64, 80, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff", ".bmp"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
def test_truncated(tmp_path: Path, suffix: str, keep: float) -> None:
    data = encode(Picture(random_pixels(3, height=60, width=70)), suffix)
    (tmp_path / f"a{suffix}").write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(AMDRestoreError, match=rf"a{suffix}: .*(truncated|broken)"):
        read_image(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_truncated_16_bits(suffix: str) -> None:
    data = encode(Picture(random_pixels(3, np.uint16, 60, 70)), suffix)
    with pytest.raises(AMDRestoreError, match="truncated|broken"):
        decode(data[: len(data) // 2])


def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("these are not pixels")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(
        AMDRestoreError, match=r"text\.png: no image file.*PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF and HEIF can"
    ):
        read_image(tmp_path / "text.png")
    with pytest.raises(AMDRestoreError, match=r"empty\.png: the file is empty"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(AMDRestoreError, match=r"none\.png: cannot be read: no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(AMDRestoreError, match="cannot be read: is a directory"):
        read_image(tmp_path)


def test_animations_and_pages_are_refused() -> None:
    frames = [Image.fromarray(np.full((9, 9, 3), value, np.uint8)) for value in (0, 90, 180)]
    for kind in ("TIFF", "WEBP", "PNG"):
        out = io.BytesIO()
        frames[0].save(out, kind, save_all=True, append_images=frames[1:])
        advice = "3 pages; split it" if kind == "TIFF" else "3 frames; restore it frame by frame with --frames"
        with pytest.raises(AMDRestoreError, match=f"holds {advice}"):
            decode(out.getvalue())


def test_what_formats_cannot_hold() -> None:
    with pytest.raises(AMDRestoreError, match="JPEG has no transparency"):
        encode(Picture(random_pixels(4)), ".jpg")
    with pytest.raises(AMDRestoreError, match="WEBP cannot hold 20000x1 pixels"):
        encode(Picture(np.zeros((1, 20000, 3), np.uint8)), ".webp")
    with pytest.raises(AMDRestoreError, match="cannot write '.gif' files"):
        encode(Picture(random_pixels(3)), ".gif")


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write_image(path, Picture(random_pixels(3)))
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(AMDRestoreError, match=r"cannot write .*a\.png: no space left on device"):
        write_image(path, Picture(random_pixels(1)))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_transparent_pixels_take_the_colour_around() -> None:
    colour = np.zeros((40, 50, 3), np.float32)
    alpha = np.zeros((40, 50, 1), np.float32)
    colour[10:20, 10:20], alpha[10:20, 10:20] = (1.0, 0.5, 0.25), 1.0
    alpha[10, 10] = 0.01
    filled = fill_transparent(colour, alpha)
    assert np.allclose(filled, (1.0, 0.5, 0.25), atol=1e-5)
    assert np.array_equal(filled[10:20, 10:20], colour[10:20, 10:20])
    assert fill_transparent(colour, np.ones_like(alpha)) is colour
    assert fill_transparent(colour, np.zeros_like(alpha)) is colour


def test_pillows_own_limit_on_pixels_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    for suffix in (".tif", ".png", ".gif"):
        file = tmp_path / f"a{suffix}"
        with lenient():
            Image.fromarray(pixels).save(
                file, save_all=True, append_images=[Image.fromarray(pixels[::-1])] * (suffix == ".gif")
            )
        assert read_shape(file) is not None, suffix
        if suffix == ".gif":
            assert len(list(read_frames(file))) == 2
        else:
            assert np.array_equal(read_image(file).pixels, pixels)
    assert Image.MAX_IMAGE_PIXELS == 8


def test_libraries_say_nothing_past_everyone(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Neither Pillow in several threads, nor libtiff and libpng, which know standard error only."""
    out = io.BytesIO()
    Image.fromarray(random_pixels(3)).save(out, "TIFF", compression="tiff_deflate", tiffinfo={305: "a" * 99})
    odd = out.getvalue().replace(struct.pack("<HHI", 305, 2, 100), struct.pack("<HHI", 305, 2, 1 << 20))
    strip = out.getvalue().index(b"\x78")
    broken = out.getvalue()[:strip] + bytes(8) + out.getvalue()[strip + 8 :]
    deep = encode(Picture(random_pixels(3).astype(np.uint16)), ".png")
    truncated = deep[: deep.rindex(b"IEND") - 12]  # without the checksum of the pixels and what follows
    for number, data in enumerate((odd, broken, truncated)):
        (tmp_path / f"{number}.tif").write_bytes(data)

    def read(path: Path) -> None:
        read_shape(path)
        with contextlib.suppress(AMDRestoreError):
            read_image(path)

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(read, sorted(tmp_path.iterdir()) * 20))
    assert warned == [] and capfd.readouterr() == ("", "")
