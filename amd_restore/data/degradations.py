"""Degradations as modules on batches, for any device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from amd_restore.data.base import Degradation, to_8bit
from amd_restore.data.second_order import SecondOrderDegradation
from amd_restore.data.second_order.operations import downscale
from amd_restore.options.blocks import DegradationOptions
from amd_restore.options.fields import build, check

__all__ = ["BicubicDegradation", "Degradation", "SecondOrderDegradation", "build_degradation", "to_8bit"]


class BicubicDegradation(Degradation):
    """Antialiased bicubic downscaling (a = -0.5, as MATLAB's ``imresize``), then 8 bits.

    Agrees with BasicSR's ``imresize`` except at the border, where torch renormalises the kernel and MATLAB mirrors the
    image.

    Args:
        scale: integer factor, at least 1.
        quantize: round the result to 8 bits.
    """

    def __init__(self, scale: int, quantize: bool = True) -> None:
        super().__init__()
        self.scale, self.quantize = scale, quantize

    def forward(self, gt: Tensor) -> Tensor:
        """Degrade (B, 3, H, W) in [0, 1], sides multiples of ``scale``, to (B, 3, H / scale, W / scale)."""
        lq = downscale(gt, (gt.shape[2] // self.scale, gt.shape[3] // self.scale))
        return to_8bit(lq) if self.quantize else lq.clamp(0, 1)


def build_degradation(options: DegradationOptions | Mapping[str, Any], scale: int) -> Degradation:
    """Build the degradation of an option block, typed or as plain values of a yml file.

    Raises:
        AMDRestoreError: an unknown type or key, or a value out of range.
    """
    if not isinstance(options, DegradationOptions):
        typed = build(check(options, DegradationOptions, "degradation"), DegradationOptions, "degradation")
        assert isinstance(typed, DegradationOptions)
        options = typed
    if options.type == "second_order":
        return SecondOrderDegradation(scale, options)
    return BicubicDegradation(scale, options.quantize)
