"""Rows of pixels in the portions that a file format needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from amd_restore.errors import AMDRestoreError
from amd_restore.image_io.picture import Pixels


def regroup(rows: Iterable[Pixels], portion: int, height: int, width: int, channels: int) -> Iterator[Pixels]:
    """Cut and join ``rows`` into arrays of exactly ``portion`` rows, the last one excepted.

    Args:
        rows: (n, width, channels) each.
        portion: rows wanted at a time, at least 1.
        height, width, channels: of the whole picture.

    Raises:
        AMDRestoreError: rows of another shape, or not as many as ``height``.
    """
    waiting: list[Pixels] = []
    count = done = 0
    for band in rows:
        if band.ndim != 3 or band.shape[1:] != (width, channels):
            raise AMDRestoreError(f"rows of shape {band.shape} do not fit a picture of {width} x {channels}")
        done += len(band)
        if done > height:
            raise AMDRestoreError(f"{done} rows came for a picture of {height}")
        while len(band):
            taken, band = band[: portion - count], band[portion - count :]
            waiting.append(taken)
            count += len(taken)
            if count == portion:
                yield waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
                waiting, count = [], 0
    if waiting:
        yield np.concatenate(waiting)
    if done != height:
        raise AMDRestoreError(f"{done} rows came for a picture of {height}")
