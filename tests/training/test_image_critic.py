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
from amd_restore.errors import AMDRestoreError
from amd_restore.models.image_critic import FeatureCritic, ImageCritic, build_critic
from amd_restore.registry import register_all
from amd_restore.rewards.fidelity_reward import PSNRReward
from amd_restore.rewards.perceptual_reward import EfficientNetReward

CRITIC = {"type": "PatchDiscriminator", "num_feat": 4}
OF_FEATURES = {"type": "FeatureDiscriminator", "reward": "effnet_lite1", "levels": 3, "num_feat": 8}
OPTIMIZER = {"type": "Adam", "lr": 1e-3, "betas": [0.5, 0.99]}


@pytest.fixture(autouse=True)
def registered() -> None:
    register_all(training=True)


def test_one_logit_for_every_eight_pixels() -> None:
    assert PatchDiscriminator(num_feat=4)(torch.rand(2, 3, 48, 64)).shape == (2, 1, 6, 8)


def check_owners(critic: ImageCritic, student_loss: torch.Tensor, image: torch.Tensor) -> None:
    """The student's loss moves the image alone, the critic's own the critic alone."""
    student_loss.backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    assert all(p.grad is None for p in critic.net.parameters())
    image.grad = None
    critic.loss().backward()
    assert image.grad is None
    assert all(p.grad is not None for p in critic.net.parameters())


def test_gradients_stay_with_their_owner() -> None:
    critic = ImageCritic(CRITIC, torch.device("cpu"))
    image = torch.rand(2, 3, 32, 32, requires_grad=True)
    critic.see(image, torch.rand(2, 3, 32, 32))
    check_owners(critic, critic.student_loss(), image)


def test_it_learns_to_tell_blurred_from_sharp() -> None:
    torch.manual_seed(0)
    critic = ImageCritic(CRITIC, torch.device("cpu"))
    optimizer = torch.optim.Adam(critic.net.parameters(), lr=3e-3)
    for _ in range(60):
        sharp = torch.rand(4, 3, 32, 32)
        blurred = torch.nn.functional.avg_pool2d(sharp, 3, 1, 1)
        optimizer.zero_grad()
        critic.see(blurred, sharp)
        critic.loss().backward()
        optimizer.step()
    sharp = torch.rand(4, 3, 32, 32)
    blurred = torch.nn.functional.avg_pool2d(sharp, 3, 1, 1)
    opinions = []
    for image in (sharp, blurred):
        critic.see(image, sharp)
        opinions.append(float(critic.student_loss()))
    assert opinions[0] < 0.5 < opinions[1]


# ---- on features --------------------------------------------------------------------------------------------------


def feature_critic() -> tuple[FeatureCritic, EfficientNetReward]:
    reward = EfficientNetReward("lite1")
    critic = build_critic(OF_FEATURES, torch.device("cpu"), [reward])
    assert isinstance(critic, FeatureCritic)
    return critic, reward


