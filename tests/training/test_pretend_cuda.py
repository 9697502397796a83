"""Training, inference and rewards on a pretended CUDA device: nothing is left behind on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from places import REPOSITORY
from pretend_cuda import forget_networks, pretend_cuda
from reward_setup import save_random_vgg
from tiny_model import save_tiny
from training_setup import StartWeights, load_started, make_data, run_training

from amd_restore.options import OptionFile
from amd_restore.pipeline import RestorationPipeline
from amd_restore.postprocess import AdainFix, Consistency, SampleStatistics, WaveletFix, expected_error, heat_map
from amd_restore.registry import REWARD_REGISTRY, register_all
from amd_restore.rewards import build_rewards


def parts_of_training(path: Path) -> set[tuple[str, Any]]:
    """Types of networks, data and losses of an option file, and its switches, each with the ``model_type``."""
    content = OptionFile.read(path).content
    blocks = {key: value for key, value in content.items() if isinstance(value, dict)}
    lists = {key: content.get(key) or [] for key in ("losses", "rewards", "fake_losses")}
    parts: set[Any] = {
        *((key, block["type"]) for key, block in blocks.items() if "type" in block),
        *((key, entry["type"]) for key, entries in lists.items() for entry in entries),
        *(item for item in blocks.get("distill", {}).items() if isinstance(item[1], bool | str)),
        *(("degradation", key) for key in content.get("degradation", {})),
        *((key, bool(content["train"].get(key))) for key in ("scheduler", "time_limit", "accumulate")),
        ("process", blocks["diffusion"].get("process")),
        ("scale", content["scale"]),
    }
    return {(content["model_type"], part) for part in parts}


def kinds_of_training() -> list[str]:
    """Few option files of ``options/train`` that together have all parts of all of them."""
    files = {path.stem: parts_of_training(path) for path in sorted((REPOSITORY / "options" / "train").glob("*.yml"))}
    left, chosen = set().union(*files.values()), []
    while left:
        chosen.append(max(files, key=lambda name: len(files[name] & left)))
        left -= files[chosen[-1]]
    return sorted(chosen)


REWARDS: list[dict[str, Any]] = [
    {"type": "LPIPSReward", "net": "squeeze"},
    {"type": "LPIPSReward", "net": "alex"},
    {"type": "EfficientNetReward", "variant": "lite1"},
    *({"type": name} for name in ("PSNRReward", "L1Reward", "ConsistencyReward", "NIQEReward", "BRISQUEReward")),
    {"type": "DISTSReward"},
    {"type": "ComplexityReward"},
]
ELSEWHERE = {"PyIQAReward"}  # networks of another package


@pytest.fixture(scope="module", autouse=True)
def fresh_networks() -> Iterator[None]:
    yield
    forget_networks()


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> StartWeights:
    return StartWeights(tmp_path_factory.mktemp("start"))


def test_the_pretended_device_refuses_what_cuda_refuses() -> None:
    here = torch.ones(3)
    with pretend_cuda():
        there = here.to("cuda")
        assert there.is_cuda and not here.is_cuda and (2.0 * there)[1:].device.type == "cuda"
        assert there.cpu().numpy().sum() == 3.0 and torch.equal(there.cpu(), here)
        for mix in (lambda: here + there, lambda: torch.cat([here, there]), lambda: there.add_(here)):
            with pytest.raises(RuntimeError, match="same device"):
                mix()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, device="cuda", generator=torch.Generator())
        assert torch.rand(3, device="cuda", generator=torch.Generator("cuda")).is_cuda
        layer = torch.nn.Linear(3, 2).to("cuda")
        layer(there).sum().backward()
        torch.optim.Adam(layer.parameters()).step()
        assert layer.weight.grad is not None and layer.weight.grad.is_cuda
        with pytest.raises(RuntimeError, match="same device"):
            layer(here)


@pytest.mark.parametrize("name", kinds_of_training())
def test_every_kind_of_training_runs_on_cuda(name: str, tmp_path: Path, starts: StartWeights) -> None:
    """Up to a state in the middle of a window of the log, then on from it."""
    make_data(tmp_path)
    options = load_started(name, tmp_path, starts, iterations=3)
    options["logger"].update(print_freq=3, save_checkpoint_freq=2)
    lpips = {key: value for key, value in options["val"]["metrics"].items() if key == "lpips"}
    options["val"].update(val_freq=3, num_steps=[2], metrics=lpips)
    with pretend_cuda():
        halted = run_training(options, tmp_path, "--force_yml", "train:total_iter=2")
        assert halted.returncode == 0, halted.stderr[-3000:]
        result = run_training(options, tmp_path, "--auto_resume")
    assert result.returncode == 0 and "iter: 2." in result.stderr, result.stderr[-3000:]
    log = next((tmp_path / "experiments").rglob("diagnostics.jsonl")).read_text(encoding="utf-8")
    assert '"iter": 3' in log, "the window that was resumed"
    assert "num_gpu: 1" in result.stderr and "bf16 is off" not in result.stderr


@pytest.mark.parametrize("block", REWARDS, ids=lambda block: "-".join(map(str, block.values())))
def test_rewards_and_their_losses_stay_on_cuda(
    block: dict[str, Any], assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if block["type"] == "DISTSReward":
        save_random_vgg(tmp_path / "weights")
        monkeypatch.setenv("AMD_RESTORE_ASSETS", str(tmp_path))
    with pretend_cuda():
        rewards = build_rewards([block], "cuda", standardize=True)
        sr, gt = (torch.rand(2, 3, 96, 96, device="cuda") for _ in range(2))
        lq = torch.rand(2, 3, 24, 24, device="cuda")
        total, values = rewards(sr, gt=gt, lq=lq, group_size=2)
        fields, _ = rewards(sr, gt=gt, lq=lq, group_size=2, map_size=(24, 24), map_sigma=1.0)
        assert total.is_cuda and fields.is_cuda and all(value.is_cuda for value in values.values())
        reward = rewards.rewards[0]
        if reward.differentiable:
            reward.loss(sr.requires_grad_(), gt=gt, lq=lq).sum().backward()
            assert sr.grad is not None and sr.grad.is_cuda
        resumed = build_rewards([block], "cuda", standardize=True)
        resumed.load_state_dict({key: value.cpu() for key, value in rewards.state_dict().items()})
        resumed(sr.detach(), gt=gt, lq=lq, group_size=2)


def test_no_reward_is_left_out() -> None:
    register_all()
    ours = {name for name in REWARD_REGISTRY if REWARD_REGISTRY.get(name).__module__.startswith("amd_restore.")}
    assert {block["type"] for block in REWARDS} | ELSEWHERE == ours


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_inference_takes_and_gives_pictures_of_either_device(place: str, tmp_path: Path) -> None:
    """In bfloat16, whole and in tiles, with every control of the sampling and of the result."""
    weights = save_tiny(tmp_path / "tiny.safetensors")
    calls: list[dict[str, Any]] = [{}, {"tile": 16}, {"num_steps": 2, "seed": [3, 4]}, {"fidelity": 0.5}, {"tta": True}]
    calls += [{"tile": 16, "post": Consistency(4)}, {"post": WaveletFix(4)}]
    with pretend_cuda():
        pipeline = RestorationPipeline.from_pretrained(weights, "auto")
        assert pipeline.device.type == "cuda" and pipeline.dtype == torch.bfloat16
        lq = torch.rand(2, 3, 24, 28, generator=torch.Generator().manual_seed(0)).to(place)
        statistics = SampleStatistics()
        for options in calls:
            sr = pipeline(lq, **options)
            assert sr.shape == (2, 3, 96, 112) and sr.device.type == place
            statistics.add(sr)
        assert heat_map(expected_error(statistics.std)).device.type == place
        fixed = AdainFix.of(sr, lq, 4)(sr, lq)
        assert fixed.device.type == place and (fixed - sr).abs().max() > 0


def test_pictures_of_numpy_are_restored_on_cuda(tmp_path: Path) -> None:
    weights = save_tiny(tmp_path / "tiny.safetensors")
    with pretend_cuda():
        pipeline = RestorationPipeline.from_pretrained(weights, "cuda")
        for shape, kind in (((24, 28, 3), np.uint8), ((24, 28, 4), np.uint16), ((24, 28), np.uint8)):
            picture = np.full(shape, 100, kind)
            assert pipeline.restore_image(picture, tile=16).shape == (96, 112, *shape[2:])
