"""Full-reference rewards, which compare with the ground truth or the input and so penalise invented detail."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from amd_restore.registry import REWARD_REGISTRY
from amd_restore.rewards.lpips_net import MIN_SIZE, build_lpips
from amd_restore.rewards.maps import smooth_map
from amd_restore.rewards.reward import BaseReward

MSE_FLOOR = 1e-10  # equal images score 100 dB instead of infinity
PSNR_RANGE = (0.0, 100.0)  # dB
LOCAL_MSE_FLOOR = (0.5 / 255) ** 2  # half a step of 8 bits, so that rounding does not rank flat places


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return PSNR in dB over RGB of images (B, 3, H, W) in [0, 1], (B,), at most 100."""
    return -10.0 * (a - b).square().mean(dim=(1, 2, 3)).clamp_min(MSE_FLOOR).log10()


@REWARD_REGISTRY.register()
class LPIPSReward(BaseReward):
    """LPIPS between output and ground truth; its map is the sum of the layers' distances.

    Args:
        net: backbone, ``squeeze``, ``alex`` or ``vgg``. It is part of the name (``lpips_squeeze``), so that
            benchmarks can mark it as not held out.
        weight: factor in the sum.
        device: device of the network.

    Raises:
        AMDRestoreError: missing lpips package or backbone weights.
    """

    higher_is_better = False
    range = (0.0, float("inf"))
    has_map = True
    differentiable = True
    shares_reference = True
    min_size = MIN_SIZE

    def __init__(self, net: str = "squeeze", weight: float = 1.0, device: torch.device | str = "cpu") -> None:
        super().__init__(weight, device)
        self.name = f"lpips_{net}"
        self.distance = build_lpips(net, device)

    def measure(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        return self.distance(sr, self._require(gt, "gt"))

    def measure_map(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.distance.forward_map(sr, self._require(gt, "gt"))


@REWARD_REGISTRY.register()
class PSNRReward(BaseReward):
    """PSNR in dB over RGB, output against ground truth. It has no map, because it is not a mean of local PSNRs."""

    name = "psnr"
    range = PSNR_RANGE
    differentiable = True

    def measure(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        return psnr(sr, self._require(gt, "gt"))


@REWARD_REGISTRY.register()
class L1Reward(BaseReward):
    """Mean absolute error over RGB, output against ground truth; its map is the error of each pixel."""

    name = "l1"
    higher_is_better = False
    range = (0.0, 1.0)
    has_map = True
    differentiable = True

    def measure(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        return self.measure_map(sr, gt, lq)[0]

    def measure_map(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> tuple[Tensor, Tensor]:
        error = (sr - self._require(gt, "gt")).abs().mean(dim=1, keepdim=True)
        return error.mean(dim=(1, 2, 3)), error


@REWARD_REGISTRY.register()
class ConsistencyReward(BaseReward):
    """PSNR in dB between the input and the output scaled down to its size.

    The scaling is antialiased bicubic, an approximation for other degradations. The map is the PSNR of the squared
    error under a Gaussian window around each pixel of the input, at most 54 dB, where differences are smaller than
    rounding. The map's mean is above the value, because it is a mean of logarithms.

    Args:
        window: standard deviation of that Gaussian, in pixels of the input.
        weight: factor in the sum.
        device: unused.
    """

    name = "consistency"
    compares_with_lq = True
    range = PSNR_RANGE
    has_map = True
    exact_map = False
    differentiable = True

    def __init__(self, window: float = 1.5, weight: float = 1.0, device: torch.device | str = "cpu") -> None:
        super().__init__(weight, device)
        self.window = window

    def measure(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        return psnr(*self._small(sr, lq))

    def measure_map(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> tuple[Tensor, Tensor]:
        small, given = self._small(sr, lq)
        error = smooth_map((small - given).square().mean(dim=1, keepdim=True), self.window)
        return psnr(small, given), -10.0 * error.clamp_min(LOCAL_MSE_FLOOR).log10()

    def _small(self, sr: Tensor, lq: Tensor | None) -> tuple[Tensor, Tensor]:
        given = self._require(lq, "lq")
        small = F.interpolate(sr, size=given.shape[-2:], mode="bicubic", antialias=True)
        return small.clamp(0.0, 1.0), given
