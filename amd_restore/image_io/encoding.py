""":class:`Picture` -> bytes of a file."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from amd_restore.atomic import write_atomically
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import heif
from amd_restore.image_io.metadata import exif_of
from amd_restore.image_io.picture import Picture, Pixels, to_depth
from amd_restore.image_io.tiff import encode_tiff

_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".avif": "AVIF",
    ".heic": "HEIF",
    ".heif": "HEIF",
}
SUFFIXES = tuple(_FORMATS)
_ENCODING: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 4},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "BMP": {},
    "AVIF": {"quality": 95, "speed": 8},  # six times as fast as the default speed, files no larger
}
_LOSSY = ("JPEG", "WEBP", "AVIF", "HEIF")
_METRES_PER_INCH = 0.0254


def write_image(path: str | Path, picture: Picture, quality: int | None = None) -> None:
    """Write ``picture`` in the format of the suffix of ``path``, whole or not at all.

    Errors as :func:`encode`, and when the file cannot be written.
    """
    path = Path(path)
    try:
        data = encode(picture, path.suffix, quality)
    except AMDRestoreError as error:
        raise AMDRestoreError(f"{path}: {error}") from error
    write_atomically(path, data)


def encode(picture: Picture, suffix: str, quality: int | None = None) -> bytes:
    """Bytes of a file in the format of ``suffix``.

    16 bits are kept by PNG and TIFF, written as 12 by HEIF and rounded to 8 by the others. Float pixels stay float
    in TIFF and become 16 bits in PNG, 12 in HEIF, 8 in the others. JPEG alone has no alpha; WebP stores gray as
    RGB, so it drops a gray profile.

    Args:
        picture: what to write.
        suffix: one of ``SUFFIXES``, in any case.
        quality: 1 to 100, for JPEG, WebP, AVIF and HEIF, and ignored by the lossless formats; None is 95.
            JPEG, AVIF and HEIF are written without chroma subsampling.

    Raises:
        AMDRestoreError: unknown suffix; a quality out of its range; alpha in a JPEG; more pixels than the format
            can hold; HEIF without its package.
    """
    kind = _FORMATS.get(suffix.lower())
    if kind is None:
        raise AMDRestoreError(f"cannot write '{suffix}' files; use one of {', '.join(SUFFIXES)}")
    check_quality(quality)
    if kind == "JPEG" and picture.has_alpha:
        raise AMDRestoreError("JPEG has no transparency; write png, webp or tiff")
    if kind == "HEIF":
        return heif.encode(picture, quality)
    if kind == "TIFF":
        return encode_tiff(picture)
    pixels = np.ascontiguousarray(to_depth(picture.pixels, np.uint16 if _is_deep(picture, kind) else np.uint8))
    channels = pixels.shape[2]
    if pixels.dtype == np.uint16:
        data = _png_of_gray_alpha(pixels) if channels == 2 else _encode_cv2(pixels, kind)
        return _png_with_metadata(data, picture)
    if kind == "BMP" and picture.has_alpha:
        return _encode_cv2(pixels, kind)
    options = dict(_ENCODING[kind])
    if quality is not None and kind in _LOSSY:
        options["quality"] = quality
    if kind == "AVIF":
        options["subsampling"] = "4:0:0" if channels == 1 else "4:4:4"
    if kind != "BMP":
        # WebP knows no gray, so a gray profile would describe pixels that are not there.
        options["icc_profile"] = None if kind == "WEBP" and channels < 3 else picture.icc
        options["exif"] = exif_of(picture) or b""
    if picture.dpi and kind in ("PNG", "JPEG", "BMP"):
        options["dpi"] = picture.dpi
    out = io.BytesIO()
    try:
        Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(out, kind, **options)
    except (OSError, ValueError, RuntimeError, struct.error) as error:
        raise _too_large(kind, pixels, error) from error
    return out.getvalue()


def check_quality(quality: int | None) -> None:
    """Quality is a number from 1 to 100, or None.

    Raises:
        AMDRestoreError: it is not.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise AMDRestoreError(f"quality must be a number from 1 to 100, not {quality}")


def _is_deep(picture: Picture, kind: str) -> bool:
    return kind == "PNG" and picture.pixels.dtype != np.uint8


def _too_large(kind: str, pixels: Pixels, error: object) -> AMDRestoreError:
    height, width = pixels.shape[:2]
    return AMDRestoreError(f"{kind} cannot hold {width}x{height} pixels ({error}); write png or tiff")


def _encode_cv2(pixels: Pixels, kind: str) -> bytes:
    import cv2

    order = {1: [0], 2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    done, out = cv2.imencode(f".{kind.lower()}", np.ascontiguousarray(pixels[:, :, order]))
    if not done:
        raise _too_large(kind, pixels, "OpenCV refuses")
    return out.tobytes()


def _png_of_gray_alpha(pixels: Pixels) -> bytes:
    """16-bit PNG of colour type 4, which neither Pillow nor OpenCV writes; every line is filtered by Up."""
    height, width = pixels.shape[:2]
    lines = pixels.astype(">u2").view(np.uint8).reshape(height, -1)
    filtered = np.full((height, lines.shape[1] + 1), 2, np.uint8)
    filtered[0, 1:], filtered[1:, 1:] = lines[0], lines[1:] - lines[:-1]
    header = struct.pack(">IIBBBBB", width, height, 16, 4, 0, 0, 0)
    body = zlib.compress(filtered.tobytes(), 6)
    chunks = [_png_chunk(b"IHDR", header), _png_chunk(b"IDAT", body), _png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _png_with_metadata(data: bytes, picture: Picture) -> bytes:
    """Insert the metadata after the header chunk."""
    end_of_header = 8 + 25  # signature; IHDR with length, name and checksum
    return data[:end_of_header] + png_metadata(picture) + data[end_of_header:]


def png_metadata(picture: Picture) -> bytes:
    """The iCCP, pHYs and eXIf chunks of ``picture`` (PNG specification, third edition, 11.3)."""
    chunks = b""
    if picture.icc:
        chunks += _png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(picture.icc))
    if picture.dpi:
        x, y = (round(value / _METRES_PER_INCH) for value in picture.dpi)
        chunks += _png_chunk(b"pHYs", struct.pack(">IIB", x, y, 1))
    if exif := exif_of(picture):
        chunks += _png_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    return chunks


def _png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
