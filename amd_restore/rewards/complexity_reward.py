"""A reward that differs by place: faithful in flat areas, detailed in textured ones (after GDPO-SR, 2603.16769).

GDPO-SR weighs the fidelity and the quality of a whole image by the shares of smooth and of detailed area in the ground
truth, found from gradients. The form here, with a share for each location, is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amd_restore.errors import AMDRestoreError
from amd_restore.registry import REWARD_REGISTRY
from amd_restore.rewards.efficientnet import VARIANTS
from amd_restore.rewards.fidelity_reward import LPIPSReward
from amd_restore.rewards.maps import match_rows, resize_map, smooth_map
from amd_restore.rewards.perceptual_reward import EfficientNetReward
from amd_restore.rewards.reward import BaseReward

# With these values of k, samples of a student and its teacher differ about as much in the one part as in the other, and
# the distance of EfficientNet's features is about ten times LPIPS.
LPIPS_PER_ERROR = 20.0
EFFNET_PER_ERROR = 200.0


def complexity(gt: Tensor, window: float, full: float) -> Tensor:
    """Return the complexity map c (B, 1, H, W) of images (B, 3, H, W) in [0, 1]: 0 where flat, 1 where textured.

    ``c = min(1, s / full)``, with s the standard deviation of the mean of the channels under a Gaussian around the
    pixel. Edges count as texture, faint grain hardly.

    Args:
        gt: images.
        window: standard deviation of the Gaussian in pixels.
        full: standard deviation s from which c is 1, in units of the image's range.
    """
    gray = gt.mean(dim=1, keepdim=True)
    gray = gray - gray.mean(dim=(2, 3), keepdim=True)  # The difference of squares below would round large values off.
    variance = smooth_map(gray.square(), window) - smooth_map(gray, window).square()
    return (variance.clamp_min(0).sqrt() / full).clamp_max(1)


@REWARD_REGISTRY.register()
class ComplexityReward(BaseReward):
    """Absolute error in flat areas, perceptual distance in textured ones, of output and ground truth; with a map.

    ``R(u) = -[(1 - c(u)) k e(u) + c(u) d(u)]``, with c the :func:`complexity` of the ground truth, e the absolute error
    averaged over channels, d the map of the perceptual distance, and k ``fidelity_weight``. The value of an image
    is the mean of R over its locations.

    Args:
        net: network of the perceptual distance: ``squeeze``, ``alex`` or ``vgg`` for LPIPS, ``lite0`` or ``lite1`` for
            EfficientNet. The name is that of both parts (``l1+lpips_squeeze``).
        fidelity_weight: k, perceptual distance that counts as much as an absolute error of 1; None for a usual value of
            the distance.
        window: radius of the neighbourhood whose texture counts, as a standard deviation in pixels.
        full: local standard deviation from which only the perceptual distance counts, in units of the image's range.
        weight: factor in the sum.
        device: device of the network.

    Raises:
        AMDRestoreError: ``window``, ``full`` or ``fidelity_weight`` not above 0, or a missing requirement of the
            perceptual distance.
    """

    higher_is_better = False
    range = (0.0, float("inf"))
    has_map = True
    differentiable = True
    shares_reference = True

    def __init__(
        self,
        net: str = "squeeze",
        fidelity_weight: float | None = None,
        window: float = 2.0,
        full: float = 0.1,
        weight: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(weight, device)
        is_effnet = net in VARIANTS
        self.perceptual = EfficientNetReward(net, device=device) if is_effnet else LPIPSReward(net, device=device)
        if fidelity_weight is None:
            fidelity_weight = EFFNET_PER_ERROR if is_effnet else LPIPS_PER_ERROR
        for key, value in (("fidelity_weight", fidelity_weight), ("window", window), ("full", full)):
            if not value > 0:
                raise AMDRestoreError(f"ComplexityReward: {key} must be above 0, got {value}")
        self.fidelity_weight, self.window, self.full = fidelity_weight, window, full
        self.name = f"l1+{self.perceptual.name}"
        self.min_size = self.perceptual.min_size

    def measure(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        return self.measure_map(sr, gt, lq)[0]

    def measure_map(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> tuple[Tensor, Tensor]:
        gt = self._require(gt, "gt")
        share = match_rows(complexity(gt, self.window, self.full), len(sr))
        error = (sr - match_rows(gt, len(sr))).abs().mean(dim=1, keepdim=True)
        distance = self.perceptual.measure_map(sr, gt, lq)[1]
        faithful = resize_map((1 - share) * error, (distance.shape[-2], distance.shape[-1]))
        detailed = resize_map(share, (distance.shape[-2], distance.shape[-1])) * distance
        field = self.fidelity_weight * faithful + detailed
        return field.mean(dim=(1, 2, 3)), field
