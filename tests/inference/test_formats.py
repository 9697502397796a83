"""Every row of the tables of docs/formats.md, tried."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import format_rows_others  # noqa: F401 - its rows
import format_rows_parts  # noqa: F401 - its rows
import numpy as np
import pytest
from format_rows import (
    P3,
    PIXELS,
    PQ,
    ROWS,
    exif,
    jpeg,
    keeps_profile_and_exif,
    loses,
    png,
    refused,
    row,
    saved,
    table,
    to_srgb,
)
from PIL import Image, ImageCms

from amd_restore.data.image_files import EXTENSIONS
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import Frame, Picture, decode, encode, write_frames
from amd_restore.image_io.colour import srgb_profile
from amd_restore.image_io.formats import FORMATS


@row("PNG", "cICP of video range")
def _() -> None:
    refused(png((b"cICP", bytes([1, 1, 0, 0]))), "value range or matrix of video")
    for says_nothing in (bytes([0, 0, 0, 1]), bytes([2, 2, 0, 1]), b"odd"):
        assert decode(png((b"cICP", says_nothing))).signal is None


@row("PNG", "cICP that leaves primaries or transfer open")
def _() -> None:
    for names in ((2, 2), (0, 0), (2, 13), (9, 2)):
        profile = (b"iCCP", b"a\0\0" + zlib.compress(srgb_profile()))
        picture = decode(png((b"cICP", bytes([*names, 0, 1])), profile))
        assert (picture.icc, picture.signal) == (srgb_profile(), None)
        linear = decode(png((b"cICP", bytes([*names, 0, 1])), (b"gAMA", struct.pack(">I", 100_000))))
        assert linear.icc and linear.signal is None
    assert decode(png((b"cICP", bytes([12, 2, 0, 1])))).signal == (12, 2)


@row("PNG", "iCCP, of up to 64 MiB")
def _() -> None:
    large = srgb_profile() + np.random.default_rng(0).bytes(3 << 20)  # Pillow alone refuses more than one
    picture = decode(png((b"iCCP", b"a\0\0" + zlib.compress(large))))
    assert picture.icc == large and decode(encode(picture, ".jpg")).icc == large
    assert decode(png((b"iCCP", b"a\0\0" + zlib.compress(large)), (b"cICP", bytes([12, 13, 0, 1])))).signal == P3


@row("PNG", "gAMA and cHRM")
def _() -> None:
    linear = decode(png((b"gAMA", struct.pack(">I", 100_000))))
    for suffix in (".png", ".jpg", ".webp", ".tiff", ".avif"):
        assert to_srgb(decode(encode(linear, suffix)), (55, 55, 55)) == pytest.approx([128] * 3, abs=2)
    p3 = [31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000]
    both = decode(png((b"gAMA", struct.pack(">I", 45455)), (b"cHRM", struct.pack(">8I", *p3))))
    assert to_srgb(both, (55, 126, 34)) == pytest.approx((0, 128, 0), abs=3)
    gray = decode(png((b"gAMA", struct.pack(">I", 100_000)), pixels=PIXELS[..., :1]))
    assert gray.icc is not None and gray.icc[16:20] == b"GRAY"
    ImageCms.ImageCmsProfile(io.BytesIO(gray.icc))
    for odd in ([0] * 8, [4_000_000_000] * 8):
        assert decode(png((b"cHRM", struct.pack(">8I", *odd)))).icc is None
    plain = [31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000]
    assert decode(png((b"gAMA", struct.pack(">I", 45455)), (b"cHRM", struct.pack(">8I", *plain)))).icc is None


@row("PNG", "sRGB")
def _() -> None:
    picture = decode(png((b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000))))
    assert (picture.icc, picture.signal, picture.lost) == (None, None, ())


@row("PNG", "pHYs")
def _() -> None:
    picture = decode(png((b"pHYs", struct.pack(">IIB", 11811, 5906, 1))))
    assert picture.dpi == pytest.approx((300, 150), abs=0.02)


@row("PNG", 'eXIf, also as "Raw profile type exif"')
def _() -> None:
    body = exif()
    text = f"\nexif\n{len(body):8}\n{body.hex()}\n".encode()
    for part in (
        (b"eXIf", body.removeprefix(b"Exif\0\0")),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)),
    ):
        picture = decode(png(part))
        assert picture.pixels.shape == (32, 24, 3) and picture.lost == ()
        assert picture.exif is not None and b"Camera maker" in picture.exif


@row("PNG", "tEXt, zTXt, iTXt, of any size")
def _() -> None:
    loses("text", png((b"tEXt", b"Software\0a")))
    loses("text", png((b"zTXt", b"parameters\0\0" + zlib.compress(bytes(2 << 20)))))
    loses("text", png((b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(2 << 20)))))
    loses("text", png(*[(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20)))] * 80))


@row("PNG", "XMP")
def _() -> None:
    packet = b'<rdf:RDF xmlns:tiff="t"><a tiff:Orientation="6"/></rdf:RDF>'
    head = b"XML:com.adobe.xmp\0"
    picture = decode(png((b"iTXt", head + b"\0\0\0\0" + packet)))
    assert picture.lost == ("XMP",) and picture.pixels.shape == (32, 24, 3)
    loses("XMP", png((b"iTXt", head + b"\1\0\0\0" + zlib.compress(packet + bytes(2 << 20)))))


@row("PNG", "mDCV, cLLI")
def _() -> None:
    loses("light levels", png((b"mDCV", bytes(24)), (b"cLLI", bytes(8))))


@row("PNG", "caBX")
def _() -> None:
    loses("content credentials", png((b"caBX", b"a")))


@row("PNG", "a damaged chunk that may be skipped")
def _() -> None:
    good = png((b"tEXt", b"Software\0abc"))
    loses("damaged tEXt", good.replace(b"abc", b"abd"))
    for name in (b"gAMA", b"cHRM", b"sRGB", b"pHYs"):
        loses(f"damaged {name.decode()}", png((name, b"")))
    refused(good[:-40] + bytes([good[-40] ^ 1]) + good[-39:], "broken|damaged")  # one that may not


@row("PNG", "tRNS")
def _() -> None:
    picture = decode(png((b"tRNS", struct.pack(">3H", *PIXELS[0, 0]))))
    assert picture.pixels.shape[2] == 4 and picture.pixels[0, 0, 3] == 0 and picture.lost == ()


@row("JPEG", "APP1 EXIF")
def _() -> None:
    picture = decode(saved("JPEG", exif=exif()))
    assert picture.pixels.shape == (32, 24, 3) and picture.lost == ()
    assert picture.exif is not None and b"Camera maker" in picture.exif


@row("JPEG", "EXIF that says Adobe RGB")
def _() -> None:
    block = Image.Exif()
    block[0x8769] = {0xA001: 0xFFFF, 0xA005: {1: "R03", 2: b"0100"}}
    picture = decode(saved("JPEG", exif=block))
    assert to_srgb(picture, (137, 200, 64)) == pytest.approx((99, 201, 44), abs=3)
    assert to_srgb(picture, (177, 100, 56)) == pytest.approx((200, 100, 50), abs=3)
    assert decode(saved("JPEG", exif=exif())).icc is None


@row("JPEG", "APP1 XMP")
def _() -> None:
    loses("XMP", saved("JPEG", xmp=b"<x/>"))


@row("JPEG", "APP2 profile")
def _() -> None:
    keeps_profile_and_exif(".jpg", saved("JPEG", icc_profile=srgb_profile(), exif=exif()))


@row("JPEG", "APP13 IPTC")
def _() -> None:
    loses("IPTC", jpeg((0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x04abcd")))


@row("JPEG", "COM")
def _() -> None:
    loses("comment", saved("JPEG", comment=b"made by hand"))


@row("JPEG", "other segments")
def _() -> None:
    loses("further segments", jpeg((0xEB, b"JP\0\1")))


@row("JPEG", "further pictures (MPO, gain maps)")
def _() -> None:
    loses("further pictures", saved("MPO", save_all=True, append_images=[Image.fromarray(PIXELS[:8, :8])]))


@row("JPEG", "no end marker")
def _() -> None:
    refused(saved("JPEG")[:-2], "truncated")


@row("JPEG", "CMYK")
def _() -> None:
    out = io.BytesIO()
    Image.fromarray(PIXELS).convert("CMYK").save(out, "JPEG")
    assert decode(out.getvalue()).pixels.shape == (24, 32, 3)


@row("JPEG", "12 bits, lossless, hierarchical")
def _() -> None:
    for marker, bits, words in ((0xC1, 12, "12-bit JPEG"), (0xC3, 16, "lossless JPEG"), (0xC5, 8, "hierarchical JPEG")):
        frame = struct.pack(">BHHB", bits, 24, 32, 3) + bytes([1, 17, 0, 2, 17, 0, 3, 17, 0])
        segment = struct.pack(">BBH", 0xFF, marker, len(frame) + 2) + frame
        refused(b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0" + segment, f"^{words} files cannot be read; convert")


def test_training_takes_all_names_of_a_format() -> None:
    formats = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
    assert {suffix for name in formats for suffix in FORMATS[name].suffixes} == EXTENSIONS


def test_every_row_has_its_test() -> None:
    assert list(table()) and set(table()) == set(ROWS)


@pytest.mark.parametrize(("kind", "part"), ROWS)
def test_row(kind: str, part: str) -> None:
    becomes = table()[kind, part]
    assert re.match(r"kept|converted|dropped|refused|rounded|the longest|not made|what pictures", becomes), becomes
    ROWS[kind, part]()


@pytest.mark.parametrize("signal", [P3, PQ])
def test_animations_keep_their_colours(tmp_path: Path, signal: tuple[int, int]) -> None:
    from amd_restore.image_io import read_frames

    frames = [Frame(Picture(pixels, signal=signal), 100) for pixels in (PIXELS, PIXELS[::-1])]
    write_frames(tmp_path / "a.png", frames)
    assert [frame.picture.signal for frame in read_frames(tmp_path / "a.png")] == [signal] * 2
    Image.open(tmp_path / "a.png").load()
    if signal == PQ:
        with pytest.raises(AMDRestoreError, match=r"a\.webp: its colours are PQ"):
            write_frames(tmp_path / "a.webp", frames)
        return
    write_frames(tmp_path / "a.webp", frames)
    shown = [to_srgb(frame.picture, (55, 126, 34)) for frame in read_frames(tmp_path / "a.webp")]
    assert shown == [pytest.approx((0, 128, 0), abs=3)] * 2


def test_too_little_memory_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    for place in ("PIL.ImageFile.ImageFile.load", "PIL.Image.open"):
        with monkeypatch.context() as patched:
            patched.setattr(place, fail)
            refused(png(), "^there is too little memory to decode it; free some, or cut the picture up")
