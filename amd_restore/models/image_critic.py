"""Adversarial losses on images: ``network_d`` learns to tell the student's from the ground truth (1609.04802).

Under heavy degradation losses to the ground truth average over what could have been there, and features of
classifiers are content with noise in its place. A discriminator asks whether a picture looks like one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from amd_restore.archs.feature_arch import FeatureDiscriminator
from amd_restore.errors import AMDRestoreError
from amd_restore.losses.gan import (
    discriminator_loss,
    generator_loss,
    relative_discriminator_loss,
    relative_generator_loss,
)
from amd_restore.models.restoration_model import build_network, channels_last
from amd_restore.registry import ARCH_REGISTRY
from amd_restore.rewards import BaseReward
from amd_restore.rewards.perceptual_reward import EfficientNetReward


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


class ImageCritic:
    """``network_d`` and its two losses, of the pairs that it has seen: first the student's, then the critic's own.

    Of a batch in parts, the student's turn comes for all parts before the critic's does, in the same order.

    Args:
        options: block ``network_d``.
        device: where it lives.
    """

    def __init__(self, options: Mapping[str, Any], device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):  # other random numbers stay as without it
            self.net: nn.Module = channels_last(build_network(dict(options))).to(device)
        self._seen: list[tuple[Any, Any]] = []  # restored and true, until the critic's turn

    def see(self, image: Tensor, gt: Tensor) -> None:
        """Take in restored images (B, 3, H, W) and their ground truth."""
        self._seen.append((image, gt))

    def watch(self, reward: BaseReward) -> contextlib.AbstractContextManager[object]:
        """Context in which ``reward`` is asked as a loss; nothing here, see :class:`FeatureCritic`."""
        return contextlib.nullcontext()

    def student_loss(self) -> Tensor:
        """Mean ``softplus(-D(image))`` of what was seen last; gradient to the restored images only."""
        image, gt = self._seen.pop()
        self._seen.append((image.detach(), gt))
        with frozen(self.net):
            return generator_loss(self.net(image))

    def loss(self) -> Tensor:
        """The critic's own, a mean, of what was seen first; the images get no gradient."""
        image, gt = self._seen.pop(0)
        return discriminator_loss(self.net(gt), self.net(image))


class FeatureCritic(ImageCritic):
    """A :class:`FeatureDiscriminator` on what a reward's network has just seen: nothing is computed twice.

    Each restored image is judged beside its ground truth, in the view that the reward was shown.

    Args:
        options: block ``network_d``.
        device: where it lives.
        rewards: those that are losses too.

    Raises:
        AMDRestoreError: when none of them is called as ``network_d.reward`` says, or that one has no features.
    """

    def __init__(self, options: Mapping[str, Any], device: torch.device, rewards: Sequence[BaseReward]) -> None:
        name = dict(options).get("reward", "effnet_lite1")
        found = [reward for reward in rewards if reward.name == name]
        if not found:
            losses = ", ".join(reward.name for reward in rewards) or "none"
            raise AMDRestoreError(f"network_d.reward: no reward '{name}' with a loss_weight; there are: {losses}")
        if not isinstance(found[0], EfficientNetReward):
            raise AMDRestoreError(f"network_d.reward: '{name}' shows no features; effnet and effnet_lite1 do")
        super().__init__({**options, "channels": list(found[0].distance.channels)}, device)
        self._reward = found[0]

    def see(self, image: Tensor, gt: Tensor) -> None:
        """Nothing: it sees the features of both while the reward compares them, see :meth:`watch`."""

    def watch(self, reward: BaseReward) -> contextlib.AbstractContextManager[object]:
        """Context in which ``reward`` compares images; if it is the critic's, its features are kept."""
        return self._watching() if reward is self._reward else contextlib.nullcontext()

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        distance = self._reward.distance
        distance.tap = lambda ours, theirs: self._seen.append((ours, theirs))
        try:
            yield
        finally:
            distance.tap = None

    def student_loss(self) -> Tensor:
        """Mean ``softplus(D(gt) - D(image))`` over places, then layers; gradient to the image's features only."""
        ours, theirs = self._seen.pop()
        with frozen(self.net):
            fake = self.net(ours)
            with torch.no_grad():
                real = self.net(theirs)
        self._seen.append(([layer.detach() for layer in ours], theirs))
        return relative_generator_loss(real, fake)

    def loss(self) -> Tensor:
        """The critic's own, on the features of the student's turn: the mean of ``softplus(D(image) - D(gt))``."""
        ours, theirs = self._seen.pop(0)
        return relative_discriminator_loss(self.net(theirs), self.net(ours))


def build_critic(options: Mapping[str, Any], device: torch.device, rewards: Sequence[BaseReward]) -> ImageCritic:
    """The critic that block ``network_d`` asks for; ``rewards`` are those that are losses.

    Raises:
        AMDRestoreError: see :class:`FeatureCritic`.
    """
    if ARCH_REGISTRY.get(options["type"]) is FeatureDiscriminator:
        return FeatureCritic(options, device, rewards)
    return ImageCritic(options, device)
