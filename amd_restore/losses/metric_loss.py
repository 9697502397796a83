"""Metrics as losses: network-based distances, and any differentiable reward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amd_restore.errors import AMDRestoreError
from amd_restore.losses.loss import BaseLoss
from amd_restore.registry import LOSS_REGISTRY
from amd_restore.rewards import BaseReward, DISTSReward, EfficientNetReward, LPIPSReward, build_rewards


class MetricLoss(BaseLoss):
    """Negated reward, with the name of that reward.

    Args:
        metric: the reward; rewards and losses share its network.
        weight: factor in the sum.
        random_views: compare random views, which prevents grid patterns with the network's stride.
    """

    def __init__(self, metric: BaseReward, weight: float, random_views: bool) -> None:
        super().__init__(weight, random_views, metric.device)
        self.metric, self.name = metric, metric.name

    def measure(self, image: Tensor, gt: Tensor, lq: Tensor) -> Tensor:
        return self.metric.loss(image, gt=gt, lq=lq).mean()


@LOSS_REGISTRY.register()
class LPIPS(MetricLoss):
    """LPIPS with the backbone ``squeeze``, ``alex`` or ``vgg``.

    Args:
        net: backbone.
        weight, random_views, device: see :class:`~amd_restore.losses.loss.BaseLoss`.

    Raises:
        AMDRestoreError: without the lpips package or the backbone's weights.
    """

    def __init__(
        self,
        net: str = "squeeze",
        weight: float = 1.0,
        random_views: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(LPIPSReward(net, device=device), weight, random_views)


@LOSS_REGISTRY.register()
class DISTS(MetricLoss):
    """DISTS, which treats similar textures as equal.

    Args:
        weights: file with the learned weights; None for the asset folder or pyiqa's cache.
        weight, random_views, device: see :class:`~amd_restore.losses.loss.BaseLoss`.

    Raises:
        AMDRestoreError: without the learned weights or those of VGG16.
    """

    def __init__(
        self,
        weights: str | None = None,
        weight: float = 1.0,
        random_views: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(DISTSReward(weights, device=device), weight, random_views)


@LOSS_REGISTRY.register()
class EfficientNet(MetricLoss):
    """Distance of EfficientNet-Lite features.

    Args:
        variant: ``lite0``, which is also a metric of the benchmark, or ``lite1``.
        weight, random_views, device: see :class:`~amd_restore.losses.loss.BaseLoss`.

    Raises:
        AMDRestoreError: an unknown variant, or missing packages of the network and its weights.
    """

    def __init__(
        self,
        variant: str = "lite1",
        weight: float = 1.0,
        random_views: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        reward = EfficientNetReward(variant, device=device)
        super().__init__(reward, weight, random_views)
        self.distance = reward.distance


@LOSS_REGISTRY.register()
class Reward(MetricLoss):
    """Any differentiable reward, as in ``{type: Reward, reward: {type: BRISQUEReward}, weight: 0.01}``.

    Args:
        reward: block as under ``rewards``, without its weight.
        weight, random_views, device: see :class:`~amd_restore.losses.loss.BaseLoss`.

    Raises:
        AMDRestoreError: the reward is unknown, has an unknown key or a weight, is not differentiable, or reads lq while
            ``random_views`` is true.
    """

    def __init__(
        self,
        reward: dict[str, Any],
        weight: float = 1.0,
        random_views: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        if "weight" in reward:
            raise AMDRestoreError("losses: Reward: give the weight beside reward, not inside it")
        metric = build_rewards([reward], device).rewards[0]
        metric.require_differentiable()
        if random_views and metric.compares_with_lq:
            raise AMDRestoreError(f"losses: Reward: {metric.name} compares with lq, which random_views do not move")
        super().__init__(metric, weight, random_views)
