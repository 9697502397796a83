"""Batches of a training step as dataclasses of tensors that can be sliced by rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from amd_restore.models.latent import Windows


@dataclass(frozen=True)
class Rows:
    """Tensors with a row for each sample of a batch; ``batch[rows]`` slices all of them."""

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """Return the rows of a slice, or of a tensor of indices (N,)."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        cut = {name: value[rows] for name, value in values.items() if isinstance(value, Tensor | Windows)}
        return dataclasses.replace(self, **cut)

    def __len__(self) -> int:
        first: Tensor = getattr(self, dataclasses.fields(self)[0].name)
        return len(first)

    def parts(self, count: int) -> list[Self]:
        """Split the batch into ``count`` parts of equal length (the last may be shorter)."""
        if count == 1:
            return [self]
        size = -(-len(self) // count)
        return [self[start : start + size] for start in range(0, len(self), size)]

    def having(self, **values: Any) -> Self:
        """Return the same rows with some fields replaced."""
        return dataclasses.replace(self, **values)


@dataclass(frozen=True, kw_only=True)
class Draw(Rows):
    """Inputs and random numbers of a step's samples, drawn in advance.

    Attributes:
        lq: (B, 3, H, W) in [0, 1], each ``group_size`` times in a row.
        gt: (B, 3, sH, sW) in [0, 1].
        cond: condition of teacher and fake score, (B, K, h, w).
        noise: standard normal, from which the student starts, (B, C, h, w).
        steps, stops: number of steps of each sample, and index of the trained step, (B,) on the CPU.
        fresh: noise of the later steps, (B, calls, C, h, w); None for deterministic steps.
        windows: windows in which losses and rewards compare images; None for whole images.
    """

    lq: Tensor
    gt: Tensor
    cond: Tensor
    noise: Tensor
    steps: Tensor
    stops: Tensor
    fresh: Tensor | None = None
    windows: Windows | None = None


@dataclass(frozen=True, kw_only=True)
class Rollout(Draw):
    """Student's samples of a step and their matching direction.

    Attributes:
        x_t, t: state and time of the student's last call, (B, C, h, w) and (B,).
        x0: the student's samples, (B, C, h, w).
        image: decoded samples, in the windows, (B, 3, ., .).
        advantage: advantage of each sample, (B,) or (B, 1, h, w); None for plain DMD.
        direction, norm: H of eq. 10 and its normaliser, (B, C, h, w) and (B, 1, 1, 1); None without matching.
    """

    x_t: Tensor
    t: Tensor
    x0: Tensor
    image: Tensor
    advantage: Tensor | None = None
    direction: Tensor | None = None
    norm: Tensor | None = None

    @classmethod
    def of(cls, draw: Draw, sampled: Sequence[Mapping[str, Any]]) -> Rollout:
        """Join the samples of a draw from those of its parts: ``x_t``, ``t``, ``x0`` and ``image``."""
        values: dict[str, Any] = {field.name: getattr(draw, field.name) for field in dataclasses.fields(draw)}
        if len(sampled) == 1:
            return cls(**values, **sampled[0])
        values |= {name: torch.cat([part[name] for part in sampled]) for name in sampled[0]}
        return cls(**values)


@dataclass(frozen=True)
class Denoising(Rows):
    """Samples to denoise, for a teacher or a fake score.

    Attributes:
        x0: clean latents, (B, C, h, w).
        noise: standard normal, same shape.
        t: times, (B,).
        cond: condition, (B, K, h, w).
        keep: whether the condition is kept, bool (B,); None keeps all.
        weight: loss weight of each sample or location, (B,) or (B, 1, h, w); None for ones.
        gt, lq: images in [0, 1], (B, 3, sH, sW) and (B, 3, H, W), for losses on images; None without them.
    """

    x0: Tensor
    noise: Tensor
    t: Tensor
    cond: Tensor
    keep: Tensor | None = None
    weight: Tensor | None = None
    gt: Tensor | None = None
    lq: Tensor | None = None
