"""Adversarial losses: the non-saturating logistic loss (1406.2661), alone and relative to the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from amd_restore.losses.loss import BaseLoss
from amd_restore.registry import LOSS_REGISTRY


class Discriminator(Protocol):
    """Discriminator of images as the student's losses use it."""

    def receive(self, image: Tensor, gt: Tensor) -> None:
        """Receive restored images (B, 3, H, W) and their ground truth."""

    def student_loss(self) -> Tensor:
        """Return the loss of the last received images, a scalar with gradient to them only."""


@LOSS_REGISTRY.register()
class Adversarial(BaseLoss):
    """Adversarial loss of ``network_d``; computed after all other losses.

    Attributes:
        discriminator: the network, set by the model.
    """

    name = "adversarial"
    discriminator: Discriminator

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)

    def measure(self, image: Tensor, gt: Tensor, lq: Tensor) -> Tensor:
        self.discriminator.receive(image, gt)
        return self.discriminator.student_loss()


def generator_loss(logits_fake: Tensor) -> Tensor:
    """Return mean ``softplus(-D(x))``.

    Args:
        logits_fake: discriminator's output for the student's images, any shape, with gradient.
    """
    return F.softplus(-logits_fake.float()).mean()


def discriminator_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Return mean ``softplus(-D(real)) + softplus(D(fake))``; 2 log 2 = 1.386 if it cannot separate them.

    Args:
        logits_real: discriminator's output for photographs, with gradient.
        logits_fake: its output for the student's images, with gradient to the discriminator only.
    """
    return F.softplus(-logits_real.float()).mean() + F.softplus(logits_fake.float()).mean()


def relative_generator_loss(logits_real: Sequence[Tensor], logits_fake: Sequence[Tensor]) -> Tensor:
    """Return mean ``softplus(D(real) - D(fake))`` over each layer's places, then layers (1807.00734; 2501.05441).

    Each sample is compared with its own ground truth, so their common content does not matter.

    Args:
        logits_real: discriminator's outputs for photographs, one tensor per layer.
        logits_fake: its outputs for the student's restorations of them, with gradient.
    """
    terms = [F.softplus(r.float() - f.float()).mean() for r, f in zip(logits_real, logits_fake, strict=True)]
    return torch.stack(terms).mean()


def relative_discriminator_loss(logits_real: Sequence[Tensor], logits_fake: Sequence[Tensor]) -> Tensor:
    """Return mean ``softplus(D(fake) - D(real))``; log 2 = .693 if it cannot separate them.

    Args:
        logits_real: discriminator's outputs for photographs, one tensor per layer, with gradient.
        logits_fake: its outputs for the student's restorations of them, with gradient to the discriminator only.
    """
    return relative_generator_loss(logits_fake, logits_real)
