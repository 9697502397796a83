"""Losses of pixels, or of their means."""

from __future__ import annotations

import torch
from torch import Tensor

from amd_restore.losses.loss import BaseLoss
from amd_restore.losses.perceptual import cell_profile_distance, pooled_l1
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


@LOSS_REGISTRY.register()
class CellProfile(BaseLoss):
    """How unevenly the texture is spread over the places of a cell of the latent grid: against woven patterns.

    Args:
        patch: side of a cell in pixels, that of the codec.
    """

    name = "cell_profile"

    def __init__(self, weight: float = 1.0, patch: int = 4, device: torch.device | str = "cpu") -> None:
        super().__init__(weight, device=device)
        self.patch = patch

    def measure(self, image: Tensor, gt: Tensor, lq: Tensor) -> Tensor:
        return cell_profile_distance(image, gt, self.patch)
