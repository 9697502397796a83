"""Degradations as modules: a batch of clean images in, a batch of low-quality images out, on any device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from amd_restore.errors import AMDRestoreError


def to_8bit(image: Tensor) -> Tensor:
    """Round an image in [0, 1] to 8 bits, as a file on disk would."""
    return (image.clamp(0, 1) * 255.0).round() / 255.0


class BicubicDegradation(nn.Module):
    """The classical task: antialiased bicubic downscaling (a = -0.5, as MATLAB's ``imresize``), then 8 bits.

    Agrees with BasicSR's ``imresize`` away from the border; at the border torch renormalises the kernel where
    MATLAB mirrors the image.

    Args:
        scale: integer factor, at least 1.
        quantize: round the result to 8 bits.
    """

    def __init__(self, scale: int, quantize: bool = True) -> None:
        super().__init__()
        self.scale, self.quantize = scale, quantize

    def forward(self, gt: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], sides multiples of ``scale`` -> (B, 3, H / scale, W / scale)."""
        lq = gt
        if self.scale > 1:
            size = (gt.shape[2] // self.scale, gt.shape[3] // self.scale)
            lq = F.interpolate(gt, size=size, mode="bicubic", antialias=True)
        return to_8bit(lq) if self.quantize else lq.clamp(0, 1)


def build_degradation(options: Mapping[str, Any], scale: int) -> nn.Module:
    """Degradation from ``{"type": "bicubic", "quantize": true}``.

    Raises:
        AMDRestoreError: for an unknown type.
    """
    kind = options.get("type", "bicubic")
    if kind != "bicubic":
        raise AMDRestoreError(f"unknown degradation '{kind}'; use bicubic")
    return BicubicDegradation(scale, bool(options.get("quantize", True)))
