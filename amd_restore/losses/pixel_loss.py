"""Losses of pixels and of their means."""

from __future__ import annotations

import torch
from torch import Tensor

from amd_restore.losses.loss import BaseLoss
from amd_restore.losses.perceptual import cell_profile_distance, chroma_detail, diagonal_detail, pooled_l1
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
    """L1 of means over 4, 8 and 16 pixels: colours without detail."""

    name = "pooled_l1"

    def measure(self, image: Tensor, gt: Tensor, lq: Tensor) -> Tensor:
        return pooled_l1(image, gt)


@LOSS_REGISTRY.register()
class DiagonalDetail(BaseLoss):
    """L1 of the finest diagonal detail, against a checkerboard of single pixels.

    Losses on features of networks with strides hardly distinguish a checkerboard from texture, so that minimising them
    draws one. Wavelet bands as losses: 2404.11273.
    """

    name = "diagonal_detail"

    def measure(self, image: Tensor, gt: Tensor, lq: Tensor) -> Tensor:
        return diagonal_detail(image - gt).abs().mean()


@LOSS_REGISTRY.register()
class ChromaDetail(BaseLoss):
    """L1 of fine detail of the colours, against coloured dots.

    Losses on features of networks that were trained on photographs hardly distinguish grain in colour from grain in
    gray, so that minimising them draws both, while fine detail of photographs is nearly gray.
    """

    name = "chroma_detail"

    def measure(self, image: Tensor, gt: Tensor, lq: Tensor) -> Tensor:
        return torch.stack([detail.abs().mean() for detail in chroma_detail(image - gt)]).mean()


@LOSS_REGISTRY.register()
class CellProfile(BaseLoss):
    """Penalty on texture that varies over the positions in a latent cell, which appears as a woven pattern.

    Args:
        patch: side of a cell in pixels, equal to ``codec.patch``.
    """

    name = "cell_profile"

    def __init__(self, weight: float = 1.0, patch: int = 4, device: torch.device | str = "cpu") -> None:
        super().__init__(weight, device=device)
        self.patch = patch

    def measure(self, image: Tensor, gt: Tensor, lq: Tensor) -> Tensor:
        return cell_profile_distance(image, gt, self.patch)
