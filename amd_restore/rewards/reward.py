"""What a reward is: a metric with its metadata, turned so that higher is better.

A new reward is one registered class: its metadata and :meth:`BaseReward.measure`, the metric as published.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from amd_restore.errors import AMDRestoreError

ResultT = TypeVar("ResultT")


class Reward(Protocol):
    """Scores restored images.

    ``name`` is what logs and weight headers call it, ``mode`` is ``full_reference`` (compares with ``gt`` or
    ``lq``) or ``no_reference``. Calling it gives one value per image, (B,); higher is better; no gradient.
    """

    name: str
    mode: str

    def __call__(self, sr: Tensor, *, gt: Tensor | None = None, lq: Tensor | None = None) -> Tensor: ...

    def value_and_map(
        self, sr: Tensor, *, gt: Tensor | None = None, lq: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]: ...


class BaseReward:
    """Shared part of our rewards: sign, clamping, full precision, gradients on request only.

    Subclasses define :meth:`measure`, and :meth:`measure_map` where the metric has values per location. Both
    give the metric as published; the sign that makes it a reward is turned here, once, by
    ``higher_is_better``.

    Args:
        weight: factor in a :class:`~amd_restore.rewards.RewardSum`.
        device: where a network of the reward lives.

    Attributes:
        name: in logs and weight headers.
        mode: ``full_reference`` (compares with ``gt`` or ``lq``) or ``no_reference``.
        higher_is_better: of the metric; a reward always is.
        range: lowest and highest value of the metric for images in [0, 1], infinite where it has no bound; of
            pyiqa's metrics what their metadata says, which may be what is usual.
        has_map: whether :meth:`value_and_map` gives a map.
        exact_map: whether the map's mean over its locations is the value; else it is near.
        differentiable: whether :meth:`loss` works.
        min_size: pixels a side that an image needs.
    """

    name: str = "reward"
    mode: str = "full_reference"
    higher_is_better: bool = True
    range: tuple[float, float] = (-float("inf"), float("inf"))
    has_map: ClassVar[bool] = False
    exact_map: ClassVar[bool] = True
    differentiable: bool = False
    min_size: int = 1

    def __init__(self, weight: float = 1.0, device: torch.device | str = "cpu") -> None:
        self.weight, self.device = weight, torch.device(device)

    def measure(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        """The metric as published, (B,), of float32 images in [0, 1]."""
        raise NotImplementedError

    def measure_map(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The metric, (B,), the same numbers as :meth:`measure`, and its values per location (B, 1, h, w).

        The map has the metric's own resolution; None where the metric has none.
        """
        return self.measure(sr, gt, lq), None

    @torch.no_grad()
    def __call__(self, sr: Tensor, *, gt: Tensor | None = None, lq: Tensor | None = None) -> Tensor:
        """Score a batch.

        Args:
            sr: restored images (B, 3, sH, sW); values outside [0, 1] are clamped, as saving would.
            gt: ground truth, same shape.
            lq: low-quality input (B, 3, H, W).

        Returns:
            (B,) float32 on the device of ``sr``, higher is better.
        """
        return self._signed(self._run(self.measure, sr.clamp(0.0, 1.0), gt, lq))

    @torch.no_grad()
    def value_and_map(
        self, sr: Tensor, *, gt: Tensor | None = None, lq: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Score a batch as a call does, and say where it is good; one pass of the network gives both.

        Returns:
            The values of :meth:`__call__`, and a map (B, 1, h, w) float32 in the same unit, higher is better,
            at the metric's own resolution; None where the metric has none. See ``exact_map``.
        """
        values, field = self._run(self.measure_map, sr.clamp(0.0, 1.0), gt, lq)
        return self._signed(values), None if field is None else self._signed(field)

    def loss(self, sr: Tensor, *, gt: Tensor | None = None, lq: Tensor | None = None) -> Tensor:
        """Minus the reward, (B,), with gradient to ``sr``.

        Values of ``sr`` outside [0, 1] are not clamped, or nothing would pull them back.

        Raises:
            AMDRestoreError: when the reward is not differentiable.
        """
        self.require_differentiable()
        loss = -self._signed(self._run(self.measure, sr, gt, lq))
        if sr.requires_grad and torch.is_grad_enabled() and not loss.requires_grad:
            raise AMDRestoreError(f"reward '{self.name}' gives no gradient and cannot be a loss")
        return loss

    def require_differentiable(self) -> None:
        """Check that :meth:`loss` works.

        Raises:
            AMDRestoreError: it does not.
        """
        if not self.differentiable:
            raise AMDRestoreError(f"reward '{self.name}' is not differentiable and cannot be a loss")

    def _run(self, measure: Callable[..., ResultT], sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> ResultT:
        """Call ``measure`` in full precision; references are data: clamped and without gradient."""
        gt, lq = (None if image is None else image.detach().float().clamp(0.0, 1.0) for image in (gt, lq))
        with torch.autocast(sr.device.type, enabled=False):
            return measure(sr.float(), gt, lq)

    def _signed(self, metric: Tensor) -> Tensor:
        return metric.float() if self.higher_is_better else -metric.float()

    def _require(self, image: Tensor | None, what: str) -> Tensor:
        if image is None:
            raise ValueError(f"reward '{self.name}' needs {what}")
        return image
