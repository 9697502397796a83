"""Training as the command does it: every option file in miniature, exact resume, refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from places import REPOSITORY
from smooth_images import smooth_image
from training_setup import (
    NIQE_SIDE,
    TINY_NETWORK,
    StartWeights,
    load_started,
    make_data,
    run_command,
    run_training,
)

from amd_restore.archs.flat_arch import FlatDenoiser
from amd_restore.benchmark.__main__ import main as measure
from amd_restore.image_io import Picture, write_image
from amd_restore.models.persistence import BASE_KEY
from amd_restore.options import OptionFile
from amd_restore.pipeline import RestorationPipeline
from amd_restore.weights import read_header, resolve_weights

WITH_NIQE = ("amd_x4_classical", "amd_x4_real")  # also in the miniature runs, as in the option files
TRAINING_FILES = sorted(path.stem for path in (REPOSITORY / "options" / "train").glob("*.yml"))


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> StartWeights:
    """Weights to start from."""
    return StartWeights(tmp_path_factory.mktemp("start"))


def miniature(name: str, folder: Path, starts: StartWeights, iterations: int = 4, gt_size: int = 48) -> dict[str, Any]:
    make_data(folder)
    return load_started(name, folder, starts, iterations=iterations, gt_size=gt_size)


def weights(folder: Path, name: str, net: str = "net_g_latest") -> dict[str, torch.Tensor]:
    state = torch.load(folder / "experiments" / name / "models" / f"{net}.pth", weights_only=True)
    return {f"{key}.{k}": v for key, part in state.items() if key != BASE_KEY for k, v in part.items()}


@pytest.mark.parametrize("name", TRAINING_FILES)
def test_every_option_file_trains_in_miniature(name: str, tmp_path: Path, starts: StartWeights) -> None:
    options = miniature(name, tmp_path, starts, gt_size=NIQE_SIDE if name in WITH_NIQE else 48)
    assert ("NIQEReward" in str(options.get("rewards"))) == (name in WITH_NIQE)
    result = run_training(options, tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    models = tmp_path / "experiments" / options["name"] / "models"
    assert (models / "net_g_latest.safetensors").is_file()
    first, last = weights(tmp_path, options["name"], "net_g_2"), weights(tmp_path, options["name"])
    assert any(not torch.equal(first[k], last[k]) for k in first), "training changed nothing"
    assert "psnr@1" in result.stderr + result.stdout
    assert list((tmp_path / "experiments" / options["name"] / "visualization").rglob("panel_*.png"))


@pytest.mark.parametrize("scale", [2, 1])
def test_exported_weights_of_other_scales_restore_any_size(scale: int, tmp_path: Path, starts: StartWeights) -> None:
    options = miniature(f"perceptual_x{scale}_real_gpu", tmp_path, starts, iterations=2)
    assert run_training(options, tmp_path).returncode == 0
    file = tmp_path / "experiments" / options["name"] / "models" / "net_g_latest.safetensors"
    pipeline = RestorationPipeline.from_pretrained(file, "cpu", torch.float32)
    header = pipeline.header
    assert header.scale == scale and header.degradation == "second_order" and header.codec["patch"] == 4
    assert header.network["cond_channels"] == 3 * (4 // scale) ** 2
    for height, width in ((33, 21), (32, 40), (1, 7)):
        image = np.resize(smooth_image(0), (height, width, 3))
        for steps in (1, 2):
            sr = pipeline.restore_image(image, num_steps=steps)
            assert sr.shape == (scale * height, scale * width, 3)
        tiled = pipeline.restore_image(image, num_steps=1, tile=16, halo=pipeline.reach(1))
        assert np.abs(tiled.astype(int) - pipeline.restore_image(image, num_steps=1, tile=0)).max() <= 1
    metrics = ["psnr_y", "ssim_y", "consistency"]
    write_image(tmp_path / "gt/odd.png", Picture(smooth_image(1)[:47, :61]))
    benchmark: dict[str, Any] = {"name": "other", "scale": scale, "seeds": [0], "metrics": metrics, "crop_border": 2}
    benchmark["datasets"] = {"A": {"gt": str(tmp_path / "gt")}}
    if scale == 1:
        write_image(tmp_path / "lq/odd.png", Picture(smooth_image(1)[1:48, 1:62]))
        benchmark["datasets"]["A"]["lq"] = str(tmp_path / "lq")
    benchmark["methods"] = [{"name": "bicubic", "type": "bicubic"}, {"name": "AMD", "weights": [str(file)]}]
    (tmp_path / "other.yml").write_text(yaml.safe_dump(benchmark), encoding="utf-8")
    assert measure(["-opt", str(tmp_path / "other.yml"), "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out/other.json").read_text(encoding="utf-8"))["results"]
    assert all(np.isfinite(one["values"][name]).all() for one in results for name in metrics)


def test_validation_of_pairs_takes_odd_sizes(tmp_path: Path, starts: StartWeights) -> None:
    options = miniature("perceptual_x1_real_gpu", tmp_path, starts, iterations=2)
    for side in ("gt", "lq"):
        write_image(tmp_path / side / "a.png", Picture(np.resize(smooth_image(2), (107, 203, 3))))
    pairs = {"dataroot_gt": str(tmp_path / "gt"), "dataroot_lq": str(tmp_path / "lq")}
    options["datasets"]["val"].update(pairs)
    result = run_training(options, tmp_path)
    assert result.returncode == 0 and "psnr@1" in result.stderr + result.stdout, result.stderr


def test_a_tiny_student_learns_from_a_larger_teacher(tmp_path: Path, starts: StartWeights) -> None:
    name = "amd_x4_classical_tiny"
    whole = OptionFile.read(REPOSITORY / "options" / "train" / f"{name}.yml").content

    def parameters(block: dict[str, Any]) -> int:
        net = FlatDenoiser(**{key: value for key, value in block.items() if key != "type"})
        return sum(p.numel() for p in net.parameters())

    assert 300_000 <= parameters(whole["network_g"]) <= 500_000
    assert parameters(whole["network_teacher"]) == parameters(whole["network_fake"]) > 1_200_000
    released = read_header(resolve_weights(Path(whole["path"]["pretrain_network_teacher"]).stem))
    assert released.codec["std"] == whole["codec"]["std"] and released.network["num_feat"] == 64
    options = miniature(name, tmp_path, starts, iterations=4)
    assert options["network_g"]["num_feat"] < options["network_fake"]["num_feat"]
    assert options["path"]["pretrain_network_g"] != options["path"]["pretrain_network_teacher"]
    assert run_training(options, tmp_path).returncode == 0
    first, last = (weights(tmp_path, options["name"], f"net_fake_{number}") for number in (2, 4))
    assert any(not torch.equal(first[key], last[key]) for key in first)


@pytest.mark.parametrize("name", ["teacher_x4_classical", "amd_x4_classical", "amd_x4_real"])
def test_resume_equals_the_straight_run(name: str, tmp_path: Path, starts: StartWeights) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    for folder in (straight, resumed):
        folder.mkdir()
    options = miniature(name, straight, starts, iterations=4)
    assert run_training(options, straight).returncode == 0
    options = miniature(name, resumed, starts, iterations=4)
    # Stopped after iteration 3: the newest state is that of iteration 2, in the middle of a pass.
    halted = run_training(options, resumed, "--force_yml", "train:total_iter=3")
    assert halted.returncode == 0, halted.stderr
    result = run_training(options, resumed, "--auto_resume")
    assert result.returncode == 0, result.stderr
    assert "Resuming training from epoch: 0, iter: 2" in result.stdout + result.stderr
    a, b = weights(straight, options["name"]), weights(resumed, options["name"])
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key
    states = [
        torch.load(f / "experiments" / options["name"] / "training_states" / "4.state", weights_only=True)
        for f in (straight, resumed)
    ]
    assert_same(states[0], states[1])


def assert_same(a: Any, b: Any, where: str = "state") -> None:
    """Equality of nested states, bit for bit."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{index}]")
    else:
        assert a == b, where


