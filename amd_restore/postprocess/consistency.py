"""Consistency: the downscaled output equals the input."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from amd_restore.arrays import Array, clip_
from amd_restore.diffusion.codec import upsample
from amd_restore.errors import AMDRestoreError
from amd_restore.postprocess.resample import DOWN_REACH, UP_REACH, downscale

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_ITERATIONS = 4
SMOOTH_GAIN = 0.9  # The first round handles larger gains.
LOWEST_GAIN = 0.22  # gain of scaling up and down at the finest checkerboard of lq, for scales 2 to 4


def knows_downscaling(degradation: str) -> bool:
    """Return whether :class:`Consistency` applies to ``degradation`` of a weights header.

    Only to ``bicubic``: for others it would restore the noise and compression artefacts of the input.
    """
    return degradation.strip().lower() == "bicubic"


def relaxations(rounds: int) -> list[float]:
    """Return step sizes of Richardson iterations for a spectrum in [``LOWEST_GAIN``, 1], smallest first.

    The first is 1, which corrects smooth differences such as colour casts. The others are the reciprocals of Chebyshev
    nodes (Saad, Iterative Methods for Sparse Linear Systems, section 12.3.2), optimal for the slowest mode; small ones
    come first so that no intermediate result overshoots and is clamped.
    """
    middle, half = (SMOOTH_GAIN + LOWEST_GAIN) / 2, (SMOOTH_GAIN - LOWEST_GAIN) / 2
    rest = rounds - 1
    return [1.0] + [1 / (middle + half * math.cos(math.pi * (i + 0.5) / rest)) for i in range(rest)]


class Consistency:
    """Iterated back-projection (Irani and Peleg 1991): ``sr <- clamp(sr + w up(lq - down(sr)))``.

    Detail that vanishes on downscaling does not change. Clamping in every round keeps the result in [0, 1] *and*
    consistent. The step sizes ``w`` of :func:`relaxations` need fewer rounds than ``w = 1``, hence a smaller halo.

    Args:
        scale: scale of the network.
        iterations: number of rounds.

    Raises:
        AMDRestoreError: fewer than one round, or scale 1.
    """

    def __init__(self, scale: int, iterations: int = DEFAULT_ITERATIONS) -> None:
        if iterations < 1:
            raise AMDRestoreError(f"consistency: iterations must be at least 1, got {iterations}")
        if scale < 2:
            raise AMDRestoreError("consistency: needs a model that enlarges; at scale 1 it would return the input")
        self.scale, self.iterations = scale, iterations

    @property
    def halo(self) -> int:
        """Return the halo: every round reaches as far as one downscaling and one upscaling."""
        return self.iterations * (DOWN_REACH + UP_REACH)

    def __call__(self, sr: Array, lq: Array, top: int = 0, left: int = 0) -> Array:
        """See :class:`~amd_restore.inference.post.PostProcess`; the result is clamped to [0, 1]."""
        sr = sr.clip(0, 1)
        for step in relaxations(self.iterations):
            sr = clip_(sr + step * upsample(lq - downscale(sr, self.scale), self.scale), 0, 1)
        return sr


def lq_psnr(sr: Tensor, lq: Tensor, scale: int) -> Tensor:
    """Return the PSNR of downscaled (B, 3, scale h, scale w) to (B, 3, h, w): over RGB in dB, (B,), at most 100."""
    import torch

    mse = (downscale(sr, scale).clamp(0, 1) - lq).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(mse.clamp_min(1e-10))
