"""Teaching a student what less noise means: see :mod:`amd_restore.control.fidelity`, which asks for it later.

A student that learns from the ground truth with perceptual losses has no use for its noise and forgets it. Here some
samples start from less, and the less they have, the more their loss is L1: the amount of noise becomes a handle from
perception to fidelity, without a second network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from amd_restore.options.blocks import DistillOptions


def draw_levels(rand: Callable[[int], Tensor], count: int, options: DistillOptions) -> Tensor | None:
    """Deviation of the noise of each sample, in [0, 1], equal inside a group.

    Of ``fidelity_share`` one half gets none at all, the other between none and all of it.

    Args:
        rand: draws uniform numbers (n,).
        count: samples.
        options: of the distillation.

    Returns:
        (count,); None where the share is 0: all are 1, and nothing is drawn.
    """
    share, size = options.fidelity_share, options.group_size
    if not share:
        return None
    drawn = rand(count)[::size].repeat_interleave(size)
    return torch.where(drawn < share, (2 * drawn / share - 1).clamp(min=0), 1.0)


def mean_by_level(losses: Tensor, level: Tensor | None) -> Tensor:
    """Mean of ``losses`` (B, ...), each sample's times its ``level`` (B,); None is 1 for all."""
    if level is None:
        return losses.mean()
    return (losses.flatten(1).mean(1) * level).mean() if losses.ndim > 1 else (losses * level).mean()
