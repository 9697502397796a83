"""Antialiased bicubic scaling by whole numbers, as MATLAB's ``imresize`` (a = -0.5, reflected edges).

Each pixel depends on a bounded neighbourhood, so tiles with a halo agree with the whole image.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from amd_restore.arrays import Array, HostArray, correlate, take

DOWN_REACH = 2  # neighbouring pixels of lq to each side on which a pixel of lq depends
UP_REACH = 2  # neighbouring pixels of lq on which an upscaled pixel depends


def _cubic(x: HostArray) -> HostArray:
    """Keys' cubic kernel with a = -0.5."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@functools.cache
def _kernel(scale: int) -> HostArray:
    taps = 4 * scale - scale % 2  # At odd scales the outermost taps are at zeros of the kernel.
    weights = _cubic((np.arange(taps) - (taps - 1) / 2) / scale)
    return (weights / weights.sum()).astype(np.float32)


def _reflected(length: int, pad: int) -> HostArray:
    """Return indices -pad .. length + pad - 1, reflected at the edges with the edge pixel repeated."""
    index = np.arange(-pad, length + pad) % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)


def downscale(image: Array, scale: int) -> Array:
    """Scale (B, C, sH, sW) down to (B, C, H, W); not clamped."""
    if scale == 1:
        return image
    kernel = _kernel(scale)
    pad = (len(kernel) - scale) // 2
    for axis in (2, 3):
        image = correlate(take(image, _reflected(image.shape[axis], pad), axis), kernel, axis, stride=scale)
    return image


def halo_of(pixels: int, scale: int) -> int:
    """Convert pixels of the output to whole pixels of ``lq``, rounded up."""
    return math.ceil(pixels / scale)
