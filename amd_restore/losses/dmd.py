"""Distribution Matching Distillation (DMD, 2311.18828; DMD2, 2405.14867) in x0-space.

AMD (2602.07345) adds weights: every function takes them as optional tensors. Weights of exactly one give the same
bits as no weights, because a product with 1.0 is exact and the order of operations does not change.

Everything is computed in float32 at least, also under autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _full(x: Tensor) -> Tensor:
    """Convert to float32; float64 (for analytic tests) stays."""
    return x if x.dtype == torch.float64 else x.float()


def expand_weight(weight: Tensor, like: Tensor) -> Tensor:
    """Expand a weight (B,) or (B, 1, h, w) to multiply ``like`` (B, C, h, w).

    Raises:
        ValueError: any other shape.
    """
    per_sample, spatial = (like.shape[0],), (like.shape[0], 1, *like.shape[2:])
    if tuple(weight.shape) == per_sample:
        return _full(weight).reshape(-1, *[1] * (like.ndim - 1))
    if tuple(weight.shape) == spatial:
        return _full(weight)
    raise ValueError(f"a weight has shape {per_sample} or {spatial}, got {tuple(weight.shape)}")


@torch.no_grad()
def matching_direction(
    x0_real: Tensor,
    x0_fake: Tensor,
    x0_real_uncond: Tensor | None = None,
    guidance_scale: float = 1.0,
    alpha: Tensor | None = None,
    beta: Tensor | None = None,
) -> Tensor:
    """Return the direction in which to move the student's sample: eq. 10 of 2602.07345 in x0-space.

        H = beta (x0_real - x0_fake) + alpha (w - 1) (x0_real - x0_real_uncond)

    With alpha = beta = 1 (or None) this is DMD's direction with a teacher guided by w. Both weights multiply
    a *difference*, so at w = 1 the fixed point x0_real = x0_fake does not depend on them.

    Args:
        x0_real: teacher's estimate with the condition, (B, C, h, w).
        x0_fake: fake score's estimate with the condition, same shape.
        x0_real_uncond: teacher's estimate without the condition; may be None at ``guidance_scale`` 1.
        guidance_scale: w; 1 for no guidance.
        alpha: weight of the condition-amplifying part, (B,) or (B, 1, h, w).
        beta: weight of the matching part, likewise.

    Returns:
        H (B, C, h, w), without gradient.

    Raises:
        ValueError: guidance without ``x0_real_uncond``, or a weight of another shape.
    """
    real, fake = _full(x0_real), _full(x0_fake)
    matching = real - fake
    if beta is not None:
        matching = expand_weight(beta, real) * matching
    if guidance_scale == 1.0:
        return matching
    if x0_real_uncond is None:
        raise ValueError(f"guidance_scale {guidance_scale} needs the unconditional estimate x0_real_uncond")
    guidance = (guidance_scale - 1.0) * (real - _full(x0_real_uncond))
    if alpha is not None:
        guidance = expand_weight(alpha, real) * guidance
    return matching + guidance


@torch.no_grad()
def normalizer(x0: Tensor, x0_real: Tensor, floor: float = 1e-6) -> Tensor:
    """Return mean |x0 - x0_real| of each sample, (B, 1, 1, 1): equalises noise levels (DMD's eq. 8).

    Args:
        x0: student's sample (B, C, h, w).
        x0_real: teacher's conditional estimate, same shape.
        floor: lower bound, which prevents a division by zero.
    """
    distance = (_full(x0) - _full(x0_real)).abs()
    return distance.mean(dim=tuple(range(1, distance.ndim)), keepdim=True).clamp_min(floor)


def surrogate_loss(x0: Tensor, direction: Tensor, norm: Tensor | float = 1.0) -> Tensor:
    """Return a scalar whose gradient with respect to ``x0`` is ``-direction / norm / x0.numel()``.

    It is ``0.5 mean((x0 - stopgrad(x0 + H / n))^2)``, written as ``(x0 - stopgrad(x0)) - H / n`` so that the
    rounding of ``x0 + H / n`` does not enter the gradient. The value is ``0.5 mean((H / n)^2)``, the size of the step,
    which does not fall to zero.

    Args:
        x0: student's sample (B, C, h, w), with gradient.
        direction: H of :func:`matching_direction`.
        norm: n of :func:`normalizer`, (B, 1, 1, 1), or a number.
    """
    sample = _full(x0)
    step = (_full(direction) / norm).detach()
    return 0.5 * ((sample - sample.detach()) - step).square().mean()


def denoising_loss(x0_pred: Tensor, x0: Tensor, weight_t: Tensor, w_sharp: Tensor | None = None) -> Tensor:
    """Return mean ``w_sharp * weight_t * (x0_pred - x0)^2``: the denoising loss of the fake score.

    Args:
        x0_pred: estimate of the clean image (B, C, h, w), with gradient.
        x0: clean image, here the student's sample, detached.
        weight_t: weight of each noise level, (B,), see ``Process.loss_weight``.
        w_sharp: Repulsive Landscape Sharpening, (B,) or (B, 1, h, w); None for ones, bit for bit.

    Returns:
        Scalar, the mean over all elements.
    """
    error = (_full(x0_pred) - _full(x0).detach()).square() * expand_weight(weight_t, x0)
    if w_sharp is not None:
        error = error * expand_weight(w_sharp, x0).detach()
    return error.mean()


@torch.no_grad()
def gradient_cosine(direction: Tensor, gt_minus_x: Tensor) -> Tensor:
    """Return the cosine between H and the step to the ground truth, (B,), in [-1, 1]; 0 if either is 0.

    "Noise amplification" in a Forbidden Zone would appear as a cosine that is not positive.
    """
    return torch.cosine_similarity(_full(direction).flatten(1), _full(gt_minus_x).flatten(1), dim=1)
