"""Rewards of restored images, or of locations in them; higher is always better."""

from __future__ import annotations

from amd_restore.rewards.complexity_reward import ComplexityReward, complexity
from amd_restore.rewards.fidelity_reward import ConsistencyReward, L1Reward, LPIPSReward, PSNRReward
from amd_restore.rewards.lpips_net import build_lpips
from amd_restore.rewards.perceptual_reward import DISTSReward, EfficientNetReward
from amd_restore.rewards.pyiqa_reward import PyIQAReward
from amd_restore.rewards.quality_reward import BRISQUEReward, NIQEReward
from amd_restore.rewards.reward import BaseReward, Reward
from amd_restore.rewards.reward_sum import RewardSum, build_rewards

__all__ = [
    "BRISQUEReward",
    "BaseReward",
    "ComplexityReward",
    "ConsistencyReward",
    "DISTSReward",
    "EfficientNetReward",
    "L1Reward",
    "LPIPSReward",
    "NIQEReward",
    "PSNRReward",
    "PyIQAReward",
    "Reward",
    "RewardSum",
    "build_lpips",
    "build_rewards",
    "complexity",
]
