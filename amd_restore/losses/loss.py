"""Base class of losses of the student's images, and their list in an option file."""

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
    """Term of the student's loss that compares its images with the ground truth.

    A new loss is a registered class with ``name`` and :meth:`measure` in a file ``*_loss.py`` of this folder. The
    constructor's arguments are the keys of its entry under ``losses``.

    Args:
        weight: factor in the sum.
        random_views: compare random views of both images, see :func:`~amd_restore.losses.perceptual.random_view`.
        device: device of the loss's network, if any.

    Attributes:
        name: name in the log, as ``l_NAME``, and in the header of exported weights.
    """

    name: str = "loss"

    def __init__(self, weight: float = 1.0, random_views: bool = False, device: torch.device | str = "cpu") -> None:
        self.weight, self.random_views, self.device = weight, random_views, torch.device(device)

    def measure(self, image: Tensor, gt: Tensor, lq: Tensor) -> Tensor:
        """Return the unweighted loss, a scalar.

        Args:
            image: restored images (B, 3, sH, sW), about [0, 1], with gradient.
            gt: ground truth, same shape.
            lq: low-quality input (B, 3, H, W), not aligned with the images if these are random views.
        """
        raise NotImplementedError

    def __call__(self, image: Tensor, gt: Tensor, lq: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss times its weight; ``generator`` is the source of random views."""
        if self.random_views:
            image, gt = random_view(image, gt, generator)
        return self.weight * self.measure(image, gt, lq)


def build_losses(blocks: Sequence[Mapping[str, Any]], device: torch.device | str = "cpu") -> list[BaseLoss]:
    """Build losses from option blocks like ``{type: LPIPS, weight: 0.25, net: squeeze}``, except those of weight 0.

    Raises:
        AMDRestoreError: an unknown type, two losses of one name, or a missing requirement of a loss.
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
