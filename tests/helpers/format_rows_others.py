"""Rows of docs/formats.md about formats other than PNG and JPEG, and about what is written."""

from __future__ import annotations

import io
import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_rows import (
    P3,
    PIXELS,
    PQ,
    ROWS,
    exif,
    heif_of,
    keeps_profile_and_exif,
    loses,
    names_colours,
    refused,
    row,
    saved,
)
from PIL import Image
from tiny_model import save_tiny

from amd_restore.apps.cli import main
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import Picture, decode, encode, fitted
from amd_restore.image_io.colour import srgb_profile
from amd_restore.image_io.metadata import shortened

for _suffix, _kind in ((".png", "PNG"), (".avif", "AVIF"), (".heic", "HEIF")):
    _part = "cICP" if _kind == "PNG" else "nclx"
    for _signal, _what in ((P3, "another SDR colour space"), (PQ, "PQ or HLG")):
        ROWS[_kind, f"{_part} of {_what}"] = lambda suffix=_suffix, signal=_signal: names_colours(  # type: ignore[misc]
            heif_of(Picture(PIXELS, signal=signal), suffix), signal == PQ
        )


def tiff(**options: Any) -> bytes:
    tags = {int(tag[1:]): value for tag, value in options.items()}
    return saved("TIFF", tiffinfo=tags)


def pages(*subfiles: int, dtype: Any = np.uint8) -> bytes:
    """One directory for each kind of page; the full ones are larger."""
    tifffile = pytest.importorskip("tifffile")
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        for kind in subfiles:
            step = 4 if kind & 1 else 1
            scaled = PIXELS[::step, ::step].astype(dtype) * (257 if dtype is np.uint16 else 1)
            writer.write(scaled[..., 0] > 99 if kind & 4 else scaled, subfiletype=kind, metadata=None)
    return out.getvalue()


@row("TIFF", "profile, resolution, EXIF and its kin")
def _() -> None:
    picture = Picture(PIXELS, srgb_profile(), exif(), (300.0, 150.0))
    keeps_profile_and_exif(".tiff", encode(picture, ".tiff"))
    assert decode(encode(picture, ".tiff")).dpi == (300, 150)


for _name, _lost, _tag in (
    ("XMP", "XMP", 700),
    ("IPTC, Photoshop's block", "IPTC", 33723),
    ("GeoTIFF", "GeoTIFF", 34735),
    ("content credentials", "content credentials", 52545),
):
    ROWS["TIFF", _name] = lambda tag=_tag, kind=_lost: loses(kind, tiff(**{f"t{tag}": b"abcd"}))  # type: ignore[misc]


@row("TIFF", "transfer function, white point, primaries")
def _() -> None:
    loses("colorimetry", tiff(t318=(0.3127, 0.329)))


@row("TIFF", "thumbnails and overviews, before or behind the picture")
def _() -> None:
    for dtype in (np.uint8, np.uint16):
        for order in ((0, 1), (1, 0), (0, 1, 1), (1, 0, 1)):
            data = pages(*order, dtype=dtype)
            assert decode(data).pixels.shape == PIXELS.shape
            loses("smaller copies", data)
            assert np.array_equal(decode(data).pixels, PIXELS.astype(dtype) * (257 if dtype is np.uint16 else 1))
    tifffile, out = pytest.importorskip("tifffile"), io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        writer.write(PIXELS, subifds=1, metadata=None)
        writer.write(PIXELS[::4, ::4], subfiletype=1, metadata=None)
    loses("smaller copies", out.getvalue())


@row("TIFF", "mask")
def _() -> None:
    loses("mask", pages(0, 4))


@row("TIFF", "channels beyond colour and alpha")
def _() -> None:
    tifffile = pytest.importorskip("tifffile")
    for dtype in (np.uint8, np.uint16):
        out = io.BytesIO()
        tifffile.imwrite(out, np.dstack([PIXELS, PIXELS[..., 0]]).astype(dtype), photometric="rgb", extrasamples=[0])
        assert np.array_equal(decode(out.getvalue()).pixels, PIXELS)
        loses("extra channels", out.getvalue())


@row("TIFF", "several pages")
def _() -> None:
    refused(pages(0, 0), "holds 2 pages; split it")
    refused(pages(2, 2, 1, dtype=np.uint16), "holds 2 pages; split it")


