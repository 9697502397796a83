"""Measurements inside and outside a Forbidden Zone (2602.07345, section 3), without gradient.

A location is inside if its advantage is negative. Amplified noise would appear there as a cosine between H and
``gt - x`` that is not positive. The value of an empty zone is NaN, which averages leave out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amd_restore.losses.dmd import expand_weight


def _mask(inside: Tensor, like: Tensor) -> Tensor:
    """Convert bool (B,) or (B, 1, h, w) to zeros and ones (B, 1, h, w)."""
    weight = expand_weight(inside.float(), like)
    return weight.expand(like.shape[0], 1, *like.shape[2:])


@torch.no_grad()
def zone_cosine(direction: Tensor, gt_minus_x: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosine between H and the step to the ground truth, inside and outside the zone.

    Args:
        direction: H (B, C, h, w).
        gt_minus_x: step to the ground truth, same shape.
        inside: bool, (B,) or (B, 1, h, w).

    Returns:
        Two tensors (B,) in [-1, 1]; NaN for samples without a location of that kind.
    """
    h, g = direction.float(), gt_minus_x.float()
    products = [(a * b).sum(dim=1, keepdim=True) for a, b in ((h, g), (h, h), (g, g))]

    def cosine(mask: Tensor) -> Tensor:
        dot, hh, gg = ((product * mask).flatten(1).sum(dim=1) for product in products)
        return dot / (hh * gg).sqrt()

    mask = _mask(inside, h)
    return cosine(mask), cosine(1.0 - mask)


@torch.no_grad()
def zone_mean(values: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return means of ``values`` (B, C, h, w) inside and outside the zone, two scalars; NaN for an empty zone."""
    mask = _mask(inside, values)
    per_location = values.float().mean(dim=1, keepdim=True)
    count = mask.sum()
    return (per_location * mask).sum() / count, (per_location * (1 - mask)).sum() / (mask.numel() - count)


@torch.no_grad()
def group_diversity(images: Tensor, group_size: int) -> Tensor:
    """Return the mean over pixels of the standard deviation of each group's samples, (B / G,).

    In units of ``images`` (B, 3, H, W); 0 for a student that ignores its noise, and for groups of one.
    """
    groups = images.float().unflatten(0, (-1, group_size))
    return groups.std(dim=1, correction=0).flatten(1).mean(dim=1)


def sizes_of_step(x0: Tensor, direction: Tensor, matching: Tensor, norm: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    """Return the sizes of the step and its parts over the ``chosen`` samples, bool (B,)."""
    step, part = (direction / norm)[chosen], (matching / norm)[chosen]
    return {
        "amd__grad_norm": step.square().mean().sqrt(),
        "amd__norm_matching": part.square().mean().sqrt(),
        "amd__norm_guidance": (step - part).square().mean().sqrt(),
        "amd__x0_std": x0.std(),
    }


def errors_by_zone(error: Tensor, advantage: Tensor) -> dict[str, Tensor]:
    """Return the error of the fake score inside and outside the Forbidden Zone."""
    inside, outside = zone_mean(error, advantage < 0)
    return {"amd__fake_loss_inside": inside, "amd__fake_loss_outside": outside}
