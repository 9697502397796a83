"""TIFF writer: strips are compressed as they come, the directory before them is filled in at the end.

Pillow writes 8 bits only, and EXIF only without compression; OpenCV writes neither profile, EXIF nor gray with alpha.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from amd_restore.image_io import deep
from amd_restore.image_io.metadata import EXIF_IFD, GPS_IFD, RESOLUTION_UNIT, X_RESOLUTION, Y_RESOLUTION, exif_of
from amd_restore.image_io.picture import Picture, Pixels
from amd_restore.image_io.rows import regroup

_SHORT, _LONG, _RATIONAL, _UNDEFINED, _LONG8 = 3, 4, 5, 7, 16
_ROWS_PER_STRIP, _INCH = 278, 2
_DEFLATE, _LEVEL, _STRIP_BYTES = 8, 6, 1 << 20
# Byte order, version and position of the directory; of a BigTIFF, the size of its offsets, too.
_HEAD = {False: b"II*\0\x08\0\0\0", True: b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0"}
_CLASSIC_LIMIT = 4_000_000_000  # bytes before compression; classic TIFF counts to 2**32


def write_tiff(file: BinaryIO, picture: Picture, rows: Iterable[Pixels], classic_limit: int = _CLASSIC_LIMIT) -> None:
    """Write a little-endian TIFF 6.0 file of deflated strips, integers with horizontal differencing, or a BigTIFF.

    Args:
        file: seekable and empty.
        picture: size, dtype and metadata; its pixels are not looked at.
        rows: the pixels from top to bottom, (n, W, C) each.
        classic_limit: bytes of pixels from which on a BigTIFF is written; not every program reads those.

    Raises:
        AMDRestoreError: rows are missing or too many.
    """
    height, width, channels = picture.pixels.shape
    dtype = np.dtype(np.float32) if picture.pixels.dtype.kind == "f" else picture.pixels.dtype
    line = width * channels * dtype.itemsize
    big = line * height >= classic_limit
    portion = max(1, _STRIP_BYTES // line)
    sizes = [0] * -(-height // portion)
    head = _HEAD[big]
    file.write(head + _directory(picture, dtype, portion, sizes, big, len(head)))
    for i, band in enumerate(regroup(rows, portion, height, width, channels)):
        packed = _pack(band.astype(dtype, copy=False))
        sizes[i] = len(packed)
        file.write(packed)
    file.seek(len(head))
    file.write(_directory(picture, dtype, portion, sizes, big, len(head)))


def _directory(picture: Picture, dtype: np.dtype[Any], rows: int, sizes: list[int], big: bool, position: int) -> bytes:
    """The directory at ``position``; its length does not depend on ``sizes``, those of the strips behind it."""
    height, width, channels = picture.pixels.shape
    floating = dtype.kind == "f"
    offsets = np.cumsum([0, *sizes[:-1]], dtype=np.int64).tolist()  # Pillow adds where the first strip comes to lie
    table: dict[int, tuple[int, Any]] = {
        deep.WIDTH: (_LONG, width),
        deep.HEIGHT: (_LONG, height),
        deep.BITS: (_SHORT, (8 * dtype.itemsize,) * channels),
        deep.COMPRESSION: (_SHORT, _DEFLATE),
        deep.PHOTOMETRIC: (_SHORT, 2 if channels > 2 else 1),
        deep.STRIP_OFFSETS: (_LONG8 if big else _LONG, tuple(offsets)),
        deep.SAMPLES: (_SHORT, channels),
        _ROWS_PER_STRIP: (_LONG, rows),
        deep.STRIP_COUNTS: (_LONG, tuple(sizes)),
        deep.PLANAR: (_SHORT, 1),
        deep.PREDICTOR: (_SHORT, 1 if floating else 2),
        deep.SAMPLE_FORMAT: (_SHORT, (3 if floating else 1,) * channels),
    }
    if picture.has_alpha:
        table[deep.EXTRA_SAMPLES] = (_SHORT, 2)
    if picture.icc:
        table[deep.ICC_PROFILE] = (_UNDEFINED, picture.icc)
    if picture.dpi:
        table[X_RESOLUTION], table[Y_RESOLUTION] = ((_RATIONAL, value) for value in picture.dpi)
        table[RESOLUTION_UNIT] = (_SHORT, _INCH)
    directory = ImageFileDirectory_v2(_HEAD[big])
    if block := exif_of(picture):
        exif = Image.Exif()
        exif.load(block)
        for tag, value in exif.items():
            directory[tag] = value
        for tag in (EXIF_IFD, GPS_IFD):
            if values := exif.get_ifd(tag):
                directory[tag] = dict(values)
    for tag, (kind, value) in table.items():
        directory.tagtype[tag] = kind
        directory[tag] = value
    return directory.tobytes(position)


def _pack(strip: Pixels) -> bytes:
    if strip.dtype.kind != "f":
        steps = strip.copy()
        steps[:, 1:] -= strip[:, :-1]  # modulo 256 or 65536, as the predictor is defined
        strip = steps
    return zlib.compress(strip.astype(strip.dtype.newbyteorder("<"), copy=False).tobytes(), _LEVEL)
