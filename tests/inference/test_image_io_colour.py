"""Profiles, resolution, quality, limits and hidden colours."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from places import REPOSITORY

from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import SUFFIXES, Picture, decode, encode, read_image, suffix_of
from amd_restore.image_io.chunks import chunk
from amd_restore.image_io.colour import srgb_profile
from amd_restore.image_io.decoding import open_header
from amd_restore.image_io.formats import NAMES

WITH_HEIF = pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff", ".avif", ".heic"])


def ramp(channels: int = 3, side: int = 64) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    y, x = np.mgrid[0:side, 0:side] / (side - 1)
    return (np.stack([x, y, 1 - x, 0.5 + 0 * x][:channels], 2) * 255).astype(np.uint8)


def file(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def ink_profile() -> bytes:
    """A CMYK profile (ICC.1:2022 lut8Type) of inks unlike the plain formula's: full ink reaches L* = 30 only."""
    grid = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    lab = b"".join(bytes([round(255 * (1 - 0.7 * max(ink))), 128, 128]) for ink in grid)
    identity = bytes(range(256))
    matrix = b"".join(struct.pack(">i", 65536 * (i % 4 == 0)) for i in range(9))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + identity * 4 + lab + identity * 3
    text = b"desc" + bytes(4) + struct.pack(">I", 4) + b"ink\0" + bytes(78)
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    blocks, table, offset = b"", b"", 128 + 4 + 12 * 3
    for name, block in ((b"A2B0", lut), (b"desc", text), (b"wtpt", white)):
        block += bytes(-len(block) % 4)
        table += name + struct.pack(">II", offset, len(block))
        blocks, offset = blocks + block, offset + len(block)
    header = struct.pack(">I", offset) + b"lcms" + b"\2\x10\0\0" + b"prtrCMYKLab " + bytes(12) + b"acsp" + bytes(28)
    header += struct.pack(">iii", 63190, 65536, 54061) + bytes(48)
    return header + struct.pack(">I", 3) + table + blocks


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_goes_through_its_profile(kind: str) -> None:
    black = Image.new("CMYK", (32, 32), (0, 0, 0, 255))
    plain = decode(file(black, kind))
    assert plain.icc is None and plain.pixels.max() <= 2
    through = decode(file(black, kind, icc_profile=ink_profile()))
    assert through.icc == srgb_profile()
    paper = decode(file(Image.new("CMYK", (32, 32)), kind, icc_profile=ink_profile()))
    assert paper.pixels.min() >= 253
    # L* = 30 is gray 71 in sRGB; black point compensation may darken it, yet not to the plain formula's answer.
    gray = decode(file(Image.new("CMYK", (32, 32), (0, 0, 0, 128)), kind, icc_profile=ink_profile()))
    expected = ImageCms.profileToProfile(
        Image.new("CMYK", (1, 1), (0, 0, 0, 128)),
        ImageCms.ImageCmsProfile(io.BytesIO(ink_profile())),
        ImageCms.createProfile("sRGB"),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        "RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert expected is not None
    assert np.abs(gray.pixels[16, 16].astype(int) - np.asarray(expected)[0, 0]).max() <= 2


def test_lab_becomes_srgb() -> None:
    rgb = Image.fromarray(ramp())
    srgb = ImageCms.createProfile("sRGB")
    lab = ImageCms.profileToProfile(rgb, srgb, ImageCms.createProfile("LAB"), outputMode="LAB")
    assert lab is not None
    picture = decode(file(lab, "TIFF"))
    assert picture.icc == srgb_profile()
    assert np.abs(picture.pixels.astype(int) - ramp()).mean() < 4  # 8-bit Lab is coarse


def test_palette_keeps_its_profile() -> None:
    palette = Image.fromarray(ramp()).quantize(64)
    picture = decode(file(palette, "PNG", icc_profile=srgb_profile()))
    assert picture.icc == srgb_profile()
    assert np.array_equal(picture.pixels, np.asarray(palette.convert("RGB")))


def test_profile_is_the_same_in_every_run() -> None:
    code = "from amd_restore.image_io.colour import srgb_profile; import zlib; print(zlib.crc32(srgb_profile()))"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True).stdout
    assert int(printed) == zlib.crc32(srgb_profile())


@WITH_HEIF
def test_profile_and_exif_are_carried(suffix: str) -> None:
    if suffix == ".heic":
        pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x010F] = "Camera maker"
    back = decode(encode(Picture(ramp(), srgb_profile(), exif.tobytes(), (300.0, 300.0)), suffix))
    assert back.icc == srgb_profile()
    assert back.exif is not None and b"Camera maker" in back.exif
    assert back.dpi == pytest.approx((300, 300), abs=0.1)
    assert np.abs(back.pixels.astype(int) - ramp()).mean() < 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_resolution_follows_the_size(kind: str) -> None:
    picture = decode(file(Image.fromarray(ramp()), kind, dpi=(300, 150)))
    assert picture.dpi == pytest.approx((300, 150), abs=0.02)
    large = picture.with_pixels(np.zeros((256, 128, 3), np.uint8))  # 4 times the height, 2 times the width
    suffix = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tiff", "BMP": ".bmp"}[kind]
    assert decode(encode(large, suffix)).dpi == pytest.approx((600, 600), abs=0.1)
    deep = Picture(np.zeros((8, 8, 3), np.uint16), dpi=(600, 300))
    assert decode(encode(deep, ".png")).dpi == pytest.approx((600, 300), abs=0.1)


