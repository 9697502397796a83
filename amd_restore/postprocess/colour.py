"""Colour fixes: colours of the input with the detail of the output.

Both methods follow StableSR (2305.07015, section 3.3 and its code's ``wavelet`` and ``adain``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from amd_restore.arrays import Array, cast, correlate, doubles, pad_edges
from amd_restore.diffusion.codec import upsample
from amd_restore.errors import AMDRestoreError
from amd_restore.postprocess.resample import UP_REACH, downscale, halo_of

COLOR_FIXES = ("none", "wavelet", "adain")
LEVELS = 5


def low_band(image: Array, levels: int = LEVELS) -> Array:
    """Return the low band of an undecimated ("à trous") wavelet transform after ``levels`` levels.

    Each level blurs by [1 2 1] / 4 along both axes, with taps twice as far apart as before. Edges are repeated, so
    constant images do not change.

    Args:
        image: (B, C, H, W).
        levels: the blur reaches ``2^levels - 1`` pixels.
    """
    kernel = np.array([0.25, 0.5, 0.25], np.float32)
    for level in range(levels):
        gap = 2**level
        image = correlate(pad_edges(image, gap, gap, 0, 0), kernel, 2, dilation=gap)
        image = correlate(pad_edges(image, 0, 0, gap, gap), kernel, 3, dilation=gap)
    return image


class WaveletFix:
    """Local colour fix: replace the low band of the output by that of the upscaled input.

    Args:
        scale: scale of the network.
        levels: see :func:`low_band`; detail finer than about ``2^levels`` pixels is that of the output.
    """

    def __init__(self, scale: int, levels: int = LEVELS) -> None:
        self.scale, self.levels = scale, levels

    @property
    def halo(self) -> int:
        """Return the halo: the reach of blur and upscaling."""
        return halo_of(2**self.levels - 1, self.scale) + UP_REACH

    def __call__(self, sr: Array, lq: Array, top: int = 0, left: int = 0) -> Array:
        """See :class:`~amd_restore.inference.post.PostProcess`; not clamped."""
        return sr + low_band(upsample(lq, self.scale) - sr, self.levels)


@dataclass
class ChannelStatistics:
    """Running mean and standard deviation of every channel of an image in pieces; sums in float64.

    The pieces must not overlap: tiles are added without their halo.
    """

    count: int = 0
    total: Any = 0.0  # (B, C) once there is a piece
    squares: Any = 0.0

    def add(self, piece: Array) -> ChannelStatistics:
        """Take in (B, C, h, w); returns itself."""
        values = doubles(piece)
        self.count += piece.shape[2] * piece.shape[3]
        self.total = self.total + values.sum((2, 3))
        self.squares = self.squares + (values**2).sum((2, 3))
        return self

    @property
    def mean(self) -> Array:
        """Return the mean (B, C)."""
        mean: Array = self.total / self.count
        return mean

    @property
    def std(self) -> Array:
        """Return the standard deviation (B, C)."""
        std: Array = (self.squares / self.count - self.mean**2).clip(0) ** 0.5
        return std


class AdainFix:
    """Global colour fix: match mean and standard deviation of every channel to those of the input.

    Statistics are those of the downscaled output, because a comparison with the upscaled (blurred) input would reduce
    contrast. They are gathered from the whole image first, by :meth:`gather` for every tile (without halo) or by
    :meth:`of` at once.

    Args:
        scale: scale of the network.
    """

    halo = 0

    def __init__(self, scale: int) -> None:
        self.scale = scale
        self.output, self.input = ChannelStatistics(), ChannelStatistics()

    @classmethod
    def of(cls, sr: Array, lq: Array, scale: int) -> AdainFix:
        """Gather the statistics of the whole image ``sr`` (B, 3, scale H, scale W) of ``lq`` (B, 3, H, W)."""
        fix = cls(scale)
        fix.gather(sr, lq)
        return fix

    def gather(self, sr: Array, lq: Array) -> None:
        """Add a window and its part of the input to the statistics; windows must not overlap."""
        self.output.add(downscale(sr, self.scale))
        self.input.add(lq)

    def __call__(self, sr: Array, lq: Array, top: int = 0, left: int = 0) -> Array:
        """See :class:`~amd_restore.inference.post.PostProcess`; not clamped.

        Raises:
            AMDRestoreError: nothing was gathered.
        """
        if self.output.count == 0:
            raise AMDRestoreError("adain: needs the statistics of the whole picture first; call gather or of")
        # The bounds limit the gain for plain areas, whose standard deviation is about 0.
        gain = ((self.input.std + 1e-4) / (self.output.std + 1e-4)).clip(0.25, 4.0)
        offset = self.input.mean - gain * self.output.mean
        return sr * cast(gain, sr)[:, :, None, None] + cast(offset, sr)[:, :, None, None]
