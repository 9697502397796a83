"""network_d: who gets whose gradient, exact resume, and that options ask for what it needs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_distillation import build, workshop  # noqa: F401
from training_setup import load_miniature, make_data, run_training

from amd_restore.archs.patch_arch import PatchDiscriminator
from amd_restore.models.image_critic import ImageCritic
from amd_restore.registry import register_all

CRITIC = {"type": "PatchDiscriminator", "num_feat": 4}
OPTIMIZER = {"type": "Adam", "lr": 1e-3, "betas": [0.5, 0.99]}


@pytest.fixture(autouse=True)
def registered() -> None:
    register_all(training=True)


def test_one_logit_for_every_eight_pixels() -> None:
    assert PatchDiscriminator(num_feat=4)(torch.rand(2, 3, 48, 64)).shape == (2, 1, 6, 8)


def test_gradients_stay_with_their_owner() -> None:
    critic = ImageCritic(CRITIC, torch.device("cpu"))
    image, gt = torch.rand(2, 3, 32, 32, requires_grad=True), torch.rand(2, 3, 32, 32)
    critic.student_loss(image).mean().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    assert all(p.grad is None for p in critic.net.parameters())
    image.grad = None
    critic.loss(image, gt).backward()
    assert image.grad is None
    assert all(p.grad is not None for p in critic.net.parameters())


def test_it_learns_to_tell_blurred_from_sharp() -> None:
    torch.manual_seed(0)
    critic = ImageCritic(CRITIC, torch.device("cpu"))
    optimizer = torch.optim.Adam(critic.net.parameters(), lr=3e-3)
    for _ in range(60):
        sharp = torch.rand(4, 3, 32, 32)
        blurred = torch.nn.functional.avg_pool2d(sharp, 3, 1, 1)
        optimizer.zero_grad()
        critic.loss(blurred, sharp).backward()
        optimizer.step()
    sharp = torch.rand(4, 3, 32, 32)
    blurred = torch.nn.functional.avg_pool2d(sharp, 3, 1, 1)
    assert critic.student_loss(sharp).mean() < 0.5 < critic.student_loss(blurred).mean()


def options_of(folder: Path, teacher: str, **changes: Any) -> dict[str, Any]:
    options = load_miniature("amd_x4_classical", folder, teacher=teacher)
    options["network_d"] = dict(CRITIC)
    options["train"]["optim_d"] = dict(OPTIMIZER)
    options.update(changes)
    return options


def test_resume_is_exact(workshop: Path, tmp_path: Path) -> None:  # noqa: F811
    teacher = str(next((workshop / "experiments").glob("*/models/net_g_latest.pth")))
    states = []
    for name, stops in (("straight", [4]), ("resumed", [2, 4])):
        folder = tmp_path / name
        folder.mkdir()
        make_data(folder)
        for stop in stops:
            options = options_of(folder, teacher)
            options["train"]["total_iter"] = stop
            result = run_training(options, folder, "--auto_resume")
            assert result.returncode == 0, result.stderr[-2000:]
        models = folder / "experiments" / options["name"]
        for net in ("net_d", "net_g"):
            states.append(torch.load(models / "models" / f"{net}_4.pth", weights_only=True)["params"])
        shutil.rmtree(models / "models")
    for a, b in zip(states[:2], states[2:], strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_losses_of_both_are_in_the_log_and_the_weight_counts(workshop: Path) -> None:  # noqa: F811
    model = build(workshop, weight_adversarial=0.5)
    model.critic = ImageCritic(CRITIC, model.device)
    model.seed_step(1)
    model.draw_rollout()
    model.cond = model.fake_cond = model.codec.condition(model.lq)
    x0, image, _, model.made_at = model.student_samples()
    losses = model.student_losses(x0, image, model.cond, torch.zeros(len(x0)))
    model.critic.net.eval()  # the norm's estimate goes on with every look in training
    expected = model.critic.student_loss(image).mean()
    assert float(losses["l_g_gan"].detach()) == pytest.approx(0.5 * float(expected.detach()), rel=0.05)


def test_a_critic_needs_an_optimizer(workshop: Path, tmp_path: Path) -> None:  # noqa: F811
    make_data(tmp_path)
    teacher = str(next((workshop / "experiments").glob("*/models/net_g_latest.pth")))
    options = options_of(tmp_path, teacher)
    del options["train"]["optim_d"]
    result = run_training(options, tmp_path)
    assert result.returncode == 2
    assert "train.optim_d: missing; network_d needs it" in result.stderr.strip().splitlines()[-1]