def test_resolution_turns_with_the_picture() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x011A], exif[0x011B], exif[0x0128] = 6, 100.0, 50.0, 3
    assert decode(file(Image.fromarray(ramp()), "PNG", exif=exif)).dpi == pytest.approx((127, 254))
    del exif[0x011A]
    assert decode(file(Image.fromarray(ramp()), "JPEG", exif=exif)).dpi is None  # Pillow would make 72 up


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif", ".heic"])
def test_quality(suffix: str) -> None:
    if suffix == ".heic":
        pytest.importorskip("pillow_heif")
    noise = Picture(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    sizes = [len(encode(noise, suffix, quality)) for quality in (10, 60, 100)]
    assert sizes[0] < sizes[1] < sizes[2]
    for wrong in (0, 101):
        with pytest.raises(AMDRestoreError, match="quality must be a number from 1 to 100"):
            encode(noise, suffix, wrong)


def test_gray_avif_stays_gray() -> None:
    back = decode(encode(Picture(ramp(1)), ".avif"))
    assert np.ptp(back.pixels.astype(int), axis=2).max() == 0
    assert np.abs(back.pixels[..., 0].astype(int) - ramp(1)[..., 0]).mean() < 3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_suffix_of_content(suffix: str) -> None:
    usual = {name: suffix for suffix, name in reversed(NAMES.items())}
    if NAMES[suffix] == "HEIF":
        pytest.importorskip("pillow_heif")
    assert suffix_of(encode(Picture(ramp()), suffix)) == usual[NAMES[suffix]]


def test_suffix_of_nothing() -> None:
    assert suffix_of(b"text") is None and suffix_of(b"") is None


def bomb(height: int = 50_000, width: int = 50_000) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(150_001 * 40))
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, body) for name, body in chunks)


def test_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    """In a process of its own, whose memory and time are looked at."""
    (tmp_path / "bomb.png").write_bytes(bomb())
    code = """
import resource, sys, time
from pathlib import Path
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import read_image
def peak():
    status = Path("/proc/self/status")  # the other counter starts at the size of the process that started this one
    if status.is_file():
        return int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, start = peak(), time.perf_counter()
try:
    read_image(sys.argv[1])
except AMDRestoreError as error:
    print(error)
print(peak() - before, time.perf_counter() - start)
"""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    arguments = [sys.executable, "-c", code, str(tmp_path / "bomb.png")]
    printed = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=True).stdout
    message, numbers = printed.splitlines()
    assert "bomb.png: 50000x50000 pixels are 2500.0 megapixels, the limit is 200 megapixels" in message
    kilobytes, seconds = map(float, numbers.split())
    assert kilobytes < 30_000 and seconds < 1


def test_limit_is_a_parameter(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(Picture(ramp()), ".png"))
    assert read_image(tmp_path / "a.png", 64 * 64).pixels.shape == (64, 64, 3)
    with pytest.raises(AMDRestoreError, match=r"a\.png: 64x64 pixels are 0.004096 megapixels, the limit is 0.004095"):
        read_image(tmp_path / "a.png", 64 * 64 - 1)
    assert Image.MAX_IMAGE_PIXELS is not None and 2 * Image.MAX_IMAGE_PIXELS < 10_000 * 20_000  # Pillow's own limit
    before = Image.MAX_IMAGE_PIXELS
    assert open_header(bomb(10_000, 20_000), 200_000_000).size == (20_000, 10_000)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert stat.S_ISFIFO((tmp_path / "a.png").stat().st_mode)
    with pytest.raises(AMDRestoreError, match="no ordinary file"):
        read_image(tmp_path / "a.png")


def test_cut_out_gets_no_halo() -> None:
    """A coloured disk on transparent black, restored by the released weights: no dark or foreign edge."""
    from amd_restore.pipeline import RestorationPipeline

    y, x = np.mgrid[0:40, 0:40]
    inside = (y - 20) ** 2 + (x - 19) ** 2 <= 13**2
    disk = np.zeros((40, 40, 4), np.uint8)
    disk[inside] = (230, 120, 40, 255)
    large = RestorationPipeline.from_pretrained(device="cpu", dtype="float32").restore_image(disk)
    alpha = large[..., 3:].astype(float) / 255
    assert abs(alpha.sum() / 16 - inside.sum()) < 0.02 * inside.sum()
    seen = large[..., :3][alpha[..., 0] > 0]
    assert np.abs(seen.astype(int) - (230, 120, 40)).max() <= 12
    for ground in (0, 255):  # no pixel outside the range between the disk and what is behind it
        shown = large[..., :3] * alpha + ground * (1 - alpha)
        low, high = np.minimum((230, 120, 40), ground), np.maximum((230, 120, 40), ground)
        assert (shown >= low - 12).all() and (shown <= high + 12).all()
