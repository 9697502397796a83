""":class:`Picture` -> bytes of a file."""

from __future__ import annotations

import dataclasses
import io
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from amd_restore.atomic import open_atomically, write_atomically
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import heif
from amd_restore.image_io.fitting import fitted, format_of
from amd_restore.image_io.formats import FORMATS, NAMES
from amd_restore.image_io.metadata import exif_of
from amd_restore.image_io.picture import Picture, Pixels, to_depth
from amd_restore.image_io.png import write_png
from amd_restore.image_io.rows import regroup
from amd_restore.image_io.tiff import write_tiff

_ENCODING: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "BMP": {},
    "AVIF": {"quality": 95, "speed": 8},  # six times as fast as the default speed, files no larger
}
_STREAMED = {"PNG": write_png, "TIFF": write_tiff}
_PORTION = 256  # rows that are collected at a time


def is_streamed(path: str | Path) -> bool:
    """Whether files of this suffix are written row by row; others need the whole picture in memory."""
    return NAMES.get(Path(path).suffix.lower()) in _STREAMED


def write_image(
    path: str | Path, picture: Picture, quality: int | None = None, rows: Iterable[Pixels] | None = None
) -> None:
    """Write ``picture`` in the format of the suffix of ``path``, whole or not at all.

    PNG and TIFF are written as ``rows`` come; for the other formats these are collected first.

    Args:
        path: its suffix names the format.
        picture: what to write. With ``rows``, its pixels give size and dtype only, and may be a broadcast zero.
        quality: see :func:`encode`.
        rows: the pixels from top to bottom, (n, W, C) each; None takes those of ``picture``.

    Raises:
        AMDRestoreError: as :func:`encode`; the file cannot be written; rows are missing or too many. What ``rows``
            raises passes through.
    """
    path = Path(path)
    try:
        picture = fitted(picture, path.suffix)
        check_quality(quality)
    except AMDRestoreError as error:
        raise AMDRestoreError(f"{path}: {error}") from error
    if is_streamed(path):
        with open_atomically(path) as file:
            _STREAMED[NAMES[path.suffix.lower()]](file, picture, [picture.pixels] if rows is None else rows)
        return
    if rows is not None:
        picture = dataclasses.replace(picture, pixels=_collected(rows, picture.pixels))
    try:
        data = encode(picture, path.suffix, quality)
    except AMDRestoreError as error:
        raise AMDRestoreError(f"{path}: {error}") from error
    write_atomically(path, data)


def encode(picture: Picture, suffix: str, quality: int | None = None) -> bytes:
    """Bytes of a file in the format of ``suffix``.

    16 bits are kept by PNG and TIFF, written as 12 by HEIF and rounded to 8 by the others. Float pixels stay float
    in TIFF and become 16 bits in PNG, 12 in HEIF, 8 in the others. TIFF becomes BigTIFF where it might exceed 4 GiB.

    Args:
        picture: what to write.
        suffix: one of ``SUFFIXES``, in any case.
        quality: 1 to 100, for JPEG, WebP, AVIF and HEIF, and ignored by the lossless formats; None is 95.
            JPEG, AVIF and HEIF are written without chroma subsampling.

    Raises:
        AMDRestoreError: as :func:`~amd_restore.image_io.fitting.fitted`; a quality out of its range; HEIF without its
            package.
    """
    check_quality(quality)
    kind, picture = format_of(suffix), fitted(picture, suffix)
    if kind == "HEIF":
        return heif.encode(picture, quality)
    out = io.BytesIO()
    if kind in _STREAMED:
        _STREAMED[kind](out, picture, [picture.pixels])
        return out.getvalue()
    pixels = np.ascontiguousarray(to_depth(picture.pixels, np.uint8))
    channels = pixels.shape[2]
    if kind == "BMP" and picture.has_alpha:
        return _bmp_with_alpha(pixels)
    options = dict(_ENCODING[kind])
    if quality is not None and FORMATS[kind].lossy:
        options["quality"] = quality
    if kind == "AVIF":
        options["subsampling"] = "4:0:0" if channels == 1 else "4:4:4"
    if kind != "BMP":
        options["icc_profile"] = picture.icc
        options["exif"] = exif_of(picture, kind != "JPEG") or b""
    if kind in ("JPEG", "BMP"):
        options["dpi"] = picture.dpi or (0, 0)  # else Pillow would make some up
    try:
        Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(out, kind, **options)
    except (OSError, ValueError, RuntimeError, struct.error) as error:
        raise _too_large(kind, pixels, error) from error
    data = out.getvalue()
    if picture.signal and (place := data.find(b"colrnclx")) > 0:  # Pillow writes that of sRGB
        data = data[: place + 8] + struct.pack(">HH", *picture.signal) + data[place + 12 :]
    return data


def check_quality(quality: int | None) -> None:
    """Quality is a number from 1 to 100, or None.

    Raises:
        AMDRestoreError: it is not.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise AMDRestoreError(f"quality must be a number from 1 to 100, not {quality}")


def _too_large(kind: str, pixels: Pixels, error: object) -> AMDRestoreError:
    height, width = pixels.shape[:2]
    return AMDRestoreError(f"{kind} cannot hold {width}x{height} pixels ({error}); write png or tiff")


def _bmp_with_alpha(pixels: Pixels) -> bytes:
    """Pillow drops the alpha of a BMP, OpenCV writes it."""
    import cv2

    order = [0, 0, 0, 1] if pixels.shape[2] == 2 else [2, 1, 0, 3]
    done, out = cv2.imencode(".bmp", np.ascontiguousarray(pixels[:, :, order]))
    if not done:
        raise _too_large("BMP", pixels, "OpenCV refuses")
    return out.tobytes()


def _collected(rows: Iterable[Pixels], pixels: Pixels) -> Pixels:
    """All ``rows`` of a picture as large as ``pixels``."""
    out, done = np.empty(pixels.shape, pixels.dtype), 0
    for band in regroup(rows, _PORTION, *pixels.shape):
        out[done : done + len(band)] = band
        done += len(band)
    return out
