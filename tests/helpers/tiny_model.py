"""A student of a few thousand random weights, for tests that need some network and not a good one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amd_restore.archs.flat_arch import FlatDenoiser
from amd_restore.weights import Header, save_checkpoint

NUM_FEAT, NUM_BLOCK = 8, 1


def tiny_header(**changes: Any) -> Header:
    """Header of the tiny student, with some values changed."""
    values: dict[str, Any] = {
        "name": "tiny",
        "kind": "student",
        "scale": 4,
        "network": {"type": "FlatDenoiser", "num_feat": NUM_FEAT, "num_block": NUM_BLOCK},
        "codec": {"type": "residual", "scale": 4, "patch": 4, "std": 0.07},
        "process": {"type": "rectified_flow"},
        "prediction_type": "v",
        "steps": (1, 2, 4),
        "default_steps": 1,
        "rewards": ("lpips",),
        "numbers": {"Set14": {"psnr_y": 26.0}},
    }
    return Header(**(values | changes))


def tiny_state(num_block: int = NUM_BLOCK, in_channels: int = 48, cond_channels: int = 3) -> dict[str, Tensor]:
    """Weights that answer with about unit variance, and to which every layer contributes.

    Residual branches get a third of the usual gain: at full gain the reach of a deep network is far longer than
    that of any trained one.
    """
    return randomised(lambda: FlatDenoiser(in_channels, cond_channels, NUM_FEAT, num_block)).state_dict()


def randomised(build: Callable[[], nn.Module]) -> nn.Module:
    """A network with such weights, the same in every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build()
        for name, module in net.named_modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                gain = 0.3 if name.endswith("conv2") else 1.0
                nn.init.normal_(module.weight, std=gain * fan_in**-0.5)
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
    return net


def save_tiny(path: Path, **changes: Any) -> Path:
    """Write the tiny student to ``path`` and return it."""
    header = tiny_header(**changes)
    options = {key: value for key, value in header.network.items() if key not in ("type", "num_feat")}
    save_checkpoint(path, tiny_state(**options), header)
    return path
