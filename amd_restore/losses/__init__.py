"""The mathematics of distillation as pure functions: tensors in, tensors out, torch and nothing else."""

from __future__ import annotations

from amd_restore.losses.amd import group_advantage, score_adaptation, sharpening_weight
from amd_restore.losses.dmd import (
    denoising_loss,
    gradient_cosine,
    matching_direction,
    normalizer,
    surrogate_loss,
)

__all__ = [
    "denoising_loss",
    "gradient_cosine",
    "group_advantage",
    "matching_direction",
    "normalizer",
    "score_adaptation",
    "sharpening_weight",
    "surrogate_loss",
]
