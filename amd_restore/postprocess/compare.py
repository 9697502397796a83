"""Input and output side by side in one image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from amd_restore.errors import AMDRestoreError
from amd_restore.image_io.sizing import resize

ENLARGEMENTS = ("nearest", "bicubic")


def side_by_side(
    lq: NDArray[Any], sr: NDArray[Any], enlarge: str = "nearest", separator: int | None = None
) -> NDArray[Any]:
    """Place the enlarged input on the left, the output on the right, and a white line between.

    Args:
        lq: (h, w) or (h, w, C), uint8, uint16, or floating in [0, 1].
        sr: (H, W) or (H, W, C) of the same channels and dtype, of any size.
        enlarge: ``nearest`` to show the input's pixels, ``bicubic`` for smooth enlargement.
        separator: width of the line in pixels; None for 1/200 of the image width, at least 2.

    Returns:
        (H, 2 W + separator) or (.., C), dtype of ``sr``; the line is opaque in images with alpha.

    Raises:
        AMDRestoreError: another enlargement, or images of different channels or dtype.
    """
    if enlarge not in ENLARGEMENTS:
        raise AMDRestoreError(f"compare: enlarge must be one of {', '.join(ENLARGEMENTS)}, not '{enlarge}'")
    if lq.dtype != sr.dtype or lq.shape[2:] != sr.shape[2:] or lq.ndim != sr.ndim:
        raise AMDRestoreError(
            f"compare: input {lq.shape} {lq.dtype} and output {sr.shape} {sr.dtype} differ in channels or dtype"
        )
    height, width = sr.shape[:2]
    left = _nearest(lq, height, width) if enlarge == "nearest" else resize(lq, (height, width))
    separator = max(2, width // 200) if separator is None else separator
    white = 1.0 if sr.dtype.kind == "f" else np.iinfo(sr.dtype).max
    line = np.full((height, separator, *sr.shape[2:]), white, sr.dtype)
    return np.concatenate([left, line, sr], axis=1)


def _nearest(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    rows = np.arange(height) * image.shape[0] // height
    columns = np.arange(width) * image.shape[1] // width
    return image[rows[:, None], columns]
