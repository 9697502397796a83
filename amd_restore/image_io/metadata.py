"""EXIF, orientation and resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from amd_restore.image_io.picture import Picture, Pixels

# EXIF tags that still hold for a larger picture. The others describe how the file was stored (TIFF keeps both
# in one table), show the small picture (thumbnail), or point to bytes by position (maker notes). Resolution is
# carried apart, because it changes with the size.
EXIF_IFD, GPS_IFD = 0x8769, 0x8825
_KEPT = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
_DROPPED = (0x927C, 0xA005)
_WIDTH, _HEIGHT, _ORIENTATION = 0xA002, 0xA003, 0x0112
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
_CM_PER_INCH = 2.54


@dataclass(frozen=True)
class Metadata:
    """What is kept of a file beside pixels and profile; ``orientation`` (1 to 8) is still to be applied."""

    exif: bytes | None = None
    orientation: int = 1
    dpi: tuple[float, float] | None = None


def read_metadata(image: Image.Image) -> Metadata:
    """Metadata of an opened file."""
    stored = None
    if image.format != "JPEG" or image.info.get("jfif_unit") in (1, 2):  # Pillow makes 72 dpi up for other JPEGs
        stored = image.info.get("dpi")
    try:
        source = image.getexif()
    except Exception:  # damaged metadata are no reason to refuse the picture, and Pillow raises many kinds
        source = Image.Exif()
    return metadata_of(source, stored)


def metadata_of(source: Image.Exif, stored_dpi: Any = None) -> Metadata:
    """Metadata of an EXIF table, and of the resolution that the file states elsewhere (pixels per inch)."""
    try:
        kept = Image.Exif()
        for tag in _KEPT:
            if tag in source:
                kept[tag] = source[tag]
        for ifd in (EXIF_IFD, GPS_IFD):
            values = {tag: value for tag, value in source.get_ifd(ifd).items() if tag not in _DROPPED}
            if values:
                kept[ifd] = values
        orientation = source.get(_ORIENTATION, 1)
        orientation = orientation if orientation in range(1, 9) else 1
        dpi = _checked_dpi(_exif_dpi(source)) or _checked_dpi(stored_dpi)
        if dpi and orientation >= 5:
            dpi = dpi[::-1]
        return Metadata(kept.tobytes() if len(kept) else None, orientation, dpi)
    except Exception:  # as above
        return Metadata()


def exif_of(picture: Picture) -> bytes | None:
    """The picture's EXIF block with its present size and resolution; None if it has no EXIF."""
    if picture.exif is None:
        return None
    exif = Image.Exif()
    exif.load(picture.exif)
    values = dict(exif.get_ifd(EXIF_IFD))
    if _WIDTH in values or _HEIGHT in values:
        values |= {_WIDTH: picture.pixels.shape[1], _HEIGHT: picture.pixels.shape[0]}
    if values:
        exif[EXIF_IFD] = values
    if picture.dpi:
        exif[X_RESOLUTION], exif[Y_RESOLUTION], exif[RESOLUTION_UNIT] = (*picture.dpi, 2)
    return exif.tobytes()


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo the eight EXIF orientations (CIPA DC-008, 4.6.5.1)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _exif_dpi(source: Image.Exif) -> tuple[float, float] | None:
    if X_RESOLUTION not in source or source.get(RESOLUTION_UNIT, 2) not in (2, 3):
        return None
    unit = _CM_PER_INCH if source.get(RESOLUTION_UNIT, 2) == 3 else 1.0
    x = float(source[X_RESOLUTION])
    return x * unit, float(source.get(Y_RESOLUTION, x)) * unit


def _checked_dpi(dpi: Any) -> tuple[float, float] | None:
    if not dpi or len(dpi) != 2:
        return None
    x, y = float(dpi[0]), float(dpi[1])
    possible = math.isfinite(x) and math.isfinite(y) and 0 < min(x, y) and max(x, y) < 1e6
    return (x, y) if possible else None
