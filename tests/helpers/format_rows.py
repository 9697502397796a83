"""What the rows of docs/formats.md are tried with; :data:`ROWS` collects them."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from places import REPOSITORY

from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import Picture, decode, encode
from amd_restore.image_io.chunks import chunk
from amd_restore.image_io.colour import srgb_profile

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
P3, PQ = (12, 13), (9, 16)
Check = Callable[[], None]
ROWS: dict[tuple[str, str], Check] = {}


def row(kind: str, part: str) -> Callable[[Check], Check]:
    def add(check: Check) -> Check:
        ROWS[kind, part] = check
        return check

    return add


def table() -> dict[tuple[str, str], str]:
    text = (REPOSITORY / "docs" / "formats.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {(kind, part): becomes for kind, part, becomes in rows if kind not in ("format", "---")}


def png(*chunks: tuple[bytes, bytes], pixels: np.ndarray[Any, Any] = PIXELS) -> bytes:
    """With further chunks before the pixels."""
    data = encode(Picture(pixels), ".png")
    return data[:33] + b"".join(chunk(name, body) for name, body in chunks) + data[33:]


def saved(kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, kind, **options)
    return out.getvalue()


def jpeg(*segments: tuple[int, bytes], **options: Any) -> bytes:
    """With further segments behind the first."""
    data = saved("JPEG", **options)
    added = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    return data[:2] + added + data[2:]


def exif(**more: Any) -> bytes:
    block = Image.Exif()
    block[0x010F], block[0x0112] = "Camera maker", 6
    block[0x8769] = {0x9003: "2026:01:02 03:04:05", **{int(tag[1:], 16): value for tag, value in more.items()}}
    return block.tobytes()


def loses(kind: str, data: bytes, **what: bool) -> None:
    """Restoring goes on, and one kind is counted."""
    picture = decode(data)
    assert picture.lost == (kind,)
    for suffix in (".png", ".tiff"):
        assert kind not in decode(encode(picture, suffix)).lost  # as it is really gone


def refused(data: bytes, words: str) -> None:
    with pytest.raises(AMDRestoreError, match=words):
        decode(data)


def to_srgb(picture: Picture, colour: tuple[int, int, int]) -> list[float]:
    """What a viewer that follows profiles makes of a colour."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(picture.icc or srgb_profile()))
    image = Image.new("RGB", (1, 1), colour)
    shown: Any = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return [float(value) for value in shown.getpixel((0, 0))]


def names_colours(data: bytes, hdr: bool) -> None:
    """A signal stays one where there is a place for it, and becomes a profile or is refused elsewhere."""
    signal = PQ if hdr else P3
    picture = decode(data)
    assert (picture.signal, picture.icc) == (signal, None)
    for suffix in (".png", ".avif", ".heic")[: 3 if find_spec("pillow_heif") else 2]:
        assert decode(encode(picture, suffix)).signal == signal, suffix
    for suffix in (".jpg", ".webp", ".tiff"):
        if hdr:
            with pytest.raises(AMDRestoreError, match=r"its colours are PQ \(HDR\).*write png, avif or heic"):
                encode(picture, suffix)
            continue
        written = decode(encode(picture, suffix))
        # By the matrices of CSS Color 4, these are the sRGB colours (0, 128, 0) and (200, 100, 50).
        assert to_srgb(written, (55, 126, 34)) == pytest.approx((0, 128, 0), abs=3), suffix
        assert to_srgb(written, (188, 105, 62)) == pytest.approx((200, 100, 50), abs=3), suffix


def heif_of(picture: Picture, suffix: str) -> bytes:
    if suffix == ".heic":
        pytest.importorskip("pillow_heif")
    return encode(picture, suffix)


def keeps_profile_and_exif(kind: str, data: bytes) -> None:
    picture = decode(data)
    assert picture.icc == srgb_profile() and picture.lost == ()
    again = decode(encode(picture.with_pixels(np.repeat(picture.pixels, 2, 0)), kind))
    assert again.icc == srgb_profile()
    assert again.exif is not None and b"Camera maker" in again.exif