@row("TIFF", "camera raw (DNG, NEF, ARW, CR2 ...)")
def _() -> None:
    tifffile = pytest.importorskip("tifffile")
    words = "^camera raw, of which only previews could be read; develop it first"
    for version in (True, False):  # a DNG, or another with the sensor's picture below the preview
        out = io.BytesIO()
        with tifffile.TiffWriter(out) as writer:
            tags = [(50706, 1, 4, b"\1\4\0\0", True)] if version else []
            writer.write(PIXELS[::4, ::4], subfiletype=1, subifds=1, extratags=tags, metadata=None)
            sensor = PIXELS[..., 0].astype(np.uint16)
            writer.write(sensor, photometric="minisblack" if version else 32803, metadata=None)
        refused(out.getvalue(), words)
    refused(tiff()[:8] + b"CR\2\0" + tiff()[12:], words)
    for start in (
        b"FUJIFILMCCD-RAW 0201",
        b"IIRO\x08\0\0\0",
        b"IIU\0\x18\0\0\0",
        b"FOVb\0\0",
        b"\0\0\0\x18ftypcrx \0\0",
    ):
        refused(start + bytes(99), words)


@row("TIFF", "other depths, inks, packings, Lab of 16 bits")
def _() -> None:
    tifffile = pytest.importorskip("tifffile")
    inks = {"photometric": "separated", "extrasamples": ["unassalpha"]}
    for pixels, options, words in (
        (np.zeros((8, 8, 5), np.uint8), inks, "CMYK with 8[+]8[+]8[+]8[+]8"),
        (np.zeros((8, 8, 3), np.uint16), {"photometric": "cielab"}, "Lab with 16[+]16[+]16"),
    ):
        out = io.BytesIO()
        tifffile.imwrite(out, pixels, planarconfig="contig", **options)
        refused(out.getvalue(), f"^a TIFF of {words} bits, compression 1, cannot be read; store it as plain RGB")
    for packing in (50001, 34712):  # WebP and JPEG 2000
        plain = saved("TIFF").replace(struct.pack("<HHIH", 259, 3, 1, 1), struct.pack("<HHIH", 259, 3, 1, packing))
        refused(plain, f"^a TIFF of RGB with 8[+]8[+]8 bits, compression {packing}, cannot be read")


@row("WebP", "profile, EXIF")
def _() -> None:
    keeps_profile_and_exif(".webp", saved("WEBP", icc_profile=srgb_profile(), exif=exif()))


@row("WebP", "XMP")
def _() -> None:
    loses("XMP", saved("WEBP", xmp=b"<x/>"))


@row("AVIF", "profile, EXIF")
def _() -> None:
    keeps_profile_and_exif(".avif", saved("AVIF", icc_profile=srgb_profile(), exif=exif()))


@row("AVIF", "XMP")
def _() -> None:
    loses("XMP", saved("AVIF", xmp=b"<x/>"))


@row("HEIF", "profile, EXIF")
def _() -> None:
    keeps_profile_and_exif(".heic", heif_of(Picture(PIXELS, srgb_profile(), exif()), ".heic"))


def heif_file(count: int, **options: Any) -> bytes:
    heif = pytest.importorskip("pillow_heif")
    file = heif.HeifFile()
    for _ in range(count):
        file.add_from_pillow(Image.fromarray(PIXELS))
    out = io.BytesIO()
    file.save(out, **options)
    return out.getvalue()


@row("HEIF", "XMP")
def _() -> None:
    loses("XMP", heif_file(1, xmp=b"<x/>"))


@row("HEIF", "further pictures")
def _() -> None:
    loses("further pictures", heif_file(2))


@row("GIF", "comment")
def _() -> None:
    loses("comment", saved("GIF", comment=b"made by hand"))


@row("GIF", "XMP, profile")
def _() -> None:
    data = saved("GIF", comment=b"")
    behind = 13 + 3 * 256
    for name, kind in ((b"XMP DataXMP", "XMP"), (b"ICCRGBG1012", "colour profile")):
        assert decode(data[:behind] + b"\x21\xff\x0b" + name + b"\1a\0" + data[behind:]).lost == (kind,)


@row("any", "profile for another number of channels")
def _() -> None:
    gray = Picture(PIXELS[..., :1])
    for suffix in (".png", ".jpg", ".tiff"):
        image, out = Image.open(io.BytesIO(encode(gray, suffix))), io.BytesIO()
        image.save(out, image.format, icc_profile=srgb_profile())
        loses("colour profile", out.getvalue())
    tifffile = pytest.importorskip("tifffile")
    deep = io.BytesIO()
    tifffile.imwrite(deep, PIXELS[..., 0].astype(np.uint16), iccprofile=srgb_profile())
    loses("colour profile", deep.getvalue())
    assert decode(heif_of(Picture(PIXELS[..., :1], srgb_profile()), ".heic")).lost == ("colour profile",)


