"""What a loss of the student's images is, and the list of them in an option file."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from amd_restore.errors import AMDRestoreError
from amd_restore.losses.perceptual import random_view
from amd_restore.registry import LOSS_REGISTRY, register_all


class BaseLoss:
    """A term of the student's loss: how far its images are from the ground truth.

    A new loss is one registered class in a file ``*_loss.py`` of this folder: its ``name`` and :meth:`measure`. The
    constructor's arguments are the keys of its entry under ``losses``.

    Args:
        weight: factor in the sum.
        random_views: compare random views of both images, see :func:`~amd_restore.losses.perceptual.random_view`.
        device: where a network of the loss lives.

    Attributes:
        name: in the log, as ``l_NAME``, and in the header of exported weights.
    """

    name: str = "loss"

    def __init__(self, weight: float = 1.0, random_views: bool = False, device: torch.device | str = "cpu") -> None:
        self.weight, self.random_views, self.device = weight, random_views, torch.device(device)

    def measure(self, image: Tensor, gt: Tensor, lq: Tensor) -> Tensor:
        """The loss before its weight, a scalar.

        Args:
            image: restored images (B, 3, sH, sW), about [0, 1], with gradient.
            gt: ground truth, same shape.
            lq: low-quality input (B, 3, H, W); with random views it does not show the same place as the images.
        """
        raise NotImplementedError

    def __call__(self, image: Tensor, gt: Tensor, lq: Tensor, generator: torch.Generator) -> Tensor:
        """The loss times its weight; arguments as in :meth:`measure`, and the source of random views."""
        if self.random_views:
            image, gt = random_view(image, gt, generator)
        return self.weight * self.measure(image, gt, lq)


def build_losses(blocks: Sequence[Mapping[str, Any]], device: torch.device | str = "cpu") -> list[BaseLoss]:
    """Losses from option blocks like ``{type: LPIPS, weight: 0.25, net: squeeze}``; those of weight 0 are left out.

    Raises:
        AMDRestoreError: an unknown type, two losses of one name, or what a loss itself needs and misses.
    """
    register_all()
    losses = []
    for block in blocks:
        arguments = {key: value for key, value in block.items() if key != "type"}
        if arguments.get("weight") == 0:
            continue
        cls = LOSS_REGISTRY.get(block["type"])
        if "device" in inspect.signature(cls).parameters:
            arguments["device"] = device
        losses.append(cls(**arguments))
    names = [loss.name for loss in losses]
    if len(set(names)) < len(names):
        raise AMDRestoreError(f"losses: two of one name: {', '.join(names)}")
    return losses
