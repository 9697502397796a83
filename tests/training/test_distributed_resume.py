"""A run goes on with another number of processes as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from distributed_setup import IMAGES, UNSTEADY, difference, make_options, make_weights, torchrun
from places import REPOSITORY
from training_setup import make_data, run_training

from amd_restore.errors import AMDRestoreError
from amd_restore.registry import import_basicsr
from amd_restore.training.resume import load_resume_state

TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    make_data(folder)
    make_weights(folder)
    return folder


def make_run(place: Path, recipe: str, name: str, total: int, **changes: Any) -> dict[str, Any]:
    """Options of a run that logs at its end only, and validates there."""
    options = make_options(place, recipe, name, **changes)
    options["train"]["total_iter"] = total
    options["logger"].update(print_freq=2, save_checkpoint_freq=2)
    psnr = options["val"]["metrics"]["psnr"]
    options["val"].update(val_freq=10 * total, num_steps=[1], metrics={"psnr": psnr}, panels=0)
    return options


def go_on(options: dict[str, Any], place: Path, until: int, processes: int) -> None:
    """Train ``options`` up to an iteration with so many processes that share its images."""
    overrides = [f"train:total_iter={until}", f"datasets:train:batch_size_per_gpu={IMAGES // processes}"]
    if processes == 1:
        result = run_training(options, place, "--auto_resume", "--force_yml", *overrides)
        assert result.returncode == 0, result.stderr[-3000:]
        return
    file = place / f"{options['name']}.yml"
    file.write_text(yaml.safe_dump(options), encoding="utf-8")
    script = [str(REPOSITORY / "amd_restore" / "train.py"), "-opt", str(file), "--launcher", "pytorch"]
    run = torchrun([*script, "--auto_resume", "--force_yml", *overrides], place, processes)
    _, errors = run.communicate(timeout=240)
    assert run.returncode == 0, errors[-3000:]


def left_by(place: Path, name: str, iteration: int) -> dict[str, Any]:
    """All files of a run, as tensors and rows."""
    root = place / "experiments" / name
    found: dict[str, Any] = {
        path.name: torch.load(path, weights_only=True) for path in sorted(root.glob(f"models/net_*_{iteration}.pth"))
    }
    state = torch.load(root / f"training_states/{iteration}.state", weights_only=True)
    found["optimizers"] = [optimizer["state"] for optimizer in state["optimizers"]]
    found |= {"schedulers": state["schedulers"], "extra": state["extra"]}
    rows = [json.loads(line) for line in (root / "diagnostics.jsonl").read_text(encoding="utf-8").splitlines()]
    values = [row["values"] for row in rows if "values" in row]
    found["logs"] = [{key: value for key, value in row.items() if key not in UNSTEADY} for row in values]
    return found


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    differences = {key: difference(found[key], expected[key]) for key in expected}
    assert found.keys() == expected.keys() and len(expected["logs"]) > 1
    # Logs and gradients hold quotients of differences of nearly equal numbers.
    assert max(differences.pop("logs"), differences.pop("optimizers")) <= 100 * TOLERANCE, differences
    assert max(differences.values()) <= TOLERANCE, differences


def test_two_then_one_then_two_processes_equal_the_straight_run(place: Path) -> None:
    straight = make_run(place, "amd_x4_classical", "straight", 6)
    changing = make_run(place, "amd_x4_classical", "changing", 6)
    for until, processes in ((2, 2), (4, 1), (6, 2)):
        go_on(changing, place, until, processes)
    go_on(straight, place, 6, 1)
    assert_equal(left_by(place, "changing", 6), left_by(place, "straight", 6))
    assert (place / "experiments/changing/models/net_g_latest.safetensors").is_file()


def test_a_resume_with_another_batch_is_refused(place: Path) -> None:
    state = place / "4.state"
    torch.save({"iter": 4, "batch": {"processes": 2, "images": 2}}, state)
    import_basicsr()
    options: dict[str, Any] = {"dist": True, "num_gpu": 0, "world_size": 3, "auto_resume": False}
    options["path"] = {"resume_state": str(state), "training_states": ""}
    options["datasets"] = {"train": {"batch_size_per_gpu": 1}}
    problem = r"4\.state: was trained with 4 images per iteration \(2 processes x 2\), this run has 3 \(3 x 1\); use a "
    with pytest.raises(AMDRestoreError, match=problem):
        load_resume_state(options)
    options["world_size"] = 2
    with pytest.raises(AMDRestoreError, match="has 2 .2 x 1.; set datasets.train.batch_size_per_gpu to 2"):
        load_resume_state(options)
