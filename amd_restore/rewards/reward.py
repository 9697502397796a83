"""Base class of rewards: metrics with metadata and a sign such that higher is better.

A new reward is a registered class with metadata and :meth:`BaseReward.measure`, the metric as published.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from amd_restore.errors import AMDRestoreError
from amd_restore.rewards.maps import match_rows

ResultT = TypeVar("ResultT")


class Reward(Protocol):
    """Interface of rewards.

    ``name`` is used in logs and weight headers; ``mode`` is ``full_reference`` (compares with ``gt`` or
    ``lq``) or ``no_reference``. A call returns one value per image, (B,), higher is better, without gradient.
    """

    name: str
    mode: str

    def __call__(self, sr: Tensor, *, gt: Tensor | None = None, lq: Tensor | None = None) -> Tensor: ...

    def value_and_map(
        self, sr: Tensor, *, gt: Tensor | None = None, lq: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]: ...


class BaseReward:
    """Base of our rewards: sign, clamping, full precision, gradients only in :meth:`loss`.

    Subclasses define :meth:`measure`, and :meth:`measure_map` if the metric has values per location. Both return the
    metric as published; this class changes the sign by ``higher_is_better``.

    Args:
        weight: factor in a :class:`~amd_restore.rewards.RewardSum`.
        device: device of the reward's network, if any.

    Attributes:
        name: name in logs and weight headers.
        mode: ``full_reference`` (compares with ``gt`` or ``lq``) or ``no_reference``.
        higher_is_better: direction of the metric.
        range: lowest and highest value of the metric for images in [0, 1], infinite if unbounded; pyiqa's metadata
            may give typical values instead.
        has_map: whether :meth:`value_and_map` returns a map.
        exact_map: whether the map's mean over its locations equals the value.
        differentiable: whether :meth:`loss` works.
        shares_reference: whether :meth:`measure` takes fewer references than images, each for as many consecutive
            images; the features of a reference are then computed once. Otherwise references are repeated.
        compares_with_lq: whether :meth:`measure` reads ``lq``.
        min_size: smallest side of an image in pixels.
    """

    name: str = "reward"
    mode: str = "full_reference"
    higher_is_better: bool = True
    range: tuple[float, float] = (-float("inf"), float("inf"))
    has_map: ClassVar[bool] = False
    exact_map: ClassVar[bool] = True
    differentiable: bool = False
    shares_reference: ClassVar[bool] = False
    compares_with_lq: ClassVar[bool] = False
    min_size: int = 1

    def __init__(self, weight: float = 1.0, device: torch.device | str = "cpu") -> None:
        self.weight, self.device = weight, torch.device(device)

    def measure(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        """Return the metric as published, (B,), of float32 images in [0, 1]."""
        raise NotImplementedError

    def measure_map(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the values of :meth:`measure`, (B,), and a map (B, 1, h, w).

        The map has the metric's resolution; None if the metric has no map.
        """
        return self.measure(sr, gt, lq), None

    @torch.no_grad()
    def __call__(self, sr: Tensor, *, gt: Tensor | None = None, lq: Tensor | None = None) -> Tensor:
        """Score a batch.

        Args:
            sr: restored images (B, 3, sH, sW), clamped to [0, 1].
            gt: ground truth, same shape, or a divisor of B for groups of consecutive images.
            lq: low-quality input (B, 3, H, W), or a divisor of B.

        Returns:
            (B,) float32 on the device of ``sr``, higher is better.
        """
        return self._signed(self._run(self.measure, sr.clamp(0.0, 1.0), gt, lq))

    @torch.no_grad()
    def value_and_map(
        self, sr: Tensor, *, gt: Tensor | None = None, lq: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Score a batch and return a map from the same pass of the network.

        Returns:
            The values of :meth:`__call__`, and a map (B, 1, h, w) float32 in the same unit, higher is better,
            at the metric's resolution; None if the metric has no map. See ``exact_map``.
        """
        values, field = self._run(self.measure_map, sr.clamp(0.0, 1.0), gt, lq)
        return self._signed(values), None if field is None else self._signed(field)

    def loss(self, sr: Tensor, *, gt: Tensor | None = None, lq: Tensor | None = None) -> Tensor:
        """Return the negated reward, (B,), with gradient to ``sr``.

        ``sr`` is not clamped, so that values outside [0, 1] get a gradient.

        Raises:
            AMDRestoreError: the reward is not differentiable.
        """
        self.require_differentiable()
        loss = -self._signed(self._run(self.measure, sr, gt, lq))
        if sr.requires_grad and torch.is_grad_enabled() and not loss.requires_grad:
            raise AMDRestoreError(f"reward '{self.name}' gives no gradient and cannot be a loss")
        return loss

    def require_differentiable(self) -> None:
        """Check that :meth:`loss` works.

        Raises:
            AMDRestoreError: the reward is not differentiable.
        """
        if not self.differentiable:
            raise AMDRestoreError(f"reward '{self.name}' is not differentiable and cannot be a loss")

    def _run(self, measure: Callable[..., ResultT], sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> ResultT:
        """Call ``measure`` in full precision; references are clamped and detached."""
        rows = (image if image is None or self.shares_reference else match_rows(image, len(sr)) for image in (gt, lq))
        gt, lq = (None if image is None else image.detach().float().clamp(0.0, 1.0) for image in rows)
        with torch.autocast(sr.device.type, enabled=False):
            return measure(sr.float(), gt, lq)

    def _signed(self, metric: Tensor) -> Tensor:
        return metric.float() if self.higher_is_better else -metric.float()

    def _require(self, image: Tensor | None, what: str) -> Tensor:
        if image is None:
            raise ValueError(f"reward '{self.name}' needs {what}")
        return image
