"""Adversarial losses of DMD2 (2405.14867, section 4.3): non-saturating logistic loss on noised samples.

The critic is a small head on the fake teacher's features, so that it sees samples at every noise level; the fake
teacher learns from it too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def generator_loss(logits_fake: Tensor) -> Tensor:
    """Mean of ``softplus(-D(x))``: falls as the critic takes the student's samples for photographs.

    Args:
        logits_fake: critic's answer to the student's samples, any shape, with gradient.
    """
    return F.softplus(-logits_fake.float()).mean()


def discriminator_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Mean of ``softplus(-D(real)) + softplus(D(fake))``; 2 log 2 = 1.386 when the critic cannot tell them apart.

    Args:
        logits_real: critic's answer to photographs, with gradient.
        logits_fake: critic's answer to the student's samples, with gradient to the critic only.
    """
    return F.softplus(-logits_real.float()).mean() + F.softplus(logits_fake.float()).mean()


def relative_generator_loss(logits_real: Sequence[Tensor], logits_fake: Sequence[Tensor]) -> Tensor:
    """Mean of ``softplus(D(real) - D(fake))``, over each layer's places, then layers (1807.00734; 2501.05441).

    Each sample is judged beside its own ground truth, so what both show in common does not matter.

    Args:
        logits_real: critic's answers to photographs, one tensor a layer.
        logits_fake: its answers to the student's restorations of them, with gradient.
    """
    terms = [F.softplus(r.float() - f.float()).mean() for r, f in zip(logits_real, logits_fake, strict=True)]
    return torch.stack(terms).mean()


def relative_discriminator_loss(logits_real: Sequence[Tensor], logits_fake: Sequence[Tensor]) -> Tensor:
    """Mean of ``softplus(D(fake) - D(real))``; log 2 = .693 when the critic cannot tell them apart.

    Args:
        logits_real: critic's answers to photographs, one tensor a layer, with gradient.
        logits_fake: its answers to the student's restorations of them, with gradient to the critic only.
    """
    return relative_generator_loss(logits_fake, logits_real)