def test_a_damaged_state_is_refused(tmp_path: Path, starts: StartWeights) -> None:
    options = miniature("teacher_x4_classical", tmp_path, starts, iterations=2)
    assert run_command(options, tmp_path).returncode == 0
    state = tmp_path / "experiments" / options["name"] / "training_states" / "2.state"
    state.write_bytes(state.read_bytes()[:1000])
    result = run_command(options, tmp_path, "--auto_resume")
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "2.state" in result.stderr and "Traceback" not in result.stderr


def test_damaged_and_foreign_weights_are_refused(tmp_path: Path, starts: StartWeights) -> None:
    options = miniature("teacher_x4_classical", tmp_path, starts)
    whole = Path(options["path"]["pretrain_network_g"])
    half = tmp_path / "half.pth"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    for path, change in ((half, {}), (whole, {"num_feat": 16})):
        options["path"]["pretrain_network_g"] = str(path)
        options["network_g"].update(change)
        result = run_training(options, tmp_path)
        assert result.returncode == 2 and "Traceback" not in result.stderr
        assert str(path) in result.stderr.strip().splitlines()[-1]


def test_a_mistyped_metric_is_found_before_training(tmp_path: Path, starts: StartWeights) -> None:
    options = miniature("regression_x4_classical", tmp_path, starts)
    options["val"]["metrics"]["psnr"]["type"] = "calculate_pnsr"
    result = run_training(options, tmp_path)
    assert result.returncode == 2 and "calculate_psnr" in result.stderr and "Traceback" not in result.stderr


def test_the_test_command_measures_and_saves(tmp_path: Path, starts: StartWeights) -> None:
    make_data(tmp_path)
    text = (REPOSITORY / "options" / "test" / "x4_classical.yml").read_text(encoding="utf-8")
    options = yaml.safe_load(text)
    options["network_g"] = dict(TINY_NETWORK)
    options["path"]["pretrain_network_g"] = starts.of(TINY_NETWORK)
    options["val"]["metrics"]["psnr"].pop("crop_border")  # 0, as docs/options.md says
    options["datasets"] = {"test_1": {"name": "tiny", "type": "GTDataset", "dataroot_gt": str(tmp_path / "val")}}
    result = run_command(options, tmp_path, script="test.py", python=sys.executable)  # and what it imports
    assert result.returncode == 0, result.stderr
    assert "psnr@4" in result.stdout + result.stderr
    assert len(list((tmp_path / "results").rglob("*_1step.png"))) == 2


def test_missing_gpus_and_unknown_keys_are_one_line(tmp_path: Path, starts: StartWeights) -> None:
    options = miniature("teacher_x4_classical", tmp_path, starts)
    if torch.cuda.device_count() < 4:
        options["num_gpu"] = 4
        result = run_training(options, tmp_path)
        assert result.returncode == 2 and "num_gpu: 4" in result.stderr and "Traceback" not in result.stderr
    options["num_gpu"] = 0
    options["train"]["ema_decya"] = 0.9
    result = run_training(options, tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "ema_decya" in result.stderr and "ema_decay" in result.stderr and options["name"] in result.stderr
