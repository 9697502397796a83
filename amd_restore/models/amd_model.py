"""Adaptive Matching Distillation: DMD weighted by the advantage of each sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from amd_restore.diffusion import sample_ode
from amd_restore.losses.amd import (
    greatest_advantage,
    group_advantage,
    permuted_advantage,
    relative_advantage,
    score_adaptation,
    sharpening_weight,
)
from amd_restore.models.distributed import mean_of_all
from amd_restore.models.dmd_model import DMDModel
from amd_restore.models.latent import decode_windows
from amd_restore.models.rollout import Draw, Rollout
from amd_restore.models.zone_maps import save_zone_maps
from amd_restore.registry import MODEL_REGISTRY
from amd_restore.rewards import build_rewards


@MODEL_REGISTRY.register()
class AMDModel(DMDModel):
    """AMD (2602.07345) of a conditional diffusion teacher; with both strengths 0 equal to DMD, bit for bit.

    With ``distill.spatial`` rewards, advantage, alpha, beta and sharpening are maps over the latent grid.
    """

    loss_name = "l_amd"
    zones_of = -1  # iteration of the latest zone maps

    def init_training_settings(self) -> None:
        """Build the rewards; standardisation and ``std_floor`` use their running standard deviations."""
        blocks = [{"type": block.type, "weight": block.weight, **block.arguments} for block in self.run.rewards]
        self.reward = build_rewards(blocks, self.device, self.run.distill.standardize_rewards)
        self.mean_advantage = torch.zeros((), dtype=torch.float32, device=self.device)  # of the last rewards
        super().init_training_settings()

    def diagnose(self, rollout: Rollout, update_student: bool) -> Tensor | None:
        """Return the advantage of each sample in its group (eq. 12) or over the teacher; skipped if unused.

        Between the steps of ``distill.advantage_every`` all samples have the mean of the last one, so that the matching
        loss keeps its mean weight.

        Returns:
            (B,), or (B, 1, h, w) with ``distill.spatial``.
        """
        options = self.run.distill
        if not update_student and options.sharpening_strength == 0:
            return None
        if (self.current_iter // options.fake_updates_per_student - 1) % options.advantage_every:
            self.diagnosing = False  # Without advantages there is no zone to measure.
            return self.mean_advantage.expand(len(rollout))
        rows = self.matched(rollout)
        device = rollout.x0.device
        share = 1.0 if rows is None else float(mean_of_all(torch.tensor(len(rows) / len(rollout), device=device)))
        if share == 0:
            return torch.zeros(len(rollout), device=device)
        counted = rows is None or len(rows) > 0
        if not counted:  # A process without matched rows takes part in the averages, with a weight of 0.
            rows = torch.arange(options.group_size)
        chosen = rollout if rows is None else rollout[rows]
        with self.separate_numbers():  # Whatever is drawn here, the matching compares the same times and noises as DMD.
            reference = self.teacher_images(rollout, rows) if options.advantage == "teacher" else None
            advantage, rewards, values = self.advantage(
                chosen.image.detach(), *self.targets(chosen), reference, counted
            )
            if options.permute_advantage:
                advantage = permuted_advantage(advantage, options.group_size, self.host_generator)

        def of_all(value: Tensor, rest: float = torch.nan) -> Tensor:
            if rows is None:
                return value
            whole = value.new_full((len(rollout), *value.shape[1:]), rest)
            if counted:
                whole[rows] = value
            return whole

        if options.advantage_every > 1:
            own = advantage.mean() * (len(chosen) / len(rollout) * counted)
            self.mean_advantage = mean_of_all(own) / share
        with self.diagnostics.extra():
            self.log(
                reward__total=of_all(rewards),
                **{f"reward__{name}": of_all(value) for name, value in values.items()},
            )
            if self.diagnosing:
                self.log(
                    reward__group_std=self.reward.std_total,
                    reward__difference_scale=self.reward.difference_scale,
                    # In a group of two no advantage exceeds 1 / sqrt(2), and eps keeps it just below.
                    amd__clipped_share=of_all((advantage.abs() > 0.99 * self.greatest_advantage).float()),
                    amd__forbidden_share=of_all((advantage < 0).float()),
                )
                weights = [of_all(weight) for weight in score_adaptation(advantage, options.adaptation_strength)]
                self.log_of_batch(_summaries, *weights)
        return of_all(advantage, 0.0)

    @torch.no_grad()
    def teacher_images(self, draw: Draw, rows: Tensor | None = None) -> Tensor:
        """Return the teacher's sample of the same lq in the windows, one for each group, repeated for its members.

        ``rows`` are the indices of whole groups; None for all.
        """
        size, denoiser = self.run.distill.group_size, self.denoiser(self.net_teacher)
        of_groups = draw[::size]
        of_groups = of_groups.having(noise=self.randn(of_groups.noise.shape))
        if rows is not None:
            of_groups = of_groups[rows[::size] // size]
        times = denoiser.process.times(self.run.distill.teacher_steps, of_groups.noise.device)
        images = []
        for part in of_groups.parts(self.accumulate):
            with self.autocast():
                x0 = sample_ode(denoiser, part.noise * denoiser.process.sigma(times[0]), part.cond, times)
            images.append(decode_windows(self.codec, x0.float(), part.lq, part.windows).clamp(0, 1))
        return torch.cat(images).repeat_interleave(size, dim=0)

    def advantage(
        self, image: Tensor, gt: Tensor, lq: Tensor, reference: Tensor | None = None, counted: bool = True
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return advantage, reward sum and each reward's values (B,) of groups of restored images.

        The advantage is relative to ``reference`` if given, else to the group. ``counted``: whether the images count in
        the rewards' running statistics.
        """
        options = self.run.distill
        settings: dict[str, Any] = {
            # One for each group, whose features rewards compute once.
            "gt": gt[:: options.group_size],
            "lq": lq[:: options.group_size],
            "map_size": self.codec.latent_shape(lq)[2:] if options.spatial else None,
            "map_sigma": options.map_sigma,
            "parts": self.parts_of_rewards(len(image)),
            "counted": counted,
        }
        if reference is not None:
            difference, rewards, values = self.reward.compare(image, reference, **settings)
            return relative_advantage(difference, self.reward.difference_scale), rewards, values
        rewards, values = self.reward(image, group_size=options.group_size, **settings)
        floor = options.std_floor * self.reward.std_total
        return group_advantage(rewards, options.group_size, floor), rewards, values

    def parts_of_rewards(self, count: int) -> int:
        """Return the number of equal parts in which ``count`` images are scored, of whole groups."""
        groups, parts = count // self.run.distill.group_size, self.accumulate if self.reward.training else 1
        return parts if groups % parts == 0 else groups

    @property
    def greatest_advantage(self) -> float:
        """Return the upper bound of the advantage's absolute value."""
        options = self.run.distill
        return 1.0 if options.advantage == "teacher" else greatest_advantage(options.group_size)

    def adaptation(self, advantage: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Dynamic Score Adaptation (eq. 13)."""
        assert advantage is not None
        return score_adaptation(advantage, self.run.distill.adaptation_strength)

    def sharpening(self, advantage: Tensor | None) -> Tensor | None:
        """Repulsive Landscape Sharpening."""
        if advantage is None:
            return None
        strength = self.run.distill.sharpening_strength
        return sharpening_weight(advantage, strength, lambda weight: mean_of_all(weight.mean()))

    def after_validation(self, dataloader: Any) -> None:
        """Save maps of the advantage on the first images of the first validation set, for the report."""
        if self.zones_of != self.current_iter:
            save_zone_maps(self, dataloader, self.current_iter)
            self.zones_of = self.current_iter

    def reward_names(self) -> tuple[str, ...]:
        """Return the names of losses, and of rewards unless both strengths are 0."""
        options = self.run.distill
        weighed = options.adaptation_strength or options.sharpening_strength
        return tuple(sorted({*super().reward_names(), *(self.reward.names if weighed else ())}))

    def extra_state(self) -> dict[str, Any]:
        """Return the running statistics of the rewards and the last mean advantage."""
        own = {
            "reward": self.reward.state_dict(),
            "reward_names": self.reward.names,
            "mean_advantage": self.mean_advantage,
        }
        return {**super().extra_state(), **own}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`extra_state`; statistics of other rewards, or of none, begin anew."""
        super().load_extra_state(state)
        if state.get("reward_names") == self.reward.names:
            self.reward.load_state_dict(state["reward"])
            self.mean_advantage = state["mean_advantage"].to(self.device)


def _summaries(alpha: Tensor, beta: Tensor) -> dict[str, Tensor]:
    """Return summaries of alpha and beta over the batch, without rows of NaN, which are not matched."""
    values: dict[str, Tensor] = {}
    for name, weights in (("alpha", alpha), ("beta", beta)):
        weight = weights[~weights.isnan()]
        summary = {"mean": weight.mean(), "min": weight.min(), "max": weight.max(), "std": weight.std(correction=0)}
        values |= {f"amd__{name}_{key}": value for key, value in summary.items()}
    return values
