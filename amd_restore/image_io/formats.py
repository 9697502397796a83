"""The formats of image files: all names they go by, and what each can hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """What a format can hold; limits are those of the libraries that write and read it.

    Args:
        suffixes: of its files, in lower case; the first one is the usual one.
        side, pixels: longest side and most pixels of a picture.
        still, frames: whether pictures and animations are written in it.
        depth: bits of a channel; 16 stands for floating ones as well.
        alpha, gray: whether it has transparency, and gray that is not stored as RGB.
        signal: whether it names colours by numbers, see :mod:`amd_restore.image_io.signals`.
        lossy: whether it has a quality.
        dpi: highest resolution.
        exif, icc: most bytes of an EXIF block and of a colour profile; 0 where it has none.
    """

    suffixes: tuple[str, ...]
    side: int = (1 << 31) - 1
    pixels: int = 1 << 62
    still: bool = True
    frames: bool = False
    depth: int = 8
    alpha: bool = True
    gray: bool = True
    signal: bool = False
    lossy: bool = False
    dpi: int = 1_000_000
    exif: int = (1 << 31) - 1
    icc: int = (1 << 31) - 1


FORMATS = {  # by Pillow's names
    "PNG": Format((".png", ".apng"), frames=True, depth=16, signal=True),
    "JPEG": Format(
        (".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo"),
        side=65_500,
        alpha=False,
        lossy=True,
        dpi=65_535,
        exif=65_533,
        icc=255 * 65_519,
    ),
    "WEBP": Format((".webp",), side=16_383, frames=True, gray=False, lossy=True),
    "TIFF": Format((".tiff", ".tif"), depth=16),
    "BMP": Format((".bmp", ".dib"), exif=0, icc=0),
    "GIF": Format((".gif",), side=65_535, still=False, frames=True, exif=0, icc=0),
    "AVIF": Format((".avif", ".avifs"), side=32_768, pixels=1 << 28, signal=True, lossy=True),
    "HEIF": Format((".heic", ".heif", ".hif", ".heics", ".heifs"), side=32_768, depth=12, signal=True, lossy=True),
}
NAMES = {suffix: name for name, kind in FORMATS.items() for suffix in kind.suffixes}
READABLE_SUFFIXES = tuple(NAMES)
SUFFIXES = tuple(suffix for suffix, name in NAMES.items() if FORMATS[name].still)
FRAME_SUFFIXES = tuple(suffix for suffix, name in NAMES.items() if FORMATS[name].frames)
