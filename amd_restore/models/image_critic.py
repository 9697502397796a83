"""An adversarial loss on images: ``network_d`` learns to tell the student's from the ground truth (1609.04802).

Under heavy degradation losses to the ground truth average over what could have been there, and features of
classifiers are content with noise in its place. A discriminator asks whether a picture looks like one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amd_restore.archs.gan_head import frozen
from amd_restore.losses.gan import discriminator_loss
from amd_restore.models.restoration_model import build_network, channels_last


class ImageCritic:
    """``network_d`` and its two losses.

    Args:
        options: block ``network_d``.
        device: where it lives.
    """

    def __init__(self, options: Mapping[str, Any], device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):  # other random numbers stay as without it
            self.net: nn.Module = channels_last(build_network(dict(options))).to(device)

    def student_loss(self, image: Tensor) -> Tensor:
        """``softplus(-D(image))`` (B, 1, h, w) of restored images (B, 3, H, W); gradient to ``image`` only."""
        with frozen(self.net):
            return F.softplus(-self.net(image).float())

    def loss(self, image: Tensor, gt: Tensor) -> Tensor:
        """The critic's own, a mean; ``image`` gets no gradient."""
        return discriminator_loss(self.net(gt), self.net(image.detach()))
