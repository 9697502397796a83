"""Rewards: how good each restored image is; higher is better, always, and no gradient flows."""

from __future__ import annotations

from amd_restore.rewards.fidelity_reward import ConsistencyReward, LPIPSReward, PSNRReward
from amd_restore.rewards.lpips_net import build_lpips
from amd_restore.rewards.quality_reward import NIQEReward, PyIQAReward
from amd_restore.rewards.reward import Reward, RewardSum, build_rewards

__all__ = [
    "ConsistencyReward",
    "LPIPSReward",
    "NIQEReward",
    "PSNRReward",
    "PyIQAReward",
    "Reward",
    "RewardSum",
    "build_lpips",
    "build_rewards",
]
