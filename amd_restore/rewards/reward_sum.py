"""Weighted sum of rewards with running standard deviations, for whole images or per location."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from amd_restore.errors import AMDRestoreError
from amd_restore.registry import REWARD_REGISTRY, did_you_mean, register_all
from amd_restore.rewards.maps import match_rows, resize_map, smooth_map
from amd_restore.rewards.reward import BaseReward

STD_FLOOR = 1e-6  # lower bound on the divisor of a standardised reward
MOMENTUM = 0.99  # of the running standard deviations; the first updates are a plain average


class RewardSum(nn.Module):
    """Weighted sum of rewards.

    Rewards have different scales (a PSNR of 30, an LPIPS of -0.3). With ``standardize`` each is divided by a running
    estimate of its standard deviation *within* a batch (or within groups that share a condition, which the advantage
    compares), so that weights are comparable. The ``state_dict`` has these estimates only, not the rewards' networks.

    Args:
        rewards: each with a ``name`` and a ``weight``.
        standardize: divide each by its running standard deviation.

    Raises:
        AMDRestoreError: no reward, or two of one name.
    """

    std: Tensor
    std_total: Tensor
    difference_scale: Tensor
    updates: Tensor
    differences: Tensor

    def __init__(self, rewards: Sequence[BaseReward], standardize: bool = False) -> None:
        super().__init__()
        self.rewards, self.standardize = tuple(rewards), standardize
        if not self.rewards:
            raise AMDRestoreError("no reward given; AMD needs at least one under 'rewards', e.g. LPIPSReward")
        if len(set(self.names)) < len(self.names):
            raise AMDRestoreError(f"two rewards of one name: {', '.join(self.names)}")
        self.register_buffer("std", torch.ones(len(self.rewards), dtype=torch.float32))
        self.register_buffer("std_total", torch.ones((), dtype=torch.float32))
        self.register_buffer("difference_scale", torch.ones((), dtype=torch.float32))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.register_buffer("differences", torch.zeros((), dtype=torch.long))

    @property
    def names(self) -> list[str]:
        """Return the names of the rewards, for logs and for the header of exported weights."""
        return [reward.name for reward in self.rewards]

    @torch.no_grad()
    def forward(
        self,
        sr: Tensor,
        *,
        gt: Tensor | None = None,
        lq: Tensor | None = None,
        group_size: int | None = None,
        map_size: tuple[int, int] | None = None,
        map_sigma: float = 0.0,
        parts: int = 1,
        counted: bool = True,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Score a batch; in training mode also update the running standard deviations.

        ``std`` is that of whole-image values, so that a reward has the same weight with and without maps;
        ``std_total`` is that of the returned sum: with maps, the root of the variance averaged over locations.

        Args:
            sr, gt, lq: images in [0, 1], see :class:`BaseReward`.
            group_size: consecutive samples that share a condition; None for one group.
            map_size: (rows, columns) of the map; None to sum whole-image values. Rewards without a map contribute
                their value at every location.
            map_sigma: standard deviation, in cells of the map, of the Gaussian that smooths the rewards' maps.
            parts: parts into which the batch is split to save memory; a divisor of B.
            counted: whether the batch counts in the running standard deviations, in at least one process.

        Returns:
            The sum, (B,), or (B, 1, rows, columns) with ``map_size``; and each reward's own whole-image values
            (B,), by name, unweighted.

        Raises:
            AMDRestoreError: a reward is not finite; the message names it.
        """
        measured = self._measure(sr, gt, lq, map_size is not None, parts)
        return self._sum(*measured, map_size, map_sigma, group_size, self.training, len(sr) * counted)

    @torch.no_grad()
    def compare(
        self,
        sr: Tensor,
        reference: Tensor,
        *,
        gt: Tensor | None = None,
        lq: Tensor | None = None,
        map_size: tuple[int, int] | None = None,
        map_sigma: float = 0.0,
        parts: int = 1,
        counted: bool = True,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Score a batch, and its difference from other images of the same conditions.

        In training mode ``difference_scale``, the running root mean square of all differences, is updated, too.

        Args:
            sr: images of the batch.
            reference: the other images, same shape.
            gt, lq, map_size, map_sigma, parts, counted: see :meth:`forward`.

        Returns:
            The sum of ``sr`` minus that of ``reference``; and what :meth:`forward` returns for ``sr``.
        """
        # Side by side, so that both are compared with the same features of the ground truth.
        pairs = torch.stack([sr, reference], dim=1).flatten(0, 1)
        values, fields = self._measure(pairs, gt, lq, map_size is not None, parts)
        totals = []
        for start in (0, 1):
            own = (
                {name: value[start::2] for name, value in values.items()},
                [f if f is None else f[start::2] for f in fields],
            )
            track = self.training and start == 0
            totals.append(self._sum(*own, map_size, map_sigma, None, track, len(sr) * counted))
        (total, own_values), (other, _) = totals
        difference = total - other
        if self.training:
            square = _mean_of_processes(difference.square().mean(), len(sr) * counted)
            self.differences += 1
            self.difference_scale.lerp_(square.sqrt(), _rate(self.differences))
        return difference, total, own_values

    def _sum(
        self,
        values: dict[str, Tensor],
        fields: Sequence[Tensor | None],
        map_size: tuple[int, int] | None,
        map_sigma: float,
        group_size: int | None,
        track: bool,
        count: int,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what :meth:`forward` does; ``track`` updates the running standard deviations, with ``count`` rows."""
        for (name, value), field in zip(values.items(), fields, strict=True):
            if not torch.isfinite(value).all() or (field is not None and not torch.isfinite(field).all()):
                raise AMDRestoreError(f"reward '{name}' is not finite: {value.tolist()}")
        stacked = torch.stack(list(values.values()), dim=1)
        members = float(group_size or 0)
        if track and group_size is None:
            members = _sum_of_processes(count, stacked.device)
        track = track and members > 1  # A single value has no standard deviation.
        if track:
            self.updates += 1
            self._track(self.std, stacked, group_size, members, count)
        weight = stacked.new_tensor([reward.weight for reward in self.rewards])
        if self.standardize:
            weight = weight / self.std.clamp_min(STD_FLOOR)
        # Rewards without a map are summed first, so that the sum does not change if none has a map.
        mapless = [index for index, field in enumerate(fields) if field is None]
        total = (stacked[:, mapless] * weight[mapless]).sum(dim=1)
        if map_size is not None and len(mapless) < len(fields):
            total = total.view(-1, 1, 1, 1)
            for field, factor in zip(fields, weight, strict=True):
                if field is not None:
                    total = total + factor * smooth_map(resize_map(field, map_size), map_sigma)
        if track:
            self._track(self.std_total, total, group_size, members, count)
        if map_size is not None and total.dim() == 1:
            total = total.view(-1, 1, 1, 1).repeat(1, 1, *map_size)
        return total, values

    def _measure(
        self, sr: Tensor, gt: Tensor | None, lq: Tensor | None, with_maps: bool, parts: int = 1
    ) -> tuple[dict[str, Tensor], list[Tensor | None]]:
        """Return values by name, and the maps of rewards that have one."""
        if parts > 1:
            # A part needs whole groups, or a reference for each image.
            given = (x if x is None or len(x) % parts == 0 else match_rows(x, len(sr)) for x in (sr, gt, lq))
            images: Any = zip(*([None] * parts if x is None else x.chunk(parts) for x in given), strict=True)
            pieces = [self._measure(one, its_gt, its_lq, with_maps) for one, its_gt, its_lq in images]
            values = {name: torch.cat([piece[0][name] for piece in pieces]) for name in pieces[0][0]}
            columns = zip(*(piece[1] for piece in pieces), strict=True)
            return values, [None if column[0] is None else torch.cat(column) for column in columns]
        if not with_maps:
            return {reward.name: reward(sr, gt=gt, lq=lq) for reward in self.rewards}, [None] * len(self.rewards)
        pairs = [reward.value_and_map(sr, gt=gt, lq=lq) for reward in self.rewards]
        return dict(zip(self.names, (value for value, _ in pairs), strict=True)), [field for _, field in pairs]

    def _track(self, running: Tensor, values: Tensor, group_size: int | None, members: float, count: int) -> None:
        """Update a running standard deviation in place with that within the groups of ``values`` (B, ...).

        Variances of locations, (B, 1, h, w), are averaged. In distributed training the groups of all processes
        count, by their numbers of rows, so that the estimate is the same in all.

        Args:
            running: standard deviation.
            values: rewards of this process.
            group_size: rows of a group; None if the batch of all processes is the group.
            members: number of a group's rows.
            count: B, or 0 if the rows of this process do not count.
        """
        groups = values.reshape(-1, group_size or values.shape[0], *values.shape[1:])
        mean = groups.mean(dim=1, keepdim=True)
        if group_size is None:
            mean = _mean_of_processes(mean, count)
        variance = (groups - mean).square().mean(dim=(0, 1)) * (members / (members - 1.0))
        if values.dim() == 4:
            variance = variance.mean()
        running.lerp_(_mean_of_processes(variance, count).sqrt(), _rate(self.updates))


def _rate(updates: Tensor) -> float:
    """Return the weight of the newest value in a running average."""
    return max(1.0 - MOMENTUM, 1.0 / float(updates))


def _mean_of_processes(value: Tensor, count: int) -> Tensor:
    """Average ``value``, in place, over the processes of a distributed training, weighted by their ``count``."""
    if _process_count() > 1:
        value *= count / _sum_of_processes(count, value.device)
        dist.all_reduce(value)
    return value


def _sum_of_processes(count: int, device: torch.device) -> float:
    if _process_count() == 1:
        return float(count)
    total = torch.tensor(float(count), device=device)
    dist.all_reduce(total)
    return float(total)


def _process_count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def build_rewards(
    options: Sequence[Mapping[str, Any]], device: torch.device | str = "cpu", standardize: bool = False
) -> RewardSum:
    """Build rewards from option blocks like ``{type: LPIPSReward, weight: 1.0, net: squeeze}``.

    Raises:
        AMDRestoreError: a missing or unknown type, an unknown key, or a missing requirement of a reward.
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
