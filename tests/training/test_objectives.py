"""The baselines behind one option, spatial AMD, rewards as losses: gradient ownership and exact special cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_distillation import build, changed, feed, snapshot
from training_setup import TINY_NETWORK, StartWeights, rollout_of


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Path:
    folder = tmp_path_factory.mktemp("objectives")
    StartWeights(folder).of(TINY_NETWORK)
    return folder


def steps(model: Any, count: int = 4) -> Any:
    for iteration in range(1, count + 1):
        feed(model, seed=iteration)
        model.optimize_parameters(iteration)
    return model


def same(a: Any, b: Any, *nets: str) -> bool:
    return all(
        torch.equal(value, snapshot(getattr(b, net))[key])
        for net in nets
        for key, value in snapshot(getattr(a, net)).items()
    )


def test_a_supervised_model_has_a_student_and_its_losses_alone(workshop: Path) -> None:
    model = build(workshop, "perceptual_x4_classical")
    before = snapshot(model.net_g)
    model.optimize_parameters(1)
    assert changed(model.net_g, before) and not hasattr(model, "net_teacher") and not hasattr(model, "net_fake")
    assert set(model.get_current_log()) == {"l_l1", "l_cell_profile", "l_lpips_squeeze", "l_effnet_lite1"}
    assert set(model.reward_names()) == {"l1", "cell_profile", "lpips_squeeze", "effnet_lite1"}


def test_the_warm_start_is_regression_from_pure_noise(workshop: Path) -> None:
    """L1 of pixels over the standard deviation of the codec is L1 of latents, at t = 1."""
    model = build(workshop, "regression_x4_classical")
    assert not hasattr(model, "net_teacher") and set(model.run.distill.num_steps) == {1}
    model.seed_step(1)
    noise = model.randn(model.codec.latent_shape(model.lq))
    t, x0 = torch.ones(len(noise)), model.codec.encode(model.gt, model.lq)
    with torch.no_grad():
        expected = (model.denoiser(model.net_g)(noise, t, model.codec.condition(model.lq)) - x0).abs().mean()
    model.optimize_parameters(1)
    assert model.get_current_log()["l_l1"] == pytest.approx(float(expected), rel=2e-3)


def test_spatial_strength_zero_is_dmd_bit_for_bit(workshop: Path) -> None:
    spatial = build(
        workshop, "amd_x4_classical", spatial=True, adaptation_strength=0.0, sharpening_strength=0.0, guidance_scale=2.0
    )
    assert same(steps(spatial), steps(build(workshop, "dmd_x4_classical", guidance_scale=2.0)), "net_g", "net_fake")


def test_spatial_amd_with_whole_image_rewards_is_whole_image_amd(workshop: Path) -> None:
    """A reward without a map is the constant map: the same advantages, hence the same run up to rounding."""
    models = []
    for spatial in (False, True):
        model = build(workshop, "amd_x4_classical", spatial=spatial)
        for reward in model.reward.rewards:
            value_and_map = reward.value_and_map
            reward.value_and_map = lambda *a, _inner=value_and_map, **k: (_inner(*a, **k)[0], None)
        models.append(steps(model))
    for net in ("net_g", "net_fake"):
        a, b = (snapshot(getattr(model, net)) for model in models)
        for key, value in a.items():
            torch.testing.assert_close(value, b[key], rtol=1e-4, atol=1e-6)


def test_spatial_amd_weights_locations_differently(workshop: Path) -> None:
    model = build(workshop, "amd_x4_classical", spatial=True)
    model.diagnosing = True
    model.reward.rewards[1].weight = 0.0  # PSNR has no map: at every location it says the same
    generator = torch.Generator().manual_seed(0)
    image = model.gt + 0.1 * torch.randn(model.gt.shape, generator=generator)
    image[0, :, :16, :16] += 0.5 * torch.randn(3, 16, 16, generator=generator)
    advantage = model.diagnose(rollout_of(model).having(image=image), True)
    assert advantage.shape == (model.lq.shape[0], 1, *model.codec.latent_shape(model.lq)[2:])
    corner, rest = advantage[0, 0, :3, :3].mean(), advantage[0, 0, 6:, 6:].mean()
    assert corner < -0.5 and corner + 0.3 < rest
    alpha, beta = model.adaptation(advantage)
    assert alpha.shape == beta.shape == advantage.shape and beta[0, 0, 0, 0] > 1 > alpha[0, 0, 0, 0]
    assert not same(steps(model), steps(build(workshop, "amd_x4_classical")), "net_g", "net_fake")


def test_a_metric_as_loss_moves_the_student(workshop: Path) -> None:
    model = build(workshop, losses=[{"type": "LPIPS", "weight": 0.5, "random_views": False}])
    x0 = torch.zeros(model.codec.latent_shape(model.lq), requires_grad=True)
    rollout = rollout_of(model, x0, advantage=torch.zeros(len(x0)))
    image, losses = rollout.image, model.student_losses(model.with_direction(rollout))
    value = model.reward.rewards[0](image, gt=model.gt, lq=model.lq)
    assert losses["l_lpips_squeeze"].item() == pytest.approx(0.5 * float(-value.mean()), rel=1e-3)
    losses["l_lpips_squeeze"].backward()
    assert x0.grad is not None and x0.grad.abs().sum() > 0


def test_the_fake_teacher_starts_the_same_when_it_sees_the_step(workshop: Path) -> None:
    """The additional channel starts without influence; a fake score without it is plain DMD's."""
    plain, seeing = (build(workshop, "dmd_x4_classical", fake_sees_step=value) for value in (False, True))
    assert plain.net_fake.conv_in.weight.shape[1] + 1 == seeing.net_fake.conv_in.weight.shape[1]
    n, x_t = plain.lq.shape[0], torch.randn(plain.codec.latent_shape(plain.lq))
    rollout = rollout_of(plain, t=torch.linspace(0.1, 1.0, n))
    answers = [
        model.denoiser(model.net_fake)(x_t, torch.full((n,), 0.5), model.condition_of_fake(rollout))
        for model in (plain, seeing)
    ]
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-5, atol=1e-6)
    steps(seeing, 4)
    assert seeing.net_fake.conv_in.weight[:, -1].abs().sum() > 0, "and learns to use it"


def test_weights_name_the_rewards_that_had_a_say(workshop: Path) -> None:
    both = {"lpips_squeeze", "psnr"}
    assert both <= set(build(workshop).reward_names())
    idle: dict[str, Any] = {"adaptation_strength": 0.0, "sharpening_strength": 0.0}
    model = build(workshop, losses=[{"type": "L1"}, {"type": "LPIPS", "weight": 0}], **idle)
    assert model.reward_names() == ("l1",), "rewards that only diagnose leave the metric independent"
    assert "lpips_squeeze" in build(workshop, losses=[{"type": "LPIPS"}], **idle).reward_names()
