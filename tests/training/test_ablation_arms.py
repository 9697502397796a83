"""The arms of the ablations of one step, in miniature: every one trains, and its advantage is what its name says."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from places import REPOSITORY
from test_distillation import feed, snapshot
from training_setup import StartWeights, build_model, shrink

from amd_restore.benchmark.ablation.options import load_ablation_options
from amd_restore.benchmark.ablation.runs import TrainingRun, plan

RUNS = [
    run
    for name in ("one_step", "one_step_rewards")
    for file in [REPOSITORY / "options" / "ablation" / f"{name}.yml"]
    for run in plan(load_ablation_options(file), file, seeds=[0])
]


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> StartWeights:
    return StartWeights(tmp_path_factory.mktemp("arms"))


def miniature(run: TrainingRun, starts: StartWeights) -> Any:
    shrunk = shrink(copy.deepcopy(run.options), starts.folder, None, 2)
    teacher, student = (starts.of(shrunk[key]) for key in ("network_teacher", "network_g"))
    model = build_model(shrink(copy.deepcopy(run.options), starts.folder, teacher, 2, student), starts.folder)
    feed(model)
    return model


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_an_arm_trains(run: TrainingRun, starts: StartWeights) -> None:
    model = miniature(run, starts)
    before = {name: snapshot(net) for name, net in (("student", model.net_g), ("fake score", model.net_fake))}
    for iteration in range(1, 1 + 2 * model.run.distill.fake_updates_per_student):
        model.optimize_parameters(iteration)
    for name, net in (("student", model.net_g), ("fake score", model.net_fake)):
        assert any(not torch.equal(p, before[name][key]) for key, p in net.named_parameters()), name
    log = {key: float(value) for key, value in model.get_current_log().items()}
    assert ("l_amd" in log) == (run.arm != "direct")
    assert all(math.isfinite(value) for key, value in log.items() if key.startswith(("l_", "reward/"))), log
    rewards = {"l1+lpips_squeeze", "l1+effnet_lite1"} if run.arm.startswith("complexity") else None
    assert rewards is None or rewards <= {key.removeprefix("reward/") for key in log}
    assert rewards is None or rewards <= set(model.reward_names()), "the header of the weights names them"
