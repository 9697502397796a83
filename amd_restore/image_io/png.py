"""PNG writer: rows are filtered and compressed as they come (PNG specification, third edition)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

from amd_restore.errors import AMDRestoreError
from amd_restore.image_io.chunks import SIGNATURE, chunk
from amd_restore.image_io.metadata import exif_of
from amd_restore.image_io.picture import Picture, Pixels, to_depth
from amd_restore.image_io.rows import regroup

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_LEVEL = 4
_PORTION = 1 << 20  # bytes of pixels that are filtered at a time
_LARGEST = (1 << 31) - 1
_METRES_PER_INCH = 0.0254


def write_png(file: BinaryIO, picture: Picture, rows: Iterable[Pixels]) -> None:
    """Write a PNG file of 8 bits, or of 16 where ``picture`` has more or floating ones.

    Args:
        file: where to.
        picture: size, dtype and metadata; its pixels are not looked at.
        rows: the pixels from top to bottom, (n, W, C) each.

    Raises:
        AMDRestoreError: a side is larger than PNG can say; rows are missing or too many.
    """
    height, width, channels = picture.pixels.shape
    if max(height, width) > _LARGEST:
        raise AMDRestoreError(f"PNG cannot hold {width}x{height} pixels; write tiff")
    depth = 8 if picture.pixels.dtype == np.uint8 else 16
    bytes_per_pixel = channels * depth // 8
    header = struct.pack(">IIBBBBB", width, height, depth, _COLOUR_TYPES[channels], 0, 0, 0)
    file.write(SIGNATURE + chunk(b"IHDR", header) + _metadata(picture))
    compressor = zlib.compressobj(_LEVEL, strategy=zlib.Z_FILTERED)
    above = np.zeros(width * bytes_per_pixel, np.uint8)
    portion = max(1, _PORTION // above.size)
    for band in regroup(rows, portion, height, width, channels):
        lines = _lines(band, depth)
        _write_data(file, compressor.compress(filtered(lines, above, bytes_per_pixel).tobytes()))
        above = lines[-1]
    _write_data(file, compressor.flush())
    file.write(chunk(b"IEND", b""))


def filtered(lines: Pixels, above: Pixels, bytes_per_pixel: int) -> Pixels:
    """Filter every line by that of Sub, Up, Average and Paeth which leaves the smallest sum of absolute values.

    Args:
        lines: (n, bytes), uint8.
        above: (bytes,), the line before the first; zeros if there is none.
        bytes_per_pixel: distance to the pixel on the left.

    Returns:
        (n, 1 + bytes), uint8: number of the filter and what it leaves (specification, section 9).
    """
    up = np.concatenate([above[None], lines[:-1]])
    left, corner = np.zeros_like(lines), np.zeros_like(lines)
    left[:, bytes_per_pixel:], corner[:, bytes_per_pixel:] = lines[:, :-bytes_per_pixel], up[:, :-bytes_per_pixel]
    average = (left & up) + ((left ^ up) >> 1)  # without overflow
    out = np.empty((len(lines), 1 + lines.shape[1]), np.uint8)
    least = np.full(len(lines), np.iinfo(np.int64).max)
    for kind, prediction in ((1, left), (2, up), (3, average), (4, _paeth(left, up, corner))):
        rest = lines - prediction  # modulo 256
        cost = np.minimum(rest, -rest).sum(axis=1, dtype=np.int64)  # of signed bytes, the absolute values
        better = cost < least
        out[better, 0], out[better, 1:] = kind, rest[better]
        least[better] = cost[better]
    return out


def _paeth(left: Pixels, up: Pixels, corner: Pixels) -> Pixels:
    """Whichever of the three is nearest to left + up - corner; ties go in this order."""
    a, b, c = left.astype(np.int16), up.astype(np.int16), corner.astype(np.int16)
    to_left, to_up = np.abs(b - c), np.abs(a - c)
    to_corner = np.abs(a + b - 2 * c)
    return np.where((to_left <= to_up) & (to_left <= to_corner), left, np.where(to_up <= to_corner, up, corner))


def _lines(band: Pixels, depth: int) -> Pixels:
    """Pixels as the bytes of a PNG, (n, bytes)."""
    stored = np.ascontiguousarray(band if depth == 8 else to_depth(band, np.uint16), np.uint8 if depth == 8 else ">u2")
    return stored.view(np.uint8).reshape(len(band), -1)


def _metadata(picture: Picture) -> bytes:
    """The cICP, iCCP, pHYs and eXIf chunks (11.3)."""
    chunks = chunk(b"cICP", bytes([*picture.signal, 0, 1])) if picture.signal else b""
    if picture.icc:
        chunks += chunk(b"iCCP", b"icc\0\0" + zlib.compress(picture.icc))
    if picture.dpi:
        x, y = (round(value / _METRES_PER_INCH) for value in picture.dpi)
        chunks += chunk(b"pHYs", struct.pack(">IIB", x, y, 1))
    if exif := exif_of(picture):
        chunks += chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    return chunks


def _write_data(file: BinaryIO, data: bytes) -> None:
    if data:
        file.write(chunk(b"IDAT", data))
