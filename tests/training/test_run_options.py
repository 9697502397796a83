"""Options in a run: what its folder keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training_setup import StartWeights, load_started, make_data, run_training, write_options

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
