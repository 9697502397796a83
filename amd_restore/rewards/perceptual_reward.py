"""Full-reference rewards on network features: DISTS and EfficientNet."""

from __future__ import annotations

import torch
from torch import Tensor

from amd_restore.registry import REWARD_REGISTRY
from amd_restore.rewards import dists_net, efficientnet
from amd_restore.rewards.reward import BaseReward


@REWARD_REGISTRY.register()
class DISTSReward(BaseReward):
    """DISTS between output and ground truth, which treats similar textures as equal.

    It has no map, because its statistics are those of whole feature maps.

    Args:
        weights: file with the learned weights; None for the asset folder or pyiqa's cache.
        weight: factor in the sum.
        device: device of the network.

    Raises:
        AMDRestoreError: without the learned weights or those of VGG16.
    """

    name = "dists"
    higher_is_better = False
    range = (0.0, 1.0)
    differentiable = True
    min_size = dists_net.MIN_SIZE

    def __init__(self, weights: str | None = None, weight: float = 1.0, device: torch.device | str = "cpu") -> None:
        super().__init__(weight, device)
        self.distance = dists_net.build_dists(weights, device)

    def measure(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        return self.distance(sr, self._require(gt, "gt"))


@REWARD_REGISTRY.register()
class EfficientNetReward(BaseReward):
    """Distance of EfficientNet-Lite features between output and ground truth, with a map.

    Args:
        variant: ``lite0``, which is also a metric of the benchmark, or ``lite1``.
        weight: factor in the sum.
        device: device of the network.

    Raises:
        AMDRestoreError: an unknown variant, or missing packages of the network and its weights.
    """

    name = "effnet"
    higher_is_better = False
    range = (0.0, 20.0)  # five layers of squared distances between unit vectors
    has_map = True
    differentiable = True
    shares_reference = True
    min_size = efficientnet.MIN_SIZE

    def __init__(self, variant: str = "lite0", weight: float = 1.0, device: torch.device | str = "cpu") -> None:
        super().__init__(weight, device)
        self.distance = efficientnet.build_efficientnet(device, variant)
        self.name = "effnet" if variant == "lite0" else f"effnet_{variant}"

    def measure(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        return self.distance(sr, self._require(gt, "gt"))

    def measure_map(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.distance.forward_map(sr, self._require(gt, "gt"))
