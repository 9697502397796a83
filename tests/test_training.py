"""Training through the real command: every option file in miniature, exact resume, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from training_setup import REPOSITORY, TINY_NETWORK, load_miniature, make_data, run_training

TRAINING_FILES = sorted(path.stem for path in (REPOSITORY / "options" / "train").glob("*.yml"))


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> dict[str, str]:
    """A miniature teacher for each architecture that the option files use."""
    folder = tmp_path_factory.mktemp("teacher")
    make_data(folder)
    made = {}
    for name in ("regression_x4_classical", "teacher_x4_unet"):
        options = load_miniature(name, folder, iterations=2)
        result = run_training(options, folder)
        assert result.returncode == 0, result.stderr
        kind = options["network_g"]["type"]
        made[kind] = str(folder / "experiments" / options["name"] / "models" / "net_g_latest.pth")
    return made


def miniature(name: str, folder: Path, teachers: dict[str, str], iterations: int = 4) -> dict[str, Any]:
    make_data(folder)
    options = load_miniature(name, folder, iterations=iterations)
    teacher = teachers[options["network_g"]["type"]]
    return load_miniature(name, folder, teacher=teacher, iterations=iterations)


def weights(folder: Path, name: str, net: str = "net_g_latest") -> dict[str, torch.Tensor]:
    state = torch.load(folder / "experiments" / name / "models" / f"{net}.pth", weights_only=True)
    return {f"{key}.{k}": v for key, part in state.items() for k, v in part.items()}


@pytest.mark.parametrize("name", TRAINING_FILES)
def test_every_option_file_trains_in_miniature(name: str, tmp_path: Path, teachers: dict[str, str]) -> None:
    options = miniature(name, tmp_path, teachers)
    result = run_training(options, tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    models = tmp_path / "experiments" / options["name"] / "models"
    assert (models / "net_g_latest.safetensors").is_file()
    first, last = weights(tmp_path, options["name"], "net_g_2"), weights(tmp_path, options["name"])
    assert any(not torch.equal(first[k], last[k]) for k in first), "training changed nothing"
    assert "psnr@1" in result.stderr + result.stdout
    assert list((tmp_path / "experiments" / options["name"] / "visualization").rglob("panel_*.png"))


@pytest.mark.parametrize("name", ["teacher_x4_classical", "amd_x4_classical", "amd_x4_real"])
def test_resume_equals_the_straight_run(name: str, tmp_path: Path, teachers: dict[str, str]) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    for folder in (straight, resumed):
        folder.mkdir()
    options = miniature(name, straight, teachers, iterations=4)
    assert run_training(options, straight).returncode == 0
    options = miniature(name, resumed, teachers, iterations=4)
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


def test_a_damaged_state_is_refused(tmp_path: Path, teachers: dict[str, str]) -> None:
    options = miniature("teacher_x4_classical", tmp_path, teachers, iterations=2)
    assert run_training(options, tmp_path).returncode == 0
    state = tmp_path / "experiments" / options["name"] / "training_states" / "2.state"
    state.write_bytes(state.read_bytes()[:1000])
    result = run_training(options, tmp_path, "--auto_resume")
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "2.state" in result.stderr and "Traceback" not in result.stderr


def test_damaged_and_foreign_weights_are_refused(tmp_path: Path, teachers: dict[str, str]) -> None:
    options = miniature("teacher_x4_classical", tmp_path, teachers)
    whole = Path(options["path"]["pretrain_network_g"])
    half = tmp_path / "half.pth"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    for path, change in ((half, {}), (whole, {"num_feat": 16})):
        options["path"]["pretrain_network_g"] = str(path)
        options["network_g"].update(change)
        result = run_training(options, tmp_path)
        assert result.returncode == 2 and "Traceback" not in result.stderr
        assert str(path) in result.stderr.strip().splitlines()[-1]


def test_a_mistyped_metric_is_found_before_training(tmp_path: Path, teachers: dict[str, str]) -> None:
    options = miniature("regression_x4_classical", tmp_path, teachers)
    options["val"]["metrics"]["psnr"]["type"] = "calculate_pnsr"
    result = run_training(options, tmp_path)
    assert result.returncode == 2 and "calculate_psnr" in result.stderr and "Traceback" not in result.stderr


def test_the_test_command_measures_and_saves(tmp_path: Path, teachers: dict[str, str]) -> None:
    make_data(tmp_path)
    text = (REPOSITORY / "options" / "test" / "x4_classical.yml").read_text(encoding="utf-8")
    options = yaml.safe_load(text)
    options["network_g"] = dict(TINY_NETWORK)
    options["path"]["pretrain_network_g"] = teachers["FlatDenoiser"]
    options["datasets"] = {"test_1": {"name": "tiny", "type": "GTDataset", "dataroot_gt": str(tmp_path / "val")}}
    result = run_training(options, tmp_path, script="test.py")
    assert result.returncode == 0, result.stderr
    assert "psnr@4" in result.stdout + result.stderr
    assert len(list((tmp_path / "results").rglob("*_1step.png"))) == 2


def test_missing_gpus_and_unknown_keys_are_one_line(tmp_path: Path, teachers: dict[str, str]) -> None:
    options = miniature("teacher_x4_classical", tmp_path, teachers)
    if torch.cuda.device_count() < 4:
        options["num_gpu"] = 4
        result = run_training(options, tmp_path)
        assert result.returncode == 2 and "num_gpu: 4" in result.stderr and "Traceback" not in result.stderr
    options["num_gpu"] = 0
    options["train"]["ema_decya"] = 0.9
    result = run_training(options, tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "ema_decya" in result.stderr and "ema_decay" in result.stderr and options["name"] in result.stderr
