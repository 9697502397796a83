"""Discriminator of images: ``network_d`` separates the student's images from the ground truth (1609.04802).

Under heavy degradation losses to the ground truth average over the possible images, and classifiers' features hardly
separate noise from texture. A discriminator learns the difference.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from amd_restore.archs.feature_arch import FeatureDiscriminator
from amd_restore.errors import AMDRestoreError
from amd_restore.losses.adversarial_loss import (
    discriminator_loss,
    generator_loss,
    relative_discriminator_loss,
    relative_generator_loss,
)
from amd_restore.losses.loss import BaseLoss
from amd_restore.losses.metric_loss import EfficientNet
from amd_restore.models.restoration_model import build_network, channels_last
from amd_restore.registry import ARCH_REGISTRY


@contextlib.contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Context in which the parameters of ``net`` get no gradient."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class ImageDiscriminator:
    """``network_d`` and its two losses on received pairs: first the student's loss, then its own.

    With a batch in parts, the student's losses of all parts come before the discriminator's, in the same order.

    Args:
        options: block ``network_d``.
        device: device of the network.
    """

    def __init__(self, options: Mapping[str, Any], device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):  # Other random numbers must not depend on the discriminator.
            self.net: nn.Module = channels_last(build_network(dict(options))).to(device)
        self._received: list[tuple[Any, Any]] = []  # restored and true images, kept for the discriminator's loss

    def receive(self, image: Tensor, gt: Tensor) -> None:
        """Receive restored images (B, 3, H, W) and their ground truth."""
        self._received.append((image, gt))

    def watch(self, loss: BaseLoss) -> contextlib.AbstractContextManager[object]:
        """Context in which ``loss`` compares images; no effect here, see :class:`DiscriminatorOfFeatures`."""
        return contextlib.nullcontext()

    def student_loss(self) -> Tensor:
        """Return mean ``softplus(-D(image))`` of the last received images, with gradient to them only."""
        image, gt = self._received.pop()
        self._received.append((image.detach(), gt))
        with frozen(self.net):
            return generator_loss(self.net(image))

    def loss(self) -> Tensor:
        """Return the discriminator's mean loss on the first received pair; the images get no gradient."""
        image, gt = self._received.pop(0)
        return discriminator_loss(self.net(gt), self.net(image))


class DiscriminatorOfFeatures(ImageDiscriminator):
    """A :class:`FeatureDiscriminator` on the features of another loss, which are computed only once.

    Each restored image is compared with its ground truth, in the random view of that loss.

    Args:
        options: block ``network_d``.
        device: device of the network.
        losses: losses of the student.

    Raises:
        AMDRestoreError: no loss has the name ``network_d.loss``, or that loss has no features.
    """

    def __init__(self, options: Mapping[str, Any], device: torch.device, losses: Sequence[BaseLoss]) -> None:
        name = dict(options).get("loss", "effnet_lite1")
        found = [loss for loss in losses if loss.name == name]
        if not found:
            names = ", ".join(loss.name for loss in losses) or "none"
            raise AMDRestoreError(f"network_d.loss: no loss '{name}'; there are: {names}")
        if not isinstance(found[0], EfficientNet):
            raise AMDRestoreError(f"network_d.loss: '{name}' has no features; effnet and effnet_lite1 do")
        self._loss, self._distance = found[0], found[0].distance
        super().__init__({**options, "channels": list(self._distance.channels)}, device)

    def receive(self, image: Tensor, gt: Tensor) -> None:
        """Do nothing: the features come from the loss, see :meth:`watch`."""

    def watch(self, loss: BaseLoss) -> contextlib.AbstractContextManager[object]:
        """Context in which ``loss`` compares images; keeps the features of the loss ``network_d.loss``."""
        return self._watching() if loss is self._loss else contextlib.nullcontext()

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        self._distance.tap = lambda ours, theirs: self._received.append((ours, theirs))
        try:
            yield
        finally:
            self._distance.tap = None

    def student_loss(self) -> Tensor:
        """Return mean ``softplus(D(gt) - D(image))`` over places, then layers; gradient to the images only."""
        ours, theirs = self._received.pop()
        with frozen(self.net):
            fake = self.net(ours)
            with torch.no_grad():
                real = self.net(theirs)
        self._received.append(([layer.detach() for layer in ours], theirs))
        return relative_generator_loss(real, fake)

    def loss(self) -> Tensor:
        """Return mean ``softplus(D(image) - D(gt))`` on the features kept from the student's loss."""
        ours, theirs = self._received.pop(0)
        return relative_discriminator_loss(self.net(theirs), self.net(ours))


def build_discriminator(
    options: Mapping[str, Any], device: torch.device, losses: Sequence[BaseLoss]
) -> ImageDiscriminator:
    """Build the discriminator of block ``network_d`` for a student with these losses.

    Raises:
        AMDRestoreError: see :class:`DiscriminatorOfFeatures`.
    """
    if ARCH_REGISTRY.get(options["type"]) is FeatureDiscriminator:
        return DiscriminatorOfFeatures(options, device, losses)
    return ImageDiscriminator(options, device)
