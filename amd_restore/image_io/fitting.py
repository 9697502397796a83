"""What of a picture a format can hold; known before the picture is restored."""

from __future__ import annotations

import numpy as np

from amd_restore.errors import AMDRestoreError
from amd_restore.image_io.formats import FORMATS, FRAME_SUFFIXES, NAMES, SUFFIXES
from amd_restore.image_io.metadata import shortened
from amd_restore.image_io.picture import Picture
from amd_restore.image_io.signals import profile_of


def format_of(suffix: str, suffixes: tuple[str, ...] = SUFFIXES) -> str:
    """Name of the format that files of ``suffix`` are written in.

    Raises:
        AMDRestoreError: none of ``suffixes``.
    """
    if suffix.lower() not in suffixes:
        raise AMDRestoreError(f"cannot write '{suffix}' files; use one of {', '.join(SUFFIXES)}")
    return NAMES[suffix.lower()]


def check_side(suffix: str, height: int, width: int) -> None:
    """Refuse more pixels than the format of ``suffix`` can hold.

    Raises:
        AMDRestoreError: they are too many.
    """
    name = NAMES[suffix.lower()]
    kind = FORMATS[name]
    if max(height, width) > kind.side or height * width > kind.pixels:
        most = f"{kind.side} a side" if max(height, width) > kind.side else f"{kind.pixels / 1e6:.0f} megapixels"
        raise AMDRestoreError(f"{name} cannot hold {width}x{height} pixels, at most {most}; write png or tiff")


def fitted(picture: Picture, suffix: str, size: tuple[int, int] | None = None) -> Picture:
    """The picture as a file of ``suffix`` holds it; what that takes away is added to its ``lost``.

    Transparency that hides nothing goes without a word, EXIF and profile that are too long are shortened or dropped,
    and colours by numbers become a profile where the format has only those.

    Args:
        picture: what to write, or what to restore and then write.
        suffix: of a format that is written.
        size: (height, width) to be written; None is that of ``picture``.

    Raises:
        AMDRestoreError: another suffix, too many pixels, real transparency for a format that has none, or colours that
            it cannot name.
    """
    name = format_of(suffix, SUFFIXES + FRAME_SUFFIXES)
    kind, pixels, lost = FORMATS[name], picture.pixels, list(picture.lost)
    height, width = size or pixels.shape[:2]
    check_side(suffix, height, width)
    if picture.has_alpha and not kind.alpha:
        if pixels[..., -1].min() < (1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max):
            raise AMDRestoreError(f"{name} has no transparency; write png, webp or tiff")
        pixels = pixels[..., :-1]
    icc, signal, exif, dpi = picture.icc, picture.signal, picture.exif, picture.dpi
    if signal is not None and not kind.signal:
        icc, signal = profile_of(signal, pixels.shape[2]), None
    if icc and (len(icc) > kind.icc or (pixels.shape[2] < 3 and not kind.gray)):
        icc = None
        lost.append("colour profile")
    if dpi and max(dpi[0] * width / pixels.shape[1], dpi[1] * height / pixels.shape[0]) > kind.dpi:
        dpi = None
        lost.append("resolution")
    if exif and len(exif) > kind.exif:
        exif = shortened(exif, kind.exif)
        lost.append("EXIF entries")
    if pixels.dtype != np.uint8 and kind.depth < 16:
        lost.append(f"more than {kind.depth} bits")
    return Picture(pixels, icc, exif, dpi, signal, tuple(lost))
