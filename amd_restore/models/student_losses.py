"""Losses on images, a student's or a teacher's, from an option file, with the discriminator if one of them needs it."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from amd_restore.losses.adversarial_loss import Adversarial
from amd_restore.losses.loss import build_losses
from amd_restore.models.discriminator import ImageDiscriminator, build_discriminator
from amd_restore.options import RunOptions


class StudentLosses:
    """Losses to the ground truth, each times its weight.

    Args:
        run: options with ``losses`` and ``network_d``.
        device: device of the losses' networks.

    Raises:
        AMDRestoreError: see :func:`~amd_restore.losses.loss.build_losses` and
            :func:`~amd_restore.models.discriminator.build_discriminator`.
    """

    def __init__(self, run: RunOptions, device: torch.device) -> None:
        blocks = [{"type": block.type, "weight": block.weight, **block.arguments} for block in run.losses]
        losses = build_losses(blocks, device)
        self.losses = [loss for loss in losses if not isinstance(loss, Adversarial)]
        self.adversarial = next((loss for loss in losses if isinstance(loss, Adversarial)), None)
        self.discriminator: ImageDiscriminator | None = None
        if self.adversarial is not None:
            assert run.network_d is not None
            self.discriminator = build_discriminator(run.network_d, device, self.losses)
            self.adversarial.discriminator = self.discriminator

    @property
    def names(self) -> list[str]:
        """Return the minimised metrics: all losses except the adversarial one."""
        return [loss.name for loss in self.losses]

    def of(self, image: Tensor, gt: Tensor, lq: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return all losses except the adversarial one, by name in the log.

        Args:
            image: restored images (B, 3, H, W), with gradient.
            gt: ground truth, same shape.
            lq: low-quality images.
            generator: source of random views.
        """
        values = {}
        for loss in self.losses:
            with self.discriminator.watch(loss) if self.discriminator else contextlib.nullcontext():
                values[f"l_{loss.name}"] = loss(image, gt, lq, generator)
        return values
