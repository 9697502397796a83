"""Rows of docs/formats.md about parts of files that Pillow says nothing of."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from format_rows import PIXELS, heif_of, loses, refused, row, saved

from amd_restore.image_io import Picture, decode, encode
from amd_restore.image_io.chunks import chunk

CREDENTIALS = bytes.fromhex("d8fec3d61b0e483c92975828877ec481") + b"\0\0\0\0manifest\0"


def box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), name) + body


def with_property(data: bytes, added: bytes) -> bytes:
    """An AVIF or HEIF file with one more property; its tables move to the end, so that places in it stay right."""
    start = data.index(b"meta") - 4
    end = start + int.from_bytes(data[start : start + 4], "big")
    meta = bytearray(data[start:end])
    inside = meta.index(b"ipco") - 4
    behind = inside + int.from_bytes(meta[inside : inside + 4], "big")
    meta[behind:behind] = added
    for name in (b"ipco", b"iprp", b"meta"):
        place = meta.index(name) - 4
        meta[place : place + 4] = struct.pack(">I", int.from_bytes(meta[place : place + 4], "big") + len(added))
    return data[: start + 4] + b"free" + data[start + 8 :] + bytes(meta)


@row("WebP", "content credentials")
def _() -> None:
    data = saved("WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0") + b"C2PA" + struct.pack("<I", 3) + b"abc\0"
    loses("content credentials", data[:4] + struct.pack("<I", len(data) - 8) + data[8:])


@row("AVIF", "content credentials")
def _() -> None:
    loses("content credentials", saved("AVIF") + box(b"uuid", CREDENTIALS))
    assert decode(saved("AVIF") + box(b"uuid", CREDENTIALS[::-1])).lost == ()


@row("HEIF", "content credentials")
def _() -> None:
    loses("content credentials", heif_of(Picture(PIXELS), ".heic") + box(b"uuid", CREDENTIALS))


@row("AVIF", "clli, mdcv")
def _() -> None:
    loses("light levels", with_property(saved("AVIF"), box(b"clli", bytes(4))))


@row("HEIF", "clli, mdcv")
def _() -> None:
    loses("light levels", with_property(heif_of(Picture(PIXELS), ".heic"), box(b"mdcv", bytes(24))))


@row("GIF", "content credentials")
def _() -> None:
    data, behind = saved("GIF", comment=b""), 13 + 3 * 256
    loses("content credentials", data[:behind] + b"\x21\xff\x0bC2PA_GIF\1\0\0\1a\0" + data[behind:])


@row("BMP", "endpoints and gammas of another colour space")
def _() -> None:
    def bmp(red: tuple[float, float, float], gamma: float, kind: bytes = bytes(4)) -> bytes:
        endpoints = [*red, 0.3576, 0.7152, 0.1192, 0.1805, 0.0722, 0.9505]
        numbers = [round(value * 2**30) for value in endpoints] + [round(gamma * 65536)] * 3
        rows = PIXELS[::-1, :, ::-1].tobytes()
        header = struct.pack("<IiiHHIIiiII16x4s12I", 108, 32, 24, 1, 24, 0, len(rows), 0, 0, 0, 0, kind, *numbers)
        return struct.pack("<2sI4xI", b"BM", 122 + len(rows), 122) + header + rows

    srgb = (0.4124, 0.2126, 0.0193)
    loses("colorimetry", bmp((0.7977, 0.288, 0.0), 2.2))  # red of ProPhoto RGB
    loses("colorimetry", bmp(srgb, 1.0))
    for plain in (bmp(srgb, 2.2), bmp(srgb, 0.0), bmp((0.0, 0.0, 0.0), 1.0), bmp((1.0, 0.0, 0.0), 1.0, b"BGRs")):
        assert decode(plain).lost == () and np.array_equal(decode(plain).pixels, PIXELS)


@row("JPEG", "height behind the picture (DNL)")
def _() -> None:
    data = saved("JPEG")
    height = data.index(b"\xff\xc0") + 5
    behind = data[:height] + b"\0\0" + data[height + 2 : -2] + b"\xff\xdc\0\4\0\x18\xff\xd9"
    refused(behind, r"^JPEG files that tell their height behind the picture \(DNL\) cannot be read; convert it")


@row("PNG", "fewer pixels than its header says")
def _() -> None:
    for depth in (np.uint8, np.uint16):
        data = encode(Picture(PIXELS.astype(depth)), ".png")
        taller = data[16:20] + struct.pack(">I", 48) + data[24:29]
        refused(data[:8] + chunk(b"IHDR", taller) + data[33:], r"^the image data are truncated or damaged \(\d+ bytes")
        behind = data.index(b"IDAT") - 4
        lines = zlib.compress(bytes(1 + 32 * 3 * np.dtype(depth).itemsize) * 30)  # six too many: as libpng does
        more = data[:behind] + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
        assert np.array_equal(decode(more).pixels, np.zeros_like(PIXELS, depth))
