"""Distillation as pure functions, and the losses of option files (``*_loss.py``)."""

from __future__ import annotations

from amd_restore.losses.amd import (
    greatest_advantage,
    group_advantage,
    permuted_advantage,
    relative_advantage,
    score_adaptation,
    sharpening_weight,
)
from amd_restore.losses.diagnostics import group_diversity, zone_cosine, zone_mean
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
    "greatest_advantage",
    "group_advantage",
    "group_diversity",
    "matching_direction",
    "normalizer",
    "permuted_advantage",
    "relative_advantage",
    "score_adaptation",
    "sharpening_weight",
    "surrogate_loss",
    "zone_cosine",
    "zone_mean",
]
