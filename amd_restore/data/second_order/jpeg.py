"""JPEG compression and decompression in torch, without the lossless entropy coding between the two.

Written from ITU-T T.81 (tables of annex K) and JFIF, with libjpeg's choices: quality to tables, 4:2:0 chroma,
triangle-filtered ("fancy") upsampling, rounding after each stage. It runs on batches on any device, and differs from
OpenCV's files only by the rounding of libjpeg's fixed-point transform. It has no gradient, because it rounds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from amd_restore.data.base import TIE, round_half_up, to_levels

# T.81, tables K.1 (luminance) and K.2 (chrominance): quantisation steps at quality 50, row by row.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
# JFIF: RGB to YCbCr, without the offset of 128 of the chroma.
TO_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))


@functools.lru_cache(maxsize=200)
def tables(quality: int) -> Tensor:
    """Return quantisation steps of luminance and chrominance for a quality of 1 to 100: (2, 64)."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    base = torch.tensor((LUMINANCE, CHROMINANCE)).reshape(2, 64)
    return ((base * percent + 50) // 100).clamp(1, 255).float()


@functools.lru_cache(maxsize=8)
def _transform(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the two-dimensional DCT of an 8 x 8 block as one orthogonal matrix (64, 64)."""
    k, n = torch.arange(8.0, dtype=torch.float64)[:, None], torch.arange(8.0, dtype=torch.float64)
    basis = torch.cos((2 * n + 1) * k * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    return torch.kron(basis, basis).to(device, dtype)


def _mix(image: Tensor, matrix: Sequence[Sequence[float]]) -> Tensor:
    """Multiply the channels of (B, 3, H, W) by a 3 x 3 matrix."""
    return torch.einsum("oc,bchw->bohw", torch.tensor(matrix, device=image.device, dtype=image.dtype), image)


def _pad(image: Tensor, rows: int, columns: int) -> Tensor:
    """Repeat the last row and column until the sides are multiples of ``rows`` and ``columns``."""
    height, width = image.shape[2:]
    if height % rows == 0 and width % columns == 0:
        return image
    return F.pad(image, (0, -width % columns, 0, -height % rows), mode="replicate")


def _code(plane: Tensor, steps: Tensor) -> Tensor:
    """Quantise the DCT of planes (B, C, 8h, 8w) in [0, 255] by steps (B, 64); returns whole numbers."""
    b, c, height, width = plane.shape
    matrix = _transform(plane.device, plane.dtype)
    blocks = plane.view(b, c, height // 8, 8, width // 8, 8).permute(0, 1, 2, 4, 3, 5).reshape(b, -1, 64)
    coefficients = (blocks - 128.0) @ matrix.T
    # For each step, one of the multiples of 1/8 that the DC can be is a tie; libjpeg rounds it away from zero.
    levels = coefficients.sign() * ((coefficients.abs() + TIE) / steps[:, None] + 0.5).floor()
    blocks = round_half_up((levels * steps[:, None]) @ matrix + 128.0).clamp(0, 255)
    return blocks.view(b, c, height // 8, width // 8, 8, 8).permute(0, 1, 2, 4, 3, 5).reshape(plane.shape)


def _halve(chroma: Tensor) -> Tensor:
    """Average 2 x 2 pixels to whole numbers, rounded down and up in turn along a row."""
    chroma = F.avg_pool2d(chroma, 2)
    chroma[..., 0::2] += 0.25
    chroma[..., 1::2] += 0.5
    return chroma.floor_()


def _double(chroma: Tensor) -> Tensor:
    """Upsample by 2 with a triangle filter to whole numbers; halves are rounded up and down in turn along a row."""
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    chroma[..., 0::2] += 8 / 16
    chroma[..., 1::2] += 7 / 16
    return chroma.floor_()


def jpeg(image: Tensor, quality: int | Sequence[int]) -> Tensor:
    """Return images (B, 3, H, W) in [0, 1] as decoded from a baseline JPEG file, in 8-bit steps.

    Args:
        image: sides of any length; values outside [0, 1] are clamped.
        quality: 1 to 100, one for all images or for each.
    """
    height, width = image.shape[2:]
    qualities = [quality] * len(image) if isinstance(quality, int) else list(quality)
    steps = torch.stack([tables(q) for q in qualities]).to(image.device, image.dtype)
    ycc = _mix(to_levels(image), TO_YCC)
    luma = round_half_up(ycc[:, :1])
    # As in libjpeg, just below one half keeps chroma in 8 bits.
    chroma = (ycc[:, 1:] + (128.5 - TIE)).floor()
    luma = _code(_pad(luma, 8, 8), steps[:, 0])[..., :height, :width]
    half = _pad(_halve(_pad(chroma, 2, 16)), 8, 8)
    half = _code(half, steps[:, 1])[..., : (height + 1) // 2, : (width + 1) // 2]
    chroma = _double(half)[..., :height, :width] - 128.0
    rgb = _mix(torch.cat([luma, chroma], dim=1), TO_RGB)
    return round_half_up(rgb).clamp_(0, 255) / 255.0
