"""How large the output becomes, and how it gets there.

A network enlarges by its own scale, once. Any other size is made from that output: smaller by Lanczos (a = 3) with
antialiasing, so that nothing flickers or aliases; larger by bicubic interpolation, which rings less and invents
nothing. Both work on the stored (gamma-encoded) values, as image editors do by default.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from PIL import Image

from amd_restore.errors import AMDRestoreError
from amd_restore.image_io.picture import Pixels

_HALF = Fraction(1, 2)


def output_size(
    height: int,
    width: int,
    scale: int,
    outscale: float | None = None,
    max_side: int | None = None,
    out_width: int | None = None,
) -> tuple[int, int]:
    """Size of the output, (height, width), both at least 1.

    Each side is the input's times ``outscale``, exactly, halves rounded up; 1.1 is taken as eleven tenths, not as
    the floating number nearest to it.

    Args:
        height: of the input.
        width: of the input.
        scale: of the network, taken where no other size is given.
        outscale: any positive factor.
        max_side: the longer side becomes this where it would be longer; the other follows.
        out_width: width of the output; the height follows. Not together with ``outscale``.

    Raises:
        AMDRestoreError: a value out of its range, or two that contradict each other.
    """
    if outscale is not None and out_width is not None:
        raise AMDRestoreError("--outscale and --width both say how large the output is; give one of them")
    if outscale is not None and not (math.isfinite(outscale) and outscale > 0):
        raise AMDRestoreError(f"--outscale must be a number above 0, not {outscale}")
    for name, value in (("--max-side", max_side), ("--width", out_width)):
        if value is not None and value < 1:
            raise AMDRestoreError(f"{name} must be at least 1 pixel, not {value}")
    factor = Fraction(out_width, width) if out_width is not None else Fraction(str(outscale or scale))
    if max_side is not None:
        factor = min(factor, Fraction(max_side, max(height, width)))
    return _rounded(height * factor), _rounded(width * factor)


def resize(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Image of another size: antialiased Lanczos where it shrinks, bicubic where it grows, along each axis.

    Alpha is resized with the colours multiplied by it, so that hidden colours do not bleed into visible edges.

    Args:
        image: (H, W) or (H, W, C), uint8, uint16 or floating in [0, 1]; 2 and 4 channels end in alpha.
        size: (height, width) of the result.

    Returns:
        Of the same dtype and number of dimensions; ``image`` itself where nothing changes.
    """
    if image.shape[:2] == tuple(size):
        return image
    planes = np.atleast_3d(image)
    channels = planes.shape[2]
    out = np.empty((*size, channels), image.dtype)
    colours = range(channels - 1 if channels in (2, 4) else channels)
    alpha = visible = None
    if len(colours) < channels:
        alpha = _scaled(planes[:, :, -1])
        visible = _resize_plane(alpha, size)
        _store(visible, out[:, :, -1])
    for i in colours:  # one after the other: a plane of a large photograph takes half a gigabyte
        plane = _scaled(planes[:, :, i])
        resized = _resize_plane(plane, size)
        if alpha is not None and visible is not None:
            product = _resize_plane(plane * alpha, size)
            # Where all is transparent, the product has no colour; the plain one is as good as any.
            resized = np.where(visible > 1e-3, product / np.maximum(visible, 1e-3), resized)
        _store(resized, out[:, :, i])
    return out.reshape(*size, *image.shape[2:])


def _scaled(plane: Pixels) -> Pixels:
    highest = 1.0 if plane.dtype.kind == "f" else float(np.iinfo(plane.dtype).max)
    return np.ascontiguousarray(plane, dtype=np.float32) / np.float32(highest)


def _store(values: Pixels, target: Pixels) -> None:
    values = values.clip(0, 1)
    target[:] = values if target.dtype.kind == "f" else values * np.iinfo(target.dtype).max + 0.5


def _resize_plane(plane: Pixels, size: tuple[int, int]) -> Pixels:
    """One axis after the other, so that each gets its own filter."""
    height, width = size
    image = Image.fromarray(plane)
    for target in ((width, image.height), (width, height)):
        if target != image.size:
            shrinks = target[0] < image.width or target[1] < image.height
            kind = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
            image = image.resize(target, kind)
    return np.asarray(image)


def _rounded(side: Fraction) -> int:
    return max(1, math.floor(side + _HALF))
