"""Adaptive Matching Distillation: DMD that trusts its signals by how good each sample already is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from amd_restore.losses.amd import group_advantage, score_adaptation, sharpening_weight
from amd_restore.models.dmd_model import DMDModel
from amd_restore.registry import MODEL_REGISTRY
from amd_restore.rewards import build_rewards


@MODEL_REGISTRY.register()
class AMDModel(DMDModel):
    """AMD (2602.07345) of a conditional diffusion teacher; with both strengths 0 it is DMD bit for bit."""

    loss_name = "l_amd"

    def init_training_settings(self) -> None:
        """Build the rewards; their running deviations serve standardisation and ``std_floor``."""
        self.reward = build_rewards(self.opt.get("rewards") or [], self.device, self.run.distill.standardize_rewards)
        super().init_training_settings()

    def diagnose(self, image: Tensor, update_student: bool) -> Tensor | None:
        """Advantage of each sample in its group (eq. 12); rewards are skipped where nothing uses them."""
        options = self.run.distill
        if not update_student and options.sharpening_strength == 0:
            return None
        rewards, values = self.reward(image, gt=self.gt, lq=self.lq, group_size=options.group_size)  # (B,)
        floor = options.std_floor * self.reward.std_total
        advantage = group_advantage(rewards, options.group_size, floor)
        self.log(
            reward__total=rewards,
            reward__group_std=self.reward.std_total,
            amd__clipped_share=(advantage.abs() >= 1).float(),
            amd__forbidden_share=(advantage < 0).float(),
            **{f"reward__{name}": value for name, value in values.items()},
        )
        return advantage

    def adaptation(self, advantage: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Dynamic Score Adaptation (eq. 13)."""
        assert advantage is not None
        return score_adaptation(advantage, self.run.distill.adaptation_strength)

    def sharpening(self, advantage: Tensor | None) -> Tensor | None:
        """Repulsive Landscape Sharpening."""
        if advantage is None:
            return None
        return sharpening_weight(advantage, self.run.distill.sharpening_strength)

    def reward_names(self) -> tuple[str, ...]:
        """Rewards and anchoring loss."""
        return tuple(sorted({*super().reward_names(), *self.reward.names}))

    def extra_state(self) -> dict[str, Any]:
        """Running statistics of the rewards."""
        return {"reward": self.reward.state_dict()}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`extra_state`."""
        self.reward.load_state_dict(state["reward"])
