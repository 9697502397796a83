"""Full-reference rewards: they see the ground truth or the input, so they notice when detail is invented."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from amd_restore.registry import REWARD_REGISTRY
from amd_restore.rewards.lpips_net import build_lpips
from amd_restore.rewards.reward import BaseReward

MSE_FLOOR = 1e-10  # equal images score 100 dB instead of infinity


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """PSNR in dB over RGB of images (B, 3, H, W) in [0, 1], (B,), at most 100."""
    return -10.0 * (a - b).square().mean(dim=(1, 2, 3)).clamp_min(MSE_FLOOR).log10()


@REWARD_REGISTRY.register()
class LPIPSReward(BaseReward):
    """Minus LPIPS between output and ground truth.

    Args:
        net: backbone, ``squeeze``, ``alex`` or ``vgg``. The name carries it (``lpips_squeeze``), because a
            benchmark must know which one is no longer held out.
        weight: factor in the sum.
        device: where the network runs.

    Raises:
        AMDRestoreError: without the lpips package or the backbone's weights.
    """

    def __init__(self, net: str = "squeeze", weight: float = 1.0, device: torch.device | str = "cpu") -> None:
        super().__init__(weight, device)
        self.name = f"lpips_{net}"
        self.distance = build_lpips(net, device)

    def score(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        return -self.distance(sr, self._require(gt, "gt"))


@REWARD_REGISTRY.register()
class PSNRReward(BaseReward):
    """PSNR in dB over RGB, output against ground truth."""

    name = "psnr"

    def score(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        return psnr(sr, self._require(gt, "gt"))


@REWARD_REGISTRY.register()
class ConsistencyReward(BaseReward):
    """PSNR in dB between the input and the output scaled down to it: does it still show what was given?

    The scaling is antialiased bicubic, so it judges degradations near bicubic; for others it is an
    approximation.
    """

    name = "consistency"

    def score(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        given = self._require(lq, "lq")
        small = F.interpolate(sr, size=given.shape[-2:], mode="bicubic", antialias=True)
        return psnr(small.clamp(0.0, 1.0), given)
