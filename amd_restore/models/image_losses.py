"""Losses on images from an option file, with the discriminator if one of them needs it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from amd_restore.diffusion.codec import Codec
from amd_restore.losses.adversarial_loss import Adversarial
from amd_restore.losses.loss import build_losses
from amd_restore.models.discriminator import ImageDiscriminator, build_discriminator
from amd_restore.models.rollout import Denoising
from amd_restore.options import LossOptions


class ImageLosses:
    """Losses between a network's images and others, each times its weight.

    Args:
        options: entries of ``losses``.
        device: device of the losses' networks.
        network_d: options of the discriminator, for the loss Adversarial.

    Raises:
        AMDRestoreError: see :func:`~amd_restore.losses.loss.build_losses` and
            :func:`~amd_restore.models.discriminator.build_discriminator`.
    """

    def __init__(
        self, options: Sequence[LossOptions], device: torch.device, network_d: Mapping[str, Any] | None = None
    ) -> None:
        blocks = [{"type": block.type, "weight": block.weight, **block.arguments} for block in options]
        losses = build_losses(blocks, device)
        self.losses = [loss for loss in losses if not isinstance(loss, Adversarial)]
        self.adversarial = next((loss for loss in losses if isinstance(loss, Adversarial)), None)
        self.discriminator: ImageDiscriminator | None = None
        if self.adversarial is not None:
            assert network_d is not None
            self.discriminator = build_discriminator(network_d, device, self.losses)
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

    def of_late(
        self, batch: Denoising, x0: Tensor, codec: Codec, below: float, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the losses of a denoiser's late estimates, by name in the log: means over the batch.

        Early estimates are averages of many images. Such losses turn them into one of the images: better samples in few
        steps, but one step is no longer the mean.

        Args:
            batch: samples with their images; rows without condition have no loss.
            x0: estimates (B, C, h, w), with gradient.
            codec: decoder of the estimates.
            below: largest time of a late estimate.
            generator: source of random views.
        """
        assert batch.gt is not None and batch.lq is not None
        late = batch.t <= below
        if batch.keep is not None:
            late = late & batch.keep
        if not self.names or not late.any():  # The log needs the same names in every iteration.
            return {f"l_{name}": x0.new_zeros(()) for name in self.names}
        lq = batch.lq[late]
        found = self.of(codec.decode(x0[late], lq), batch.gt[late], lq, generator)
        return {name: loss * late.float().mean() for name, loss in found.items()}
