"""TIFF writer: 8 and 16 bits and float, gray and RGB, with alpha, profile, EXIF and resolution, compressed.

Pillow writes 8 bits only, and EXIF only without compression; OpenCV writes neither profile, EXIF nor gray with alpha.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import deep
from amd_restore.image_io.metadata import EXIF_IFD, GPS_IFD, RESOLUTION_UNIT, X_RESOLUTION, Y_RESOLUTION, exif_of
from amd_restore.image_io.picture import Picture, Pixels

_ROWS_PER_STRIP = 278
_STRIP_BYTES = 1 << 20
_SHORT, _LONG, _RATIONAL, _UNDEFINED = 3, 4, 5, 7
_DEFLATE, _INCH, _LEVEL = 8, 2, 6


def encode_tiff(picture: Picture) -> bytes:
    """Bytes of a little-endian TIFF 6.0 file of deflated strips, integers with horizontal differencing.

    Raises:
        AMDRestoreError: it would need more than 4 GiB.
    """
    pixels = picture.pixels
    height, width, channels = pixels.shape
    rows = max(1, _STRIP_BYTES // (width * channels * pixels.dtype.itemsize))
    strips = [_pack(pixels[top : top + rows]) for top in range(0, height, rows)]
    counts = [len(strip) for strip in strips]
    offsets = [0, *np.cumsum(counts[:-1]).tolist()]  # of the first strip's; Pillow adds where that comes to lie
    floating = pixels.dtype.kind == "f"
    table: dict[int, tuple[int, Any]] = {
        deep.WIDTH: (_LONG, width),
        deep.HEIGHT: (_LONG, height),
        deep.BITS: (_SHORT, (8 * pixels.dtype.itemsize,) * channels),
        deep.COMPRESSION: (_SHORT, _DEFLATE),
        deep.PHOTOMETRIC: (_SHORT, 2 if channels > 2 else 1),
        deep.STRIP_OFFSETS: (_LONG, tuple(offsets)),
        deep.SAMPLES: (_SHORT, channels),
        _ROWS_PER_STRIP: (_LONG, rows),
        deep.STRIP_COUNTS: (_LONG, tuple(counts)),
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
    directory = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    for tag, value in _exif_tags(picture).items():
        directory[tag] = value
    for tag, (kind, value) in table.items():
        directory.tagtype[tag] = kind
        directory[tag] = value
    head = b"II*\0\x08\0\0\0"
    body = directory.tobytes(len(head))
    if len(head) + len(body) + sum(counts) >= 1 << 32:
        raise AMDRestoreError(f"TIFF cannot hold {width}x{height} pixels: it would need more than 4 GiB; write png")
    return b"".join([head, body, *strips])


def _pack(strip: Pixels) -> bytes:
    if strip.dtype.kind == "f":
        return zlib.compress(strip.astype("<f4").tobytes(), _LEVEL)
    steps = strip.copy()
    steps[:, 1:] -= strip[:, :-1]  # modulo 256 or 65536, as the predictor wants it
    return zlib.compress(steps.astype(steps.dtype.newbyteorder("<")).tobytes(), _LEVEL)


def _exif_tags(picture: Picture) -> dict[int, Any]:
    block = exif_of(picture)
    if block is None:
        return {}
    exif = Image.Exif()
    exif.load(block)
    tags = dict(exif)
    for ifd in (EXIF_IFD, GPS_IFD):
        if values := exif.get_ifd(ifd):
            tags[ifd] = dict(values)
    return tags
