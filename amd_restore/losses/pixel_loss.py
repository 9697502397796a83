"""Losses of pixels, or of their means."""

from __future__ import annotations

from torch import Tensor

from amd_restore.losses.loss import BaseLoss
from amd_restore.losses.perceptual import pooled_l1
from amd_restore.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class L1(BaseLoss):
    """Mean absolute error, in units of the pixels."""

    name = "l1"

    def measure(self, image: Tensor, gt: Tensor, lq: Tensor) -> Tensor:
        return (image - gt).abs().mean()


@LOSS_REGISTRY.register()
class L2(BaseLoss):
    """Mean squared error, in units of the pixels."""

    name = "l2"

    def measure(self, image: Tensor, gt: Tensor, lq: Tensor) -> Tensor:
        return (image - gt).square().mean()


@LOSS_REGISTRY.register()
class PooledL1(BaseLoss):
    """L1 on means over 4, 8 and 16 pixels: colours without detail."""

    name = "pooled_l1"

    def measure(self, image: Tensor, gt: Tensor, lq: Tensor) -> Tensor:
        return pooled_l1(image, gt)
