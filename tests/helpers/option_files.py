"""A small option file of a distillation, with changes, and how it is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from amd_restore.errors import AMDRestoreError
from amd_restore.options import load_options

OPTIONS = {
    "name": "toy",
    "model_type": "AMDModel",
    "scale": 4,
    "num_gpu": 0,
    "datasets": {"train": {"name": "toy", "type": "CropsDataset", "crops_file": "crops.npy", "gt_size": 32}},
    "codec": {"patch": 4, "std": 0.07},
    "diffusion": {"process": "rectified_flow"},
    "distill": {"num_steps": [1, 2], "step_weights": [0.5, 0.5]},
    "rewards": [{"type": "PSNRReward", "weight": 2}],
    "network_g": {"type": "FlatDenoiser", "num_feat": 8, "num_block": 1},
    "network_teacher": {"type": "FlatDenoiser"},
    "network_fake": {"type": "FlatDenoiser"},
    "path": {"pretrain_network_teacher": "teacher.pth"},
    "train": {
        "total_iter": 4,
        "optim_g": {"type": "Adam", "lr": 0.001},
        "optim_fake": {"type": "Adam", "lr": 0.002},
        "scheduler": {"type": "MultiStepLR", "milestones": [2]},
    },
    "val": {"val_freq": 2, "metrics": {"psnr": {"type": "calculate_psnr"}}},
}


def write(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """The options above as a file, with values at dotted keys replaced (None removes)."""
    content: Any = copy.deepcopy(OPTIONS)
    for dotted, value in (changes or {}).items():
        *parents, last = dotted.split(".")
        node = content
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
        if value is None:
            del node[last]
    file = folder / "toy.yml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def problem(file: Path, force: tuple[str, ...] = ()) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(AMDRestoreError) as caught:
        load_options(file, force)
    message = str(caught.value)
    assert "\n" not in message and str(file) in message
    return message
