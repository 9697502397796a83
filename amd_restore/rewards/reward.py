"""What a reward is, and the weighted sum of several."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from amd_restore.errors import AMDRestoreError
from amd_restore.registry import REWARD_REGISTRY, did_you_mean, register_all

STD_FLOOR = 1e-6  # of a standardised reward: equal values divide by this instead of by zero
MOMENTUM = 0.99  # of the running deviations; the first 100 updates are a plain average


class Reward(Protocol):
    """Scores restored images.

    ``name`` is what logs and weight headers call it, ``mode`` is ``full_reference`` (compares with ``gt`` or
    ``lq``) or ``no_reference``. Calling it gives one value per image, (B,); higher is better; no gradient.
    """

    name: str
    mode: str

    def __call__(self, sr: Tensor, *, gt: Tensor | None = None, lq: Tensor | None = None) -> Tensor: ...


class BaseReward:
    """Shared part of our rewards: clamping, full precision, no gradient. Subclasses define :meth:`score`.

    Args:
        weight: factor in a :class:`RewardSum`.
        device: where a network of the reward lives.
    """

    name = "reward"
    mode = "full_reference"

    def __init__(self, weight: float = 1.0, device: torch.device | str = "cpu") -> None:
        self.weight, self.device = weight, torch.device(device)

    def score(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        """(B,), higher is better; the images are clamped float32."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(self, sr: Tensor, *, gt: Tensor | None = None, lq: Tensor | None = None) -> Tensor:
        """Score a batch.

        Args:
            sr: restored images (B, 3, sH, sW); values outside [0, 1] are clamped, as saving would.
            gt: ground truth, same shape.
            lq: low-quality input (B, 3, H, W).

        Returns:
            (B,) float32 on the device of ``sr``.
        """
        images = [None if image is None else image.detach().float().clamp(0.0, 1.0) for image in (sr, gt, lq)]
        with torch.autocast(sr.device.type, enabled=False):
            return self.score(images[0], images[1], images[2]).float()  # type: ignore[arg-type]

    def _require(self, image: Tensor | None, what: str) -> Tensor:
        if image is None:
            raise ValueError(f"reward '{self.name}' needs {what}")
        return image


class RewardSum(nn.Module):
    """Weighted sum of rewards.

    Rewards live on different scales (a PSNR of 30, an LPIPS of -0.3). With ``standardize`` each is divided by
    a running estimate of its own deviation *within* a batch (or within groups that share a condition, which
    is what the advantage compares), so that weights are comparable. Only these estimates are state; the
    rewards' networks are not in the ``state_dict``.

    Args:
        rewards: each with a ``name`` and a ``weight``.
        standardize: divide each by its running deviation.

    Raises:
        AMDRestoreError: for no reward, or two of one name.
    """

    std: Tensor
    std_total: Tensor
    updates: Tensor

    def __init__(self, rewards: Sequence[BaseReward], standardize: bool = False) -> None:
        super().__init__()
        self.rewards, self.standardize = tuple(rewards), standardize
        if not self.rewards:
            raise AMDRestoreError("no reward given; AMD needs at least one under 'rewards', e.g. LPIPSReward")
        if len(set(self.names)) < len(self.names):
            raise AMDRestoreError(f"two rewards of one name: {', '.join(self.names)}")
        self.register_buffer("std", torch.ones(len(self.rewards)))
        self.register_buffer("std_total", torch.ones(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @property
    def names(self) -> list[str]:
        """Names of the rewards, for logs and for the header of exported weights."""
        return [reward.name for reward in self.rewards]

    @torch.no_grad()
    def forward(
        self, sr: Tensor, *, gt: Tensor | None = None, lq: Tensor | None = None, group_size: int | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Score a batch; in training mode also update the running deviations.

        Args:
            sr, gt, lq: images in [0, 1], see :class:`BaseReward`.
            group_size: consecutive samples that share a condition; None takes the batch as one group.

        Returns:
            The sum (B,) and each reward's own values (B,), by name, unweighted.

        Raises:
            AMDRestoreError: when a reward is not finite; the message names it.
        """
        values = {reward.name: reward(sr, gt=gt, lq=lq) for reward in self.rewards}
        for name, value in values.items():
            if not torch.isfinite(value).all():
                raise AMDRestoreError(f"reward '{name}' is not finite: {value.tolist()}")
        stacked = torch.stack(list(values.values()), dim=1)
        if self.training:
            self.updates += 1
            self._track(self.std, stacked, group_size)
        weight = stacked.new_tensor([reward.weight for reward in self.rewards])
        if self.standardize:
            weight = weight / self.std.clamp_min(STD_FLOOR)
        total = (stacked * weight).sum(dim=1)
        if self.training:
            self._track(self.std_total, total, group_size)
        return total, values

    def _track(self, running: Tensor, values: Tensor, group_size: int | None) -> None:
        """Move a running deviation, in place, towards the one within the groups of ``values`` (B, ...).

        In distributed training the groups of all processes count, so that all of them hold the same estimate.
        """
        groups = values.reshape(-1, group_size or values.shape[0], *values.shape[1:])
        variance = groups.var(dim=1, correction=0).mean(dim=0)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(variance)
            variance /= dist.get_world_size()
        within = variance.sqrt()
        rate = max(1.0 - MOMENTUM, 1.0 / float(self.updates))
        running.lerp_(within, rate)


def build_rewards(
    options: Sequence[Mapping[str, Any]], device: torch.device | str = "cpu", standardize: bool = False
) -> RewardSum:
    """Rewards from option blocks like ``{type: LPIPSReward, weight: 1.0, net: squeeze}``.

    Raises:
        AMDRestoreError: for a missing or unknown type, an unknown key, or what a reward itself needs and
            misses.
    """
    register_all()
    rewards = []
    for block in options:
        arguments = dict(block)
        kind = arguments.pop("type", None)
        if kind is None:
            raise AMDRestoreError(f"a reward needs a 'type' ({', '.join(REWARD_REGISTRY)}), got {dict(block)}")
        cls = REWARD_REGISTRY.get(kind)
        known = [key for key in inspect.signature(cls).parameters if key != "device"]
        for key in arguments:
            if key not in known:
                raise AMDRestoreError(f"reward {kind}: unknown key '{key}'; {did_you_mean(key, known)}")
        rewards.append(cls(**arguments, device=device))
    return RewardSum(rewards, standardize).to(device)
