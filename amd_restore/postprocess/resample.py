"""Antialiased bicubic scaling by whole numbers, as MATLAB's ``imresize`` (a = -0.5, reflected edges).

Each pixel depends on a bounded neighbourhood, so tiles with a halo agree with the whole image.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

DOWN_REACH = 2  # neighbouring pixels of lq to each side on which a pixel of lq depends
UP_REACH = 2  # neighbouring pixels of lq on which an upscaled pixel depends


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5."""
    x = x.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


@functools.cache
def _kernel(scale: int) -> Tensor:
    taps = 4 * scale - scale % 2  # At odd scales the outermost taps are at zeros of the kernel.
    weights = _cubic((torch.arange(taps, dtype=torch.float64, device="cpu") - (taps - 1) / 2) / scale)
    return (weights / weights.sum()).float()


def _reflected(length: int, pad: int, device: torch.device) -> Tensor:
    """Return indices -pad .. length + pad - 1, reflected at the edges with the edge pixel repeated."""
    index = torch.arange(-pad, length + pad, device=device) % (2 * length)
    return torch.minimum(index, 2 * length - 1 - index)


def downscale(image: Tensor, scale: int) -> Tensor:
    """Scale (B, C, sH, sW) down to (B, C, H, W); not clamped."""
    if scale == 1:
        return image
    kernel = _kernel(scale).to(image)
    pad = (kernel.numel() - scale) // 2
    planes = image.flatten(0, 1)[:, None]
    planes = planes[:, :, _reflected(image.shape[2], pad, image.device)]
    planes = F.conv2d(planes, kernel[None, None, :, None], stride=(scale, 1))
    planes = planes[:, :, :, _reflected(image.shape[3], pad, image.device)]
    planes = F.conv2d(planes, kernel[None, None, None, :], stride=(1, scale))
    return planes[:, 0].unflatten(0, image.shape[:2])


def upscale(image: Tensor, scale: int) -> Tensor:
    """Scale (B, C, H, W) up to (B, C, sH, sW), as :meth:`~amd_restore.diffusion.ResidualCodec.upsample` does."""
    if scale == 1:
        return image
    return F.interpolate(image, scale_factor=float(scale), mode="bicubic", antialias=True)


def halo_of(pixels: int, scale: int) -> int:
    """Convert pixels of the output to whole pixels of ``lq``, rounded up."""
    return math.ceil(pixels / scale)
