"""EXIF, orientation and resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from amd_restore.image_io.parts import lost_parts
from amd_restore.image_io.picture import Picture, Pixels

# EXIF tags that still hold for a larger picture. The others describe how the file was stored (TIFF keeps both
# in one table), show the small picture (thumbnail), or point to bytes by position (maker notes). Resolution is
# carried apart, because it changes with the size.
EXIF_IFD, GPS_IFD = 0x8769, 0x8825
_KEPT = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
_INTEROPERABILITY = 0xA005
_DROPPED = (0x927C, _INTEROPERABILITY)
_LOST = {"xmp": "XMP", "photoshop": "IPTC", "comment": "comment"}  # by Pillow's names
_LOST_TAGS = {700: "XMP", 33723: "IPTC", 34377: "IPTC", 34735: "GeoTIFF", 52545: "content credentials"} | dict.fromkeys(
    (301, 318, 319), "colorimetry"
)
# Of a GIF.
_LOST_EXTENSIONS = {b"XMP DataXMP": "XMP", b"ICCRGBG1012": "colour profile", b"C2PA_GIF\1\0\0": "content credentials"}
_EXTRA_SAMPLES = 338
_SEGMENTS = {"APP0", "APP1", "APP2", "APP13", "APP14", "COM"}  # of a JPEG, that are looked at
_WIDTH, _HEIGHT, _ORIENTATION = 0xA002, 0xA003, 0x0112
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
_CM_PER_INCH = 2.54
_ADDED = 256  # bytes at most by which size and resolution make an EXIF block longer


@dataclass(frozen=True)
class Metadata:
    """What is kept of a file beside pixels and profile; ``orientation`` (1 to 8) is still to be applied."""

    exif: bytes | None = None
    orientation: int = 1
    dpi: tuple[float, float] | None = None


def read_metadata(image: Image.Image) -> Metadata:
    """Metadata of an opened file."""
    stored = None
    # Pillow makes 72 dpi up for other JPEGs, and 1 dpi for a TIFF, whose resolution is in the same table as its EXIF.
    if image.format not in ("JPEG", "TIFF") or image.info.get("jfif_unit") in (1, 2):
        stored = image.info.get("dpi")
    try:
        source = image.getexif()
    except Exception:  # Damaged metadata must not cost the image, and Pillow raises many kinds of errors.
        source = Image.Exif()
    return metadata_of(source, stored)


def is_adobe_rgb(image: Image.Image) -> bool:
    """Whether a camera says so in its EXIF (CIPA DC-008, 4.6.8: interoperability R03)."""
    try:
        return image.getexif().get_ifd(_INTEROPERABILITY).get(1) == "R03"
    except Exception:  # Damaged metadata must not cost the image, and Pillow raises many kinds of errors.
        return False


def lost_of(image: Image.Image, data: bytes) -> list[str]:
    """What an opened file of this content holds beside that is not kept, by kind."""
    lost = lost_parts(data) + [kind for name, kind in _LOST.items() if image.info.get(name)]
    if image.format == "MPO":
        lost.append("further pictures")
    if kind := _LOST_EXTENSIONS.get(image.info.get("extension", (b"",))[0][:11]):
        lost.append(kind)
    if {name for name, _ in getattr(image, "applist", ())} - _SEGMENTS:
        lost.append("further segments")
    return lost + lost_tags(getattr(image, "tag_v2", {}))


def lost_tags(tags: Any) -> list[str]:
    """What the directory of a TIFF holds beside that is not kept, by kind."""
    lost = [kind for tag, kind in _LOST_TAGS.items() if tag in tags]
    return lost + ["extra channels"] if 0 in tags.get(_EXTRA_SAMPLES, ()) else lost


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
    except Exception:  # Damaged metadata must not cost the image, and Pillow raises many kinds of errors.
        return Metadata()


def exif_of(picture: Picture, resolution: bool = False) -> bytes | None:
    """The picture's EXIF block with its present size and resolution; None if it has no EXIF.

    With ``resolution`` one is made for the resolution, where the format has no other place for it.
    """
    exif = Image.Exif()
    if picture.exif is not None:
        exif.load(picture.exif)
    elif not (resolution and picture.dpi):
        return None
    values = dict(exif.get_ifd(EXIF_IFD))
    if _WIDTH in values or _HEIGHT in values:
        values |= {_WIDTH: picture.pixels.shape[1], _HEIGHT: picture.pixels.shape[0]}
    if values:
        exif[EXIF_IFD] = values
    if picture.dpi:
        exif[X_RESOLUTION], exif[Y_RESOLUTION], exif[RESOLUTION_UNIT] = (*picture.dpi, 2)
    return exif.tobytes()


def shortened(block: bytes, limit: int) -> bytes | None:
    """An EXIF block without as many of its longest values as it takes to stay below ``limit`` bytes."""
    exif = Image.Exif()
    exif.load(block)
    tables = {ifd: dict(exif.get_ifd(ifd)) for ifd in (EXIF_IFD, GPS_IFD)}
    tables[0] = {tag: value for tag, value in exif.items() if tag not in tables}
    lengths = {(ifd, tag): len(str(value)) for ifd, table in tables.items() for tag, value in table.items()}
    for ifd, tag in sorted(lengths, key=lengths.__getitem__, reverse=True):
        if len(block) <= limit - _ADDED:
            break
        del tables[ifd][tag]
        kept = Image.Exif()
        for name, value in [
            *tables[0].items(),
            *((name, tables[name]) for name in (EXIF_IFD, GPS_IFD) if tables[name]),
        ]:
            kept[name] = value
        block = kept.tobytes() if len(kept) else b""
    return block or None


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
