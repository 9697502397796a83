"""Image files as people have them, good and bad, made by code; each knows what must come of it.

``build(folder)`` writes them and returns a list of :class:`Case`. A good case has ``pixels``: the upright picture, to
be met within ``tolerance``. A bad one has ``error``: a pattern that its one line must match. Run as
``python tests/helpers/corpus.py FOLDER`` to get the files alone.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from amd_restore.image_io import Frame, Picture, encode, write_frames
from amd_restore.image_io.colour import srgb_profile
from amd_restore.image_io.metadata import upright

Pixels = np.ndarray[Any, Any]
TRUNCATED = "truncated|damaged|broken|no image file"


@dataclass(frozen=True)
class Case:
    """A file and what must come of it.

    Args:
        path: of the file.
        pixels: (H, W, C) of the upright picture, None if it must be refused.
        tolerance: largest mean difference of a pixel, as a share of the range.
        error: pattern of the one line to be said, None if it can be read.
        icc: whether the picture has a profile.
    """

    path: Path
    pixels: Pixels | None = None
    tolerance: float = 0.0
    error: str | None = None
    icc: bool = False

    @property
    def name(self) -> str:
        """Of the file, cut to a readable length."""
        return self.path.name[:60]


class _Builder:
    def __init__(self, folder: Path) -> None:
        self.folder, self.cases = folder, list[Case]()

    def good(self, name: str, data: bytes, pixels: Pixels, tolerance: float = 0.0, icc: bool = False) -> None:
        (self.folder / name).write_bytes(data)
        self.cases.append(Case(self.folder / name, np.atleast_3d(pixels), tolerance, icc=icc))

    def bad(self, name: str, data: bytes | None, error: str) -> None:
        if data is not None:
            (self.folder / name).write_bytes(data)
        self.cases.append(Case(self.folder / name, error=error))


def build(folder: Path) -> list[Case]:
    """Write all files into ``folder``; returns the cases, whose paths are unique."""
    folder.mkdir(parents=True, exist_ok=True)
    builder = _Builder(folder)
    for part in (_modes, _depths, _profiles, _orientations, _sizes, _names, _truncated, _bombs, _animations, _no_files):
        part(builder)
    return builder.cases


def photo(height: int, width: int, channels: int = 3, dtype: Any = np.uint8) -> Pixels:
    """Smooth colours with an edge; alpha has hidden, half visible and visible parts."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    colours = 1 if channels < 3 else 3
    planes = [0.5 + 0.35 * np.sin(x / 9 + i) * np.cos(y / 7 - i) + 0.1 * (x > width / 2) for i in range(colours)]
    if channels in (2, 4):
        planes.append(np.clip((x - width / 4) / max(1, width / 2), 0, 1))
    stacked = np.stack(planes, 2)
    if np.dtype(dtype).kind == "f":
        return stacked.astype(dtype)
    return (stacked * np.iinfo(dtype).max + 0.5).astype(dtype)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Bytes of a file by Pillow."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _modes(b: _Builder) -> None:
    rgb = Image.fromarray(photo(20, 24))
    gray = rgb.convert("L")
    b.good("mode_1.png", saved(rgb.convert("1"), "PNG"), np.asarray(rgb.convert("1")).astype(np.uint8) * 255)
    b.good("mode_1.tif", saved(rgb.convert("1"), "TIFF"), np.asarray(rgb.convert("1")).astype(np.uint8) * 255)
    b.good("mode_1.bmp", saved(rgb.convert("1"), "BMP"), np.asarray(rgb.convert("1")).astype(np.uint8) * 255)
    for kind, suffix in (("PNG", "png"), ("TIFF", "tiff"), ("BMP", "bmp")):
        b.good(f"mode_L.{suffix}", saved(gray, kind), np.asarray(gray))
        palette = rgb.quantize(32)
        b.good(f"mode_P.{suffix}", saved(palette, kind), np.asarray(palette.convert("RGB")))
    palette = rgb.quantize(16)
    b.good("mode_P4.png", saved(palette, "PNG", bits=4), np.asarray(palette.convert("RGB")))
    b.good("mode_P.gif", saved(palette, "GIF"), np.asarray(palette.convert("RGB")))
    hidden = np.asarray(palette.convert("RGBA")).copy()
    hidden[np.asarray(palette) == 3, 3] = 0
    b.good("mode_P_key.png", saved(palette, "PNG", transparency=3), hidden)
    for channels, name in ((2, "LA"), (4, "RGBA")):
        pixels = photo(20, 24, channels)
        b.good(f"mode_{name}.png", saved(Image.fromarray(pixels), "PNG"), pixels)
        b.good(f"mode_{name}.tif", saved(Image.fromarray(pixels), "TIFF"), pixels)
    b.good(
        "mode_RGBA.webp", saved(Image.fromarray(photo(20, 24, 4)), "WEBP", lossless=True, exact=True), photo(20, 24, 4)
    )
    b.good("mode_RGBA.bmp", encode(Picture(photo(20, 24, 4)), ".bmp"), photo(20, 24, 4))
    b.good("mode_RGBA.avif", saved(Image.fromarray(photo(20, 24, 4)), "AVIF", quality=100), photo(20, 24, 4), 0.02)
    keyed = np.dstack([photo(20, 24), np.full((20, 24), 255, np.uint8)])
    keyed[(keyed[..., :3] == keyed[5, 5, :3]).all(2), 3] = 0
    b.good("mode_RGB_key.png", saved(rgb, "PNG", transparency=tuple(map(int, keyed[5, 5, :3]))), keyed)
    b.good("mode_CMYK.jpg", saved(rgb.convert("CMYK"), "JPEG", quality=100), np.asarray(rgb), 0.02)
    b.good("mode_CMYK.tif", saved(rgb.convert("CMYK"), "TIFF"), np.asarray(rgb), 0.01)
    b.good(
        "mode_YCbCr.tif", saved(rgb.convert("YCbCr"), "TIFF", compression="jpeg", quality=100), np.asarray(rgb), 0.02
    )
    lab = ImageCms.profileToProfile(
        rgb, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    b.good("mode_LAB.tif", saved(lab, "TIFF"), np.asarray(rgb), 0.02, icc=True)
    b.good("progressive.jpg", saved(rgb, "JPEG", quality=100, subsampling=0, progressive=True), np.asarray(rgb), 0.01)
    b.good("gray.jpg", saved(gray, "JPEG", quality=100), np.asarray(gray), 0.01)
    b.good("lzw.tif", saved(rgb, "TIFF", compression="tiff_lzw"), np.asarray(rgb))
    b.good("lossless.webp", saved(rgb, "WEBP", lossless=True), np.asarray(rgb))
    b.good("lossy.avif", saved(rgb, "AVIF", quality=100, subsampling="4:4:4"), np.asarray(rgb), 0.01)


def _depths(b: _Builder) -> None:
    for channels in (1, 2, 3, 4):
        deep = photo(20, 24, channels, np.uint16)
        b.good(f"depth_16_{channels}.png", encode(Picture(deep), ".png"), deep)
        b.good(f"depth_16_{channels}.tif", encode(Picture(deep), ".tif"), deep)
        real = photo(20, 24, channels, np.float32)
        b.good(f"depth_float_{channels}.tif", encode(Picture(real), ".tif"), real)
    real = photo(20, 24, 1, np.float32)[..., 0]
    b.good("depth_F.tif", saved(Image.fromarray(real), "TIFF"), real)
    b.bad("depth_float_255.tif", saved(Image.fromarray(real * 255), "TIFF"), r"float samples must lie in \[0, 1\]")
    b.bad("depth_I32.tif", saved(Image.fromarray(np.zeros((9, 9), np.int32)), "TIFF"), "32-bit signed TIFF samples")
    deep = photo(20, 24, 1, np.uint16)[..., 0]
    b.good("depth_I16.png", saved(Image.fromarray(deep), "PNG"), deep)


def _profiles(b: _Builder) -> None:
    rgb = photo(16, 18)
    swapped = _without_checksums(srgb_profile().replace(b"rXYZ", b"tXYZ").replace(b"gXYZ", b"rXYZ"))
    for suffix in ("png", "jpg", "tif", "webp", "avif"):
        data = encode(Picture(rgb, swapped), f".{suffix}")
        b.good(f"profile_rgb.{suffix}", data, rgb, 0.0 if suffix in ("png", "tif") else 0.03, icc=True)
    gray_profile = srgb_profile()[:16] + b"GRAY" + srgb_profile()[20:]
    b.good("profile_gray.png", encode(Picture(photo(16, 18, 1), gray_profile), ".png"), photo(16, 18, 1), icc=True)
    b.good(
        "profile_deep.png",
        encode(Picture(photo(9, 9, 3, np.uint16), swapped), ".png"),
        photo(9, 9, 3, np.uint16),
        icc=True,
    )
    b.good("profile_wrong_space.png", saved(Image.fromarray(rgb), "PNG", icc_profile=gray_profile), rgb)
    b.good("profile_garbage.png", saved(Image.fromarray(rgb), "PNG", icc_profile=b"no profile at all"), rgb)
    b.good(
        "profile_garbage_cmyk.jpg",
        saved(Image.fromarray(rgb).convert("CMYK"), "JPEG", quality=100, icc_profile=b"x" * 200),
        rgb,
        0.03,
    )
    b.good(
        "exif_garbage.jpg",
        saved(Image.fromarray(rgb), "JPEG", quality=100, subsampling=0, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"),
        rgb,
        0.01,
    )


def _without_checksums(profile: bytes) -> bytes:
    return profile[:84] + bytes(16) + profile[100:]  # the profile's own digest


def _orientations(b: _Builder) -> None:
    stored = photo(10, 14)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        options: dict[str, Any] = {"exif": exif.tobytes()}
        kind, suffix = (("JPEG", "jpg"), ("PNG", "png"), ("TIFF", "tif"), ("WEBP", "webp"))[orientation % 4]
        lossless: dict[str, dict[str, Any]] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
        options |= lossless.get(kind, {})
        tolerance = 0.01 if kind == "JPEG" else 0.0
        data = saved(Image.fromarray(stored), kind, **options)
        b.good(f"orientation_{orientation}.{suffix}", data, upright(stored, orientation), tolerance)


def _sizes(b: _Builder) -> None:
    for side in range(1, 18):
        height, width = side, 18 - side
        b.good(f"size_{width}x{height}.png", saved(Image.fromarray(photo(height, width)), "PNG"), photo(height, width))
    b.good("size_1x1.jpg", saved(Image.fromarray(photo(1, 1)), "JPEG", quality=100, subsampling=0), photo(1, 1), 0.02)
    b.good("size_300x1.png", saved(Image.fromarray(photo(1, 300)), "PNG"), photo(1, 300))


def _names(b: _Builder) -> None:
    png = saved(Image.fromarray(photo(8, 8)), "PNG")
    names = ["фото 写真 🌄.png", "e\u0301 combining.PNG", "-dash.png", "a b'c\"d$e;f.png", "%s%d{}.png", "two.dots.png"]
    for name in names:
        b.good(name, png, photo(8, 8))
    b.good(f"{'long' * 56}.png", png, photo(8, 8))  # 228 bytes
    b.good(f"{'写' * 70}.png", png, photo(8, 8))  # 214 bytes in UTF-8
    b.good("really_a_png.jpg", png, photo(8, 8))
    b.good(
        "really_a_jpeg.png", saved(Image.fromarray(photo(8, 8)), "JPEG", quality=100, subsampling=0), photo(8, 8), 0.01
    )
    b.good("really_a_tiff.webp", encode(Picture(photo(8, 8, 3, np.uint16)), ".tif"), photo(8, 8, 3, np.uint16))
    for name, data in (
        ("text.png", b"these are not pixels\n" * 9),
        ("zeros.jpg", bytes(5000)),
    ):
        b.bad(name, data, "no image file")
    b.bad("svg.png", b"<svg xmlns='a'/>", "SVG files cannot be read; convert it")
    b.bad("pdf.tif", b"%PDF-1.7\n%\xe2\xe3", "PDF files cannot be read; convert it")
    b.bad(
        "heif_header.heic", (24).to_bytes(4, "big") + b"ftypheic" + bytes(4) + b"heicmif1", TRUNCATED + "|pillow-heif"
    )


def _truncated(b: _Builder) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for suffix in (".png", ".jpg", ".webp", ".tif", ".bmp", ".avif"):
        data = encode(Picture(noise), suffix)
        for percent in (1, 40, 90):
            b.bad(f"truncated_{percent}{suffix}", data[: max(4, len(data) * percent // 100)], TRUNCATED)
    deep = noise.astype(np.uint16) * 257
    for suffix in (".png", ".tif"):
        data = encode(Picture(deep), suffix)
        b.bad(f"truncated_16{suffix}", data[: len(data) // 2], TRUNCATED)
    flipped = bytearray(encode(Picture(noise), ".png"))
    flipped[len(flipped) // 2] ^= 0xFF
    b.bad("flipped_byte.png", bytes(flipped), TRUNCATED)


def _bombs(b: _Builder) -> None:
    error = r"50000x50000 pixels are 2500\.0 megapixels, the limit is"
    signature = b"\x89PNG\r\n\x1a\n"
    header = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    b.bad(
        "bomb.png",
        signature + header + _png_chunk(b"IDAT", zlib.compress(bytes(3_000_000))) + _png_chunk(b"IEND", b""),
        error,
    )
    bits = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0))
    b.bad(
        "bomb_1bit.png",
        signature + bits + _png_chunk(b"IDAT", zlib.compress(bytes(3_000_000))) + _png_chunk(b"IEND", b""),
        error,
    )
    small = saved(Image.new("RGB", (16, 16)), "JPEG")
    at = small.index(b"\xff\xc0") + 5
    b.bad("bomb.jpg", small[:at] + struct.pack(">HH", 50_000, 50_000) + small[at + 4 :], error)
    gif = saved(Image.new("L", (16, 16)), "GIF")
    b.bad("bomb.gif", gif[:6] + struct.pack("<HH", 50_000, 50_000) + gif[10:], error)
    bmp = saved(Image.new("RGB", (16, 16)), "BMP")
    b.bad("bomb.bmp", bmp[:18] + struct.pack("<ii", 50_000, 50_000) + bmp[26:], error)
    for name, dtype in (("bomb.tif", np.uint8), ("bomb_16.tif", np.uint16), ("bomb_float.tif", np.float32)):
        tiff = encode(Picture(np.zeros((16, 16, 3), dtype)), ".tif")
        for tag in (256, 257):
            entry = struct.pack("<HHII", tag, 4, 1, 16)
            tiff = tiff.replace(entry, struct.pack("<HHII", tag, 4, 1, 50_000))
        b.bad(name, tiff, error)


def _png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _animations(b: _Builder) -> None:
    frames = [Frame(Picture(np.full((9, 12, 3), 80 * i, np.uint8)), 50) for i in range(3)]
    for suffix in (".gif", ".webp", ".png"):
        write_frames(b.folder / f"animated{suffix}", frames)
        b.bad(f"animated{suffix}", None, "holds 3 frames; restore it frame by frame with --frames")
    pages = [Image.fromarray(frame.picture.pixels) for frame in frames]
    b.bad("pages.tif", saved(pages[0], "TIFF", save_all=True, append_images=pages[1:]), "holds 3 pages; split it")


def _no_files(b: _Builder) -> None:
    b.bad("empty.png", b"", r"the file is empty \(0 bytes\)")
    (b.folder / "folder.png").mkdir(exist_ok=True)
    b.bad("folder.png", None, "cannot be read: is a directory")
    for name, target in (("loop_a.png", "loop_b.png"), ("loop_b.png", "loop_a.png"), ("self.png", "self.png")):
        _link(b.folder / name, target)
        b.bad(name, None, "cannot be read: too many levels of symbolic links")
    _link(b.folder / "dangling.png", "nowhere.png")
    b.bad("dangling.png", None, "cannot be read: no such file")
    png = saved(Image.fromarray(photo(8, 8)), "PNG")
    (b.folder / "linked_target.png").write_bytes(png)
    _link(b.folder / "linked.png", "linked_target.png")
    b.cases += [Case(b.folder / name, photo(8, 8)) for name in ("linked_target.png", "linked.png")]
    locked = b.folder / "unreadable.png"
    locked.unlink(missing_ok=True)
    locked.write_bytes(png)
    locked.chmod(0)
    if os.access(locked, os.R_OK):  # root reads everything
        b.cases.append(Case(locked, photo(8, 8)))
    else:
        b.bad("unreadable.png", None, "cannot be read: permission denied")


def _link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def check(case: Case, read: Callable[[Path], Picture]) -> None:
    """Assert that ``read`` gives the right picture, or raises the right line.

    Raises:
        AssertionError: it does not.
    """
    from amd_restore.errors import AMDRestoreError

    try:
        picture = read(case.path)
    except AMDRestoreError as error:
        import re

        line = str(error)
        assert case.error is not None, f"{case.name} must be read: {line}"
        assert re.search(case.error, line), f"{case.name}: {line}"
        assert line.startswith(f"{case.path}: ") and "\n" not in line
        assert len(line) < len(str(case.path)) + 200
        return
    assert case.error is None and case.pixels is not None, f"{case.name} must be refused"
    assert picture.pixels.dtype == case.pixels.dtype and picture.pixels.shape == case.pixels.shape, case.name
    highest = 1.0 if picture.pixels.dtype.kind == "f" else float(np.iinfo(picture.pixels.dtype).max)
    difference = np.abs(picture.pixels.astype(float) - case.pixels).mean() / highest
    assert difference <= case.tolerance, f"{case.name}: differs by {difference:.4f}"
    assert (picture.icc is not None) == case.icc, f"{case.name}: profile"


if __name__ == "__main__":
    sys.stdout.write(f"{len(build(Path(sys.argv[1])))} cases\n")
