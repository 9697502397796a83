"""Rows into a file, by the format of its suffix."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from amd_restore.atomic import open_atomically
from amd_restore.image_io.encoding import write_image
from amd_restore.image_io.picture import Picture
from amd_restore.image_io.png import write_png
from amd_restore.image_io.rows import Pixels, regroup
from amd_restore.image_io.streamed_tiff import write_tiff

_WRITERS = {".png": write_png, ".tif": write_tiff, ".tiff": write_tiff}
_PORTION = 256  # rows


def is_streamed(path: str | Path) -> bool:
    """Whether files of this suffix are written row by row; others need the whole picture in memory."""
    return Path(path).suffix.lower() in _WRITERS


def write_rows(path: str | Path, picture: Picture, rows: Iterable[Pixels], quality: int | None = None) -> None:
    """Write rows as they come; the file appears whole or not at all.

    PNG keeps 8 and 16 bits, TIFF float pixels as well; TIFF becomes BigTIFF where it might exceed 4 GiB. Other
    formats are collected and written by :func:`~amd_restore.image_io.write_image`.

    Args:
        path: its suffix names the format.
        picture: size, dtype and metadata of the output. Its pixels are not looked at and may be a broadcast zero.
        rows: the pixels from top to bottom, (n, W, C) each.
        quality: for formats that lose something, see :func:`~amd_restore.image_io.encode`.

    Raises:
        AMDRestoreError: the file cannot be written or its format not hold the picture; rows are missing or too many.
            What ``rows`` raises passes through.
    """
    path = Path(path)
    writer = _WRITERS.get(path.suffix.lower())
    if writer is not None:
        with open_atomically(path) as file:
            writer(file, picture, rows)
        return
    height, width, channels = picture.pixels.shape
    out = np.empty((height, width, channels), picture.pixels.dtype)
    done = 0
    for band in regroup(rows, _PORTION, height, width, channels):
        out[done : done + len(band)] = band
        done += len(band)
    write_image(path, Picture(out, picture.icc, picture.exif, picture.dpi), quality)