@row("BMP", "resolution, alpha, profile")
def _() -> None:
    assert decode(encode(Picture(PIXELS, dpi=(300.0, 300.0)), ".bmp")).dpi == pytest.approx((300, 300), abs=0.1)
    alpha = np.dstack([PIXELS, PIXELS[..., 0]])
    assert np.array_equal(decode(encode(Picture(alpha), ".bmp")).pixels, alpha)
    profile, rows = srgb_profile(), PIXELS[::-1, :, ::-1].tobytes()
    header = struct.pack("<IiiHHIIiiII16x4s48xIII4x", 124, 32, 24, 1, 24, 0, len(rows), 0, 0, 0, 0, b"DEBM", 4,
                         124 + len(rows), len(profile))  # fmt: skip
    picture = decode(struct.pack("<2sI4xI", b"BM", 138 + len(rows) + len(profile), 138) + header + rows + profile)
    assert picture.icc == profile and np.array_equal(picture.pixels, PIXELS)


@row("BMP", "alpha that is nothing everywhere")
def _() -> None:
    size = struct.pack("<IiiHHI20x4I", 108, 4, 3, 1, 32, 3, *(0xFF << i for i in (16, 8, 0, 24)))
    head = struct.pack("<2sI4xI", b"BM", 122 + 48, 122) + size.ljust(108, b"\0")
    assert np.array_equal(decode(head + b"\x10\x20\x30\x00" * 12).pixels, np.full((3, 4, 3), (48, 32, 16)))
    assert decode(head + b"\x10\x20\x30\x00" * 11 + b"\0\0\0\1").pixels.shape == (3, 4, 4)


@row("any", "animation")
def _() -> None:
    frames = [Image.fromarray(PIXELS), Image.fromarray(PIXELS[::-1])]
    for kind in ("PNG", "WEBP", "GIF", "AVIF"):
        out = io.BytesIO()
        frames[0].save(out, kind, save_all=True, append_images=frames[1:])
        refused(out.getvalue(), "holds 2 frames; restore it frame by frame with --frames")


@row("other", "JPEG 2000, JPEG XL, JPEG XR, PSD, EXR, SVG ...")
def _() -> None:
    starts = {
        b"\0\0\0\x0cjP  \r\n": "JPEG 2000",
        b"\xff\x0a\0": "JPEG XL",
        b"II\xbc\1": "JPEG XR",
        b"8BPS\0": "Photoshop",
    }
    for start, name in (starts | {b"v/1\1": "OpenEXR", b"<svg>": "SVG"}).items():
        refused(start + bytes(50), f"^{name} files cannot be read; convert it to PNG or TIFF")
    for start in (b"\0\0\0\x18ftypmp42", b"\0\0\0\x18ftypiso5", b"RIFF\0\0\1\0AVI LIST", b"FLV\1"):
        refused(start + bytes(50), "^a video; restore it with amd-restore video")
    refused(b"version https://git-lfs.github.com/spec/v1\n", "^only a pointer to the file; fetch it with git lfs pull")


@row("JPEG, WebP, AVIF, HEIF, GIF", "more pixels than 65500, 16383, 32768, 32768, 65535 a side")
def _() -> None:
    sides = {".jpg": 65500, ".webp": 16383, ".avif": 32768, ".heic": 32768, ".gif": 65535}
    for suffix, side in sides.items():
        small = Picture(np.zeros((1, 9, 3), np.uint8))
        fitted(small, suffix, (1, side))
        with pytest.raises(AMDRestoreError, match=f"cannot hold {side + 1}x1 pixels, at most {side} a side; write png"):
            fitted(small, suffix, (1, side + 1))
        if suffix in (".jpg", ".webp", ".avif"):
            assert decode(encode(Picture(np.zeros((1, side, 3), np.uint8)), suffix)).pixels.shape == (1, side, 3)


@row("JPEG", "alpha that hides nothing")
def _() -> None:
    for full, dtype in ((255, np.uint8), (65535, np.uint16), (1, np.float32)):
        picture = Picture(np.full((8, 8, 4), full, dtype))
        assert decode(encode(picture, ".jpg")).pixels.shape == (8, 8, 3)
        assert "alpha" not in " ".join(fitted(picture, ".jpg").lost)
    assert decode(encode(Picture(np.full((8, 8, 2), 255, np.uint8)), ".jpg")).pixels.shape == (8, 8, 1)
    out = io.BytesIO()
    Image.new("P", (8, 8), 3).save(out, "PNG", transparency=7)  # of a palette, and not used
    assert decode(encode(decode(out.getvalue()), ".jpg")).pixels.shape == (8, 8, 3)