def look(critic: FeatureCritic, reward: EfficientNetReward, image: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
    """The reward as a loss, under the critic's eyes, then the critic's opinion."""
    with critic.watch(reward):
        reward.loss(image, gt=gt)
    return critic.student_loss()


def test_heads_fit_the_layers_of_the_reward() -> None:
    critic, reward = feature_critic()
    assert reward.distance.channels == (16, 24, 40, 112, 320)
    logits = critic.net([torch.rand(2, width, 24 >> i, 24 >> i) for i, width in enumerate(reward.distance.channels)])
    assert [tuple(logit.shape) for logit in logits] == [(2, 1, 12, 12), (2, 1, 12, 12), (2, 1, 6, 6)]


def test_gradients_of_the_feature_critic_stay_with_their_owner() -> None:
    critic, reward = feature_critic()
    image, gt = torch.rand(2, 3, 48, 48, requires_grad=True), torch.rand(2, 3, 48, 48)
    check_owners(critic, look(critic, reward, image, gt), image)
    assert all(p.grad is None for p in reward.distance.parameters())
    assert reward.distance.tap is None


def test_parts_of_a_batch_are_judged_in_their_order() -> None:
    critic, reward = feature_critic()
    critic.net.eval()  # the norm's estimate goes on with every look in training
    images, gt = torch.rand(4, 3, 48, 48), torch.rand(4, 3, 48, 48)
    for part in (slice(0, 2), slice(2, 4)):
        look(critic, reward, images[part], gt[part])
    in_parts = [float(critic.loss().detach()) for _ in range(2)]
    look(critic, reward, images[:2], gt[:2])
    assert float(critic.loss().detach()) == pytest.approx(in_parts[0], abs=1e-6)
    assert in_parts[0] != pytest.approx(in_parts[1], abs=1e-6)


def test_the_feature_critic_learns_to_tell_blurred_from_sharp() -> None:
    torch.manual_seed(0)
    critic, reward = feature_critic()
    optimizer = torch.optim.Adam(critic.net.parameters(), lr=3e-3)

    def opinion() -> torch.Tensor:
        sharp = torch.rand(4, 3, 48, 48)
        return look(critic, reward, torch.nn.functional.avg_pool2d(sharp, 3, 1, 1), sharp)

    before = float(opinion())
    critic._seen.clear()
    for _ in range(20):
        opinion()
        optimizer.zero_grad()
        loss = critic.loss()
        loss.backward()
        optimizer.step()
    assert loss < 0.1 < 0.6 < before < 0.8
    assert opinion() > 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward": "niqe"}, "network_d.reward: no reward 'niqe' with a loss_weight; there are: effnet_lite1, psnr"),
        ({"reward": "psnr"}, "network_d.reward: 'psnr' shows no features; effnet and effnet_lite1 do"),
    ],
)
def test_the_feature_critic_needs_a_reward_with_features(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AMDRestoreError) as caught:
        build_critic(OF_FEATURES | options, torch.device("cpu"), [EfficientNetReward("lite1"), PSNRReward()])
    assert str(caught.value) == message


# ---- in training --------------------------------------------------------------------------------------------------


def options_of(folder: Path, teacher: str, critic: dict[str, Any], **changes: Any) -> dict[str, Any]:
    options = load_miniature("amd_x4_classical", folder, teacher=teacher)
    options["network_d"] = dict(critic)
    if critic is OF_FEATURES:
        options["rewards"] = [{"type": "EfficientNetReward", "variant": "lite1", "loss_weight": 0.1}]
    options["train"]["optim_d"] = dict(OPTIMIZER)
    options.update(changes)
    return options


@pytest.mark.parametrize("critic", [CRITIC, OF_FEATURES])
def test_resume_is_exact(workshop: Path, tmp_path: Path, critic: dict[str, Any]) -> None:  # noqa: F811
    teacher = str(next((workshop / "experiments").glob("*/models/net_g_latest.pth")))
    states = []
    for name, stops in (("straight", [4]), ("resumed", [2, 4])):
        folder = tmp_path / name
        folder.mkdir()
        make_data(folder)
        for stop in stops:
            options = options_of(folder, teacher, critic)
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
    rollout = model.generate(model.draw_rollout(), with_gradient=True)
    assert "l_g_gan" not in model.student_losses(rollout)
    losses = model.adversarial_loss(rollout)
    model.critic.net.eval()  # the norm's estimate goes on with every look in training
    expected = model.critic.student_loss()
    assert float(losses["l_g_gan"].detach()) == pytest.approx(0.5 * float(expected.detach()), rel=0.05)


def test_a_critic_needs_an_optimizer(workshop: Path, tmp_path: Path) -> None:  # noqa: F811
    make_data(tmp_path)
    teacher = str(next((workshop / "experiments").glob("*/models/net_g_latest.pth")))
    options = options_of(tmp_path, teacher, CRITIC)
    del options["train"]["optim_d"]
    result = run_training(options, tmp_path)
    assert result.returncode == 2
    assert "train.optim_d: missing; network_d needs it" in result.stderr.strip().splitlines()[-1]
