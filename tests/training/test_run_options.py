"""Options in a run: what its folder keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training_setup import StartWeights, load_started, make_data, run_command, run_training, write_options

from amd_restore.options import load_options


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> StartWeights:
    """Weights to start from."""
    return StartWeights(tmp_path_factory.mktemp("start"))


def miniature(folder: Path, starts: StartWeights, name: str = "regression_x4_classical") -> dict[str, Any]:
    """A run of two iterations with its data."""
    make_data(folder)
    return load_started(name, folder, starts, iterations=2)


def test_a_run_keeps_its_options_in_one_file(tmp_path: Path, starts: StartWeights) -> None:
    """Bases and overrides included; what several processes share is none of them."""
    options = miniature(tmp_path, starts)
    base = write_options({**options, "name": "below"}, tmp_path)
    forced = ["train:optim_g:lr=1e-05"]
    top = {"name": "top", "base": base.name, "datasets": {"train": {"batch_size_per_gpu": 4}}}
    shared = ["--shares", "datasets:train:batch_size_per_gpu=1"]
    result = run_training(top, tmp_path, "--force_yml", *forced, *shared)
    assert result.returncode == 0, result.stderr
    (kept,) = (tmp_path / "experiments" / "top").glob("*.yml")
    assert load_options(kept) == load_options(tmp_path / "top.yml", forced)
    assert "2 iterations of 1: " in result.stdout + result.stderr
    head = kept.read_text(encoding="utf-8").splitlines()[1]
    assert head.startswith(f"# {tmp_path / 'top.yml'} (with --force_yml") and str(base) in head


def test_another_optimizer_trains_and_goes_on(tmp_path: Path, starts: StartWeights) -> None:
    options = miniature(tmp_path, starts)
    options["train"]["optim_g"] = {"type": "SGD", "lr": 1e-3, "momentum": 0.9, "nesterov": True}
    for iterations in (2, 4):
        options["train"]["total_iter"] = iterations
        result = run_training(options, tmp_path, "--auto_resume")
        assert result.returncode == 0, result.stderr
    states = tmp_path / "experiments" / options["name"] / "training_states"
    moments = torch.load(states / "4.state", weights_only=True)["optimizers"][0]["state"]
    assert all(set(one) == {"momentum_buffer"} for one in moments.values()) and moments


PLUGIN = """
from torch import nn
from amd_restore.archs.flat_arch import FlatDenoiser
from amd_restore.data.crops_dataset import CropsDataset
from amd_restore.registry import ARCH_REGISTRY, DATASET_REGISTRY, METRIC_REGISTRY

@ARCH_REGISTRY.register()
class OutsideDenoiser(FlatDenoiser):
    def __init__(self, slope: float, in_channels: int = 48, cond_channels: int = 3, num_feat: int = 8) -> None:
        super().__init__(in_channels, cond_channels, num_feat, 1)
        for block in self.blocks:
            block.act = nn.LeakyReLU(slope)

@DATASET_REGISTRY.register()
class OutsideCrops(CropsDataset):
    def __len__(self):
        return 1

@METRIC_REGISTRY.register()
def calculate_brightness(img, img2, crop_border, **kwargs):
    return float(img.mean())
"""


def test_a_file_beside_the_options_extends_the_package(tmp_path: Path, starts: StartWeights) -> None:
    options = miniature(tmp_path, starts)
    (tmp_path / "extras").mkdir()
    (tmp_path / "extras" / "outside_of_it.py").write_text(PLUGIN, encoding="utf-8")
    options["plugins"] = ["extras/outside_of_it.py"]
    options["network_g"] = {"type": "OutsideDenoiser", "slope": 0.3}
    options["datasets"]["train"].update(type="OutsideCrops", num_worker_per_gpu=1)
    options["val"]["metrics"] = {"brightness": {"type": "calculate_brightness"}}
    options["path"].pop("pretrain_network_g", None)
    # By the real command: nobody else in this process has imported the file.
    result = run_command(options, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "1 training samples" in result.stderr + result.stdout and "brightness@1" in result.stderr + result.stdout
    folder = tmp_path / "experiments" / options["name"]
    assert str(tmp_path / "extras" / "outside_of_it.py") in (folder / f"{options['name']}.yml").read_text()
    options["network_g"]["slop"] = 0.3
    refused = run_command(options, tmp_path)
    assert refused.returncode == 2
    assert "network_g.slop: OutsideDenoiser has no such argument; did you mean 'slope'?" in refused.stderr
