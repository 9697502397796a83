"""Going on: with a longer schedule, after the warm-up, and from weights that were trained otherwise."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from test_mistakes import miniature, refused, starts  # noqa: F401
from tiny_model import save_tiny, tiny_header, tiny_state
from training_setup import StartWeights, build_model, run_training

from amd_restore.archs.flat_arch import FlatDenoiser
from amd_restore.diffusion import build_codec, build_process
from amd_restore.errors import AMDRestoreError
from amd_restore.models.persistence import check_latents, lost_options
from amd_restore.weights import save_checkpoint


def test_a_run_is_extended_with_its_schedule(tmp_path: Path, starts: StartWeights) -> None:  # noqa: F811
    options = miniature(tmp_path, starts)
    options["train"]["scheduler"] = {"type": "CosineAnnealingRestartLR", "periods": [2], "restart_weights": [1]}
    options["train"].pop("warmup_iter")
    assert run_training(options, tmp_path).returncode == 0
    options["train"]["scheduler"]["periods"] = [6]
    options["train"]["total_iter"] = 6
    options["logger"]["print_freq"] = 1
    result = run_training(options, tmp_path, "--auto_resume")
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert "changed since the last session: train.scheduler.periods: [2] -> [6] (from here on)" in said
    rates = [float(rate) for rate in re.findall(r"lr:\((\S+),\)", said)]
    first = options["train"]["optim_g"]["lr"]
    expected = [first * (1 + math.cos(math.pi * iteration / 6)) / 2 for iteration in range(2, 6)]
    assert rates[-4:] == pytest.approx(expected, rel=0.01)


def test_a_rate_reaches_its_value_after_the_warm_up(tmp_path: Path, starts: StartWeights) -> None:  # noqa: F811
    options = miniature(tmp_path, starts)
    options["train"]["scheduler"] = {"type": "MultiStepLR", "milestones": [2, 6], "gamma": 0.5}
    model = build_model(options, tmp_path)
    rates = []
    for iteration in range(1, 8):
        model.update_learning_rate(iteration, warmup_iter=4)
        rates.append(model.get_current_learning_rate()[0] / options["train"]["optim_g"]["lr"])
    assert rates == pytest.approx([0.25, 0.5, 0.75, 0.5, 0.5, 0.5, 0.25])


def test_a_teacher_of_other_latents_is_refused(tmp_path: Path) -> None:
    header = tiny_header()
    codec, process = build_codec(header.codec), build_process(header.process)
    file = save_tiny(tmp_path / "teacher.safetensors")
    check_latents(file, codec, process, "v")
    with pytest.raises(AMDRestoreError, match=r"a teacher with prediction_type v, this run has eps$"):
        check_latents(file, codec, process, "eps")
    save_tiny(file, codec={**header.codec, "std": 0.1})
    with pytest.raises(AMDRestoreError, match=r"a teacher with codec.std 0.1, this run has 0.07$"):
        check_latents(file, codec, process, "v")


def test_what_the_file_of_a_start_says_is_used(tmp_path: Path, starts: StartWeights) -> None:  # noqa: F811
    """A teacher of other latents ends the run before it begins; an option that is lost is said."""
    options = miniature(tmp_path, starts, "amd_x4_classical")
    network, teacher = options["network_teacher"], options["path"]["pretrain_network_teacher"]
    state = torch.load(teacher, weights_only=True)["params"]
    codec = {"type": "residual", "scale": 4, "patch": 4, "std": options["codec"]["std"]}
    file = tmp_path / "start.safetensors"
    save_checkpoint(file, state, tiny_header(network=network | {"first_gain": 1.1}, codec=codec | {"std": 0.5}))
    options["path"]["pretrain_network_teacher"] = str(file)
    assert "a teacher with codec.std 0.5, this run has" in refused(options, tmp_path)

    options["path"]["pretrain_network_teacher"] = teacher
    options["path"]["pretrain_network_g"] = str(file)
    options["network_g"] = network
    result = run_training(options, tmp_path)
    said = result.stdout + result.stderr
    assert result.returncode == 0 and "network_g.first_gain: the weights of start.safetensors have 1.1" in said, said


def test_options_that_have_no_weights_are_said(tmp_path: Path) -> None:
    network = {**tiny_header().network, "first_gain": 1.1}
    file = tmp_path / "student.safetensors"
    save_checkpoint(file, tiny_state(), tiny_header(network=network))
    (line,) = lost_options(file, FlatDenoiser, tiny_header().network)
    assert line == "network_g.first_gain: the weights of student.safetensors have 1.1, this run 1.0"
    assert lost_options(file, FlatDenoiser, network) == []
    save_checkpoint(file, tiny_state(), tiny_header())
    (line,) = lost_options(file, FlatDenoiser, network)
    assert line == "network_g.first_gain: the weights of student.safetensors have 1.0, this run 1.1"
