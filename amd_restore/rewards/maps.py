"""Maps of rewards, resized from a metric's resolution to a common grid."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

KERNEL_RADIUS = 3.0  # in standard deviations


def match_rows(reference: Tensor, count: int) -> Tensor:
    """Repeat rows (N, ...) to ``count``: each for ``count / N`` consecutive images.

    Raises:
        ValueError: N does not divide ``count``.
    """
    if len(reference) == count:
        return reference
    if count % len(reference):
        raise ValueError(f"{count} images do not divide into groups for {len(reference)} references")
    return reference.repeat_interleave(count // len(reference), dim=0)


def resize_map(field: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (B, 1, H, W) to ``size`` (rows, columns) so that every location keeps its weight in the mean.

    Shrinking averages areas, which keeps the mean exactly for whole ratios; enlarging interpolates linearly.
    """
    if field.shape[-2:] == size:
        return field
    if field.shape[-2] >= size[0] and field.shape[-1] >= size[1]:
        return F.interpolate(field, size=size, mode="area")
    return F.interpolate(field, size=size, mode="bilinear", antialias=True)


def sum_layers(layers: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Add the maps of a network's layers, each (B, 1, h, w), at the size of the first and finest.

    Returns:
        The sum of the layers' means, (B,), and the summed map. A factor
        corrects the shift of each layer's mean by interpolation, so that the map's mean is the sum of means.
    """
    first, *others = layers
    total, field = first.mean(dim=(2, 3), keepdim=True), first
    for layer in others:
        mean = layer.mean(dim=(2, 3), keepdim=True)
        total = total + mean
        layer = F.interpolate(layer, size=field.shape[-2:], mode="bilinear", align_corners=False)
        field = field + layer * (mean / layer.mean(dim=(2, 3), keepdim=True).clamp_min(1e-12))
    return total.flatten(), field


def smooth_map(field: Tensor, sigma: float) -> Tensor:
    """Blur maps (B, 1, h, w) with a normalised Gaussian of ``sigma`` cells; borders are repeated outwards.

    Constant maps are unchanged up to rounding; ``sigma`` 0 has no effect.

    Raises:
        ValueError: negative ``sigma``.
    """
    if sigma < 0:
        raise ValueError(f"the smoothing of a map must not be negative, got {sigma}")
    if sigma == 0:
        return field
    radius = math.ceil(KERNEL_RADIUS * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device=field.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(field, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