@row("JPEG", "alpha")
def _() -> None:
    pixels = np.full((8, 8, 4), 255, np.uint8)
    pixels[0, 0, 3] = 254
    with pytest.raises(AMDRestoreError, match="JPEG has no transparency; write png, webp or tiff"):
        fitted(Picture(pixels), ".jpg")


@row("JPEG", "EXIF of more than 64 KiB")
def _() -> None:
    block = exif(t9286=b"ASCII\0\0\0" + b"a" * 84_000)
    picture = decode(saved("WEBP", exif=block))
    assert fitted(picture, ".jpg").lost == ("EXIF entries",) and fitted(picture, ".png").lost == ()
    written = decode(encode(picture, ".jpg"))
    assert written.exif is not None and b"Camera maker" in written.exif and b"2026:01:02" in written.exif
    assert len(decode(encode(picture, ".png")).exif or b"") > 84_000
    assert shortened(block, 300) is None or len(shortened(block, 300) or b"") <= 300


@row("JPEG", "resolution above 65535 dpi")
def _() -> None:
    fine = Picture(PIXELS, dpi=(20_000.0, 300.0))
    assert fitted(fine, ".jpg").lost == fitted(fine, ".png", (96, 128)).lost == ()
    assert fitted(fine, ".jpg", (96, 128)).lost == ("resolution",)
    for suffix in (".jpg", ".png", ".tiff", ".bmp", ".webp"):
        assert decode(encode(Picture(PIXELS, dpi=(4e12, 4e12)), suffix)).dpi is None
        assert decode(encode(Picture(PIXELS), suffix)).dpi is None  # none is made up


@row("JPEG", "profile of more than 16 MB")
def _() -> None:
    large = Picture(PIXELS, srgb_profile() + bytes(17_000_000))
    assert decode(encode(large, ".jpg")).icc is None and fitted(large, ".jpg").lost == ("colour profile",)


@row("WebP", "profile of a gray picture, which becomes RGB")
def _() -> None:
    gray = Picture(PIXELS[..., :1], srgb_profile()[:16] + b"GRAY" + srgb_profile()[20:])
    assert decode(encode(gray, ".webp")).icc is None and fitted(gray, ".webp").lost == ("colour profile",)


@row("BMP", "profile")
def _() -> None:
    assert fitted(Picture(PIXELS, srgb_profile()), ".bmp").lost == ("colour profile",)
    encode(Picture(PIXELS, srgb_profile()), ".bmp")


@row("JPEG, WebP, BMP, AVIF", "16 bits and floating ones")
def _() -> None:
    for suffix in (".jpg", ".webp", ".bmp", ".avif"):
        for pixels in (PIXELS.astype(np.uint16), PIXELS.astype(np.float32) / 255):
            assert fitted(Picture(pixels), suffix).lost == ("more than 8 bits",)
            assert fitted(Picture(pixels), ".tiff").lost == fitted(Picture(pixels), ".png").lost == ()


@row("HEIF", "16 bits and floating ones")
def _() -> None:
    assert fitted(Picture(PIXELS.astype(np.uint16)), ".heic").lost == ("more than 12 bits",)


@row("WebP, AVIF, HEIF", "resolution")
def _() -> None:
    for suffix in (".webp", ".avif", ".heic"):
        assert decode(heif_of(Picture(PIXELS, dpi=(300.0, 150.0)), suffix)).dpi == (300, 150)


@row("any", "`--n-samples`, `--uncertainty`, `--compare` of an animation")
def _() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, report = Path(folder, "a.dat"), Path(folder, "report.json")  # the content decides
        frames = [Image.fromarray(PIXELS), Image.fromarray(PIXELS[::-1])]
        frames[0].save(source, "GIF", save_all=True, append_images=frames[1:], comment=b"made by hand")
        files = ["-i", str(source), "-o", str(Path(folder, "b.gif")), "--json", str(report)]
        model = ["--model", str(save_tiny(Path(folder, "tiny.safetensors")))]
        assert main([*files, *model, "--frames", "--compare", "--n-samples", "2"]) == 0
        lost = ["comment", "sample2 of an animation", "compare of an animation"]
        assert json.loads(report.read_text())["images"][0]["lost"] == lost
