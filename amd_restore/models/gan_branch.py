"""The adversarial branch of DMD2: a head on the fake teacher, trained with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amd_restore.archs.gan_head import FeatureTap, GANHead, frozen
from amd_restore.diffusion import Denoiser
from amd_restore.losses.gan import discriminator_loss, generator_loss


class GANBranch:
    """Critic of noised images, given their condition.

    Args:
        net_fake: the fake teacher, whose features it reads.
        device: where the head lives.
    """

    def __init__(self, net_fake: Any, device: torch.device) -> None:
        self.net = net_fake
        self.head = GANHead(net_fake.feature_channels).to(device)

    def tap(self) -> FeatureTap:
        """Context in which calls of the fake teacher leave their features."""
        return FeatureTap(self.net)

    def student_loss(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """How far the student's noised samples are from passing for photographs; gradient to ``x_t`` only."""
        with frozen(self.net, self.head), self.tap() as tap:
            denoiser(x_t, t, cond)
            return generator_loss(self.head(tap.features))

    def critic_loss(self, denoiser: Denoiser, features_fake: Tensor, real_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Loss of head and fake teacher, from the features of samples and noised photographs."""
        with self.tap() as tap:
            denoiser(real_t, t, cond)
            return discriminator_loss(self.head(tap.features), self.head(features_fake))
