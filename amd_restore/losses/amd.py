"""Adaptive Matching Distillation (AMD, Bai et al. 2026, 2602.07345): from rewards to weights.

The advantage (eq. 12) and the adaptation (eq. 13) are the paper's. The paper describes Repulsive Landscape
Sharpening without an equation. Its closed form, the floor of the group's standard deviation, the advantage relative to
the teacher and the spatial case (rewards are maps with statistics for every location) are ours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from amd_restore.errors import AMDRestoreError


@torch.no_grad()
def group_advantage(rewards: Tensor, group_size: int, std_floor: float | Tensor = 0.0, eps: float = 1e-6) -> Tensor:
    """Return the advantage of each sample in its group, eq. 12: ``clip((R - mean) / (std + eps), -1, 1)``.

    Args:
        rewards: higher is better, (B,) or (B, 1, h, w); consecutive blocks of ``group_size`` share a
            condition.
        group_size: samples per condition. With 1 the advantage is 0 and AMD is DMD.
        std_floor: lower bound of the group's standard deviation in units of the reward (ours). Without it the clip
            acts as a sign function in a group of nearly equal rewards, and always in a group of two.
        eps: the paper's guard against division by zero.

    Returns:
        Advantage in [-1, 1], the shape of ``rewards``. The standard deviation is the unbiased estimate (divided
        by G - 1): dividing by G would give advantages of size 1 in every group of two.

    Raises:
        ValueError: the batch does not divide into groups.
    """
    if group_size < 1 or rewards.shape[0] % group_size:
        raise ValueError(f"a batch of {rewards.shape[0]} rewards does not divide into groups of {group_size}")
    groups = rewards.float().reshape(-1, group_size, *rewards.shape[1:])
    centred = groups - groups.mean(dim=1, keepdim=True)
    std = (centred.square().sum(dim=1, keepdim=True) / max(group_size - 1, 1)).sqrt()
    floor = torch.as_tensor(std_floor, dtype=std.dtype, device=std.device)
    return (centred / (torch.maximum(std, floor) + eps)).clamp(-1.0, 1.0).reshape(rewards.shape)


def greatest_advantage(group_size: int) -> float:
    """Return the least upper bound of :func:`group_advantage`: 1 by clipping, less in a group of two."""
    return min(1.0, (group_size - 1) / group_size**0.5) if group_size > 1 else 1.0


@torch.no_grad()
def relative_advantage(difference: Tensor, scale: float | Tensor, eps: float = 1e-6) -> Tensor:
    """Return the advantage over the teacher's sample of the same condition: ``clip((R - R_teacher) / scale)``.

    Ours: samples better than the teacher's are matched less, and no group is needed.

    Args:
        difference: rewards of the student's samples minus those of the teacher's, (B,) or (B, 1, h, w).
        scale: typical difference across images, in units of the reward.
        eps: guard against division by zero.

    Returns:
        Advantage in [-1, 1], the shape of ``difference``.
    """
    return (difference.float() / (scale + eps)).clamp(-1.0, 1.0)


@torch.no_grad()
def permuted_advantage(advantage: Tensor, group_size: int, generator: torch.Generator | None = None) -> Tensor:
    """Permute the advantages among samples, as a control experiment.

    Args:
        advantage: (B,) or (B, 1, h, w), in consecutive blocks of ``group_size``.
        group_size: above 1, values move inside their group, to another member; with 1, to another image.
        generator: source of the random shift; on the CPU.

    Returns:
        The shape of ``advantage``. A batch of one image without a group is unchanged.
    """
    groups = advantage.reshape(-1, group_size, *advantage.shape[1:])
    dim = 1 if group_size > 1 else 0
    count = groups.shape[dim]
    if count < 2:
        return advantage
    shift = int(torch.randint(1, count, (1,), generator=generator))
    return groups.roll(shift, dims=dim).reshape(advantage.shape)


@torch.no_grad()
def score_adaptation(advantage: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Dynamic Score Adaptation, eq. 13: ``alpha = 1 + s a``, ``beta = 1 - s a``.

    A poor sample (a < 0) gets more matching and repulsion and less guidance.

    Args:
        advantage: in [-1, 1], any shape.
        strength: s in [0, 1); at 0 both weights are exactly one. Below 1 both stay positive, so no term of
            eq. 10 ever changes its sign.

    Returns:
        ``(alpha, beta)`` in [1 - s, 1 + s], the shape of ``advantage``.

    Raises:
        AMDRestoreError: strength outside [0, 1).
    """
    if not 0.0 <= strength < 1.0:
        raise AMDRestoreError(f"the AMD strength must be in [0, 1), got {strength}")
    return 1.0 + strength * advantage, 1.0 - strength * advantage


@torch.no_grad()
def sharpening_weight(advantage: Tensor, tau: float, mean: Callable[[Tensor], Tensor] = torch.mean) -> Tensor:
    """Return weights of Repulsive Landscape Sharpening for the fake score's loss, lower for better samples.

    The paper says "reward-weighted"; the form ``exp(-tau a)`` is ours. The mean over the batch is normalised to 1, so
    that the effective learning rate does not change.

    Args:
        advantage: in [-1, 1], (B,) or (B, 1, h, w).
        tau: sharpness, at least 0; at 0 the weights are exactly one.
        mean: function that returns the mean over the batch, of which ``advantage`` may be a part.

    Returns:
        Positive weights with mean 1, the shape of ``advantage``.

    Raises:
        AMDRestoreError: negative tau.
    """
    if not tau >= 0.0:
        raise AMDRestoreError(f"the sharpening tau must be at least 0, got {tau}")
    weight = torch.exp(-tau * advantage)
    return weight / mean(weight)
