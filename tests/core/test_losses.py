"""The equations of DMD and AMD: reduction, gradients, shapes, bounds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from amd_restore.errors import AMDRestoreError
from amd_restore.losses import (
    denoising_loss,
    gradient_cosine,
    greatest_advantage,
    group_advantage,
    matching_direction,
    normalizer,
    permuted_advantage,
    relative_advantage,
    score_adaptation,
    sharpening_weight,
    surrogate_loss,
)
from amd_restore.losses.perceptual import cell_profile_distance, chroma_detail, diagonal_detail, pooled_l1
from amd_restore.losses.pixel_loss import L1, ChromaDetail

SHAPE = (8, 12, 5, 7)


@pytest.fixture
def states() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(SHAPE) for name in ("x0", "x0_real", "x0_fake", "x0_real_uncond")}


def teachers(states: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    return states["x0_real"], states["x0_fake"], states["x0_real_uncond"]


@pytest.mark.parametrize("guidance", [1.0, 0.5, 1.7, 4.0])
@pytest.mark.parametrize("shape", [(8,), (8, 1, 5, 7)])
def test_strength_zero_is_dmd_bit_for_bit(states: dict[str, Tensor], guidance: float, shape: tuple[int, ...]) -> None:
    advantage = group_advantage(torch.randn(shape), group_size=4)
    assert advantage.abs().max() > 0
    alpha, beta = score_adaptation(advantage, 0.0)
    amd = matching_direction(*teachers(states), guidance, alpha, beta)
    dmd = matching_direction(*teachers(states), guidance)
    assert torch.equal(amd, dmd)

    weight_t = torch.rand(8) + 0.1
    plain = denoising_loss(states["x0_fake"], states["x0"], weight_t)
    weighted = denoising_loss(states["x0_fake"], states["x0"], weight_t, sharpening_weight(advantage, 0.0))
    assert torch.equal(plain, weighted)


def test_direction_is_equation_10(states: dict[str, Tensor]) -> None:
    real, fake, uncond = teachers(states)
    alpha, beta = torch.rand(8) + 0.5, torch.rand(8) + 0.5
    direction = matching_direction(real, fake, uncond, 3.0, alpha, beta)
    a, b = alpha.reshape(-1, 1, 1, 1).double(), beta.reshape(-1, 1, 1, 1).double()
    expected = b * (real - fake).double() + a * 2.0 * (real - uncond).double()
    torch.testing.assert_close(direction.double(), expected, rtol=1e-5, atol=1e-5)


def test_dmd_with_guidance_pulls_to_the_guided_teacher(states: dict[str, Tensor]) -> None:
    real, fake, uncond = teachers(states)
    guided = uncond + 2.5 * (real - uncond)
    torch.testing.assert_close(matching_direction(real, fake, uncond, 2.5), guided - fake, rtol=1e-5, atol=1e-5)


def test_spatial_weights_equal_sample_weights_where_constant(states: dict[str, Tensor]) -> None:
    beta = torch.rand(8) + 0.5
    maps = beta.reshape(-1, 1, 1, 1).expand(8, 1, 5, 7).contiguous()
    by_sample = matching_direction(*teachers(states), 2.0, None, beta)
    assert torch.equal(by_sample, matching_direction(*teachers(states), 2.0, None, maps))


def test_direction_has_no_gradient_and_full_precision(states: dict[str, Tensor]) -> None:
    real, fake, _ = teachers(states)
    direction = matching_direction(real.bfloat16().requires_grad_(), fake.bfloat16())
    assert direction.dtype == torch.float32 and not direction.requires_grad


def test_direction_errors(states: dict[str, Tensor]) -> None:
    real, fake, uncond = teachers(states)
    with pytest.raises(ValueError, match="x0_real_uncond"):
        matching_direction(real, fake, None, 2.0)
    with pytest.raises(ValueError, match="shape"):
        matching_direction(real, fake, uncond, 2.0, torch.ones(3))
    with pytest.raises(ValueError, match="shape"):
        matching_direction(real, fake, beta=torch.ones(8, 12, 5, 7))


def test_surrogate_gradient_is_the_direction(states: dict[str, Tensor]) -> None:
    x0 = (1000.0 * states["x0"]).requires_grad_()  # large values: rounding of x0 + H / n would show
    direction = matching_direction(states["x0_real"], states["x0_fake"])
    norm = normalizer(x0, states["x0_real"])
    loss = surrogate_loss(x0, direction, norm)
    (gradient,) = torch.autograd.grad(loss, x0)
    torch.testing.assert_close(gradient, -(direction / norm) / x0.numel(), rtol=3e-7, atol=0.0)
    torch.testing.assert_close(loss, 0.5 * (direction / norm).square().mean())


def test_normalizer_is_per_sample_and_floored(states: dict[str, Tensor]) -> None:
    x0, real = states["x0"].clone(), states["x0_real"]
    x0[3] = real[3]
    norm = normalizer(x0, real, floor=1e-3)
    assert norm.shape == (8, 1, 1, 1) and norm[3].item() == pytest.approx(1e-3)
    assert norm[0].item() == pytest.approx((x0[0] - real[0]).abs().mean().item(), rel=1e-5)


def test_denoising_loss_weights_and_gradient_owner(states: dict[str, Tensor]) -> None:
    prediction = states["x0_fake"].clone().requires_grad_()
    x0 = states["x0"].clone().requires_grad_()
    weight_t, sharp = torch.rand(8) + 0.1, torch.rand(8) + 0.1
    loss = denoising_loss(prediction, x0, weight_t, sharp)
    per_sample = (prediction - x0).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss, (weight_t * sharp * per_sample).mean())
    loss.backward()
    assert prediction.grad is not None and x0.grad is None


def test_cosine(states: dict[str, Tensor]) -> None:
    x = states["x0"]
    same, opposite = gradient_cosine(x, 3.0 * x), gradient_cosine(x, -x)
    torch.testing.assert_close(same, torch.ones(8))
    torch.testing.assert_close(opposite, -torch.ones(8))
    assert torch.equal(gradient_cosine(torch.zeros_like(x), x), torch.zeros(8))


def test_advantage_is_equation_12() -> None:
    rewards = torch.tensor([1.0, 2.0, 3.0, 10.0, 5.0, 5.0, 5.0, 5.0])
    advantage = group_advantage(rewards, group_size=4, eps=0.0, std_floor=1e-9)
    mean, std = rewards[:4].mean(), rewards[:4].std(correction=1)
    torch.testing.assert_close(advantage[:4], ((rewards[:4] - mean) / std).clamp(-1, 1))
    assert advantage[3] == 1.0  # (10 - 4) / 4.08 = 1.47, clipped
    assert torch.equal(advantage[4:], torch.zeros(4))


def test_advantage_ignores_offset_and_scale_of_a_condition() -> None:
    torch.manual_seed(1)
    rewards = torch.randn(2, 4)
    shifted = rewards * torch.tensor([[1.0], [7.0]]) + torch.tensor([[0.0], [30.0]])
    torch.testing.assert_close(
        group_advantage(shifted.flatten(), 4), group_advantage(rewards.flatten(), 4), rtol=1e-3, atol=1e-3
    )


def test_std_floor_stops_the_clip_from_becoming_a_sign() -> None:
    nearly_equal = 0.2 + 1e-4 * torch.tensor([-1.0, 1.0, -1.0, 1.0])
    assert (group_advantage(nearly_equal, 4).abs() > 0.85).all()
    assert (group_advantage(nearly_equal, 4, std_floor=0.01).abs() < 0.02).all()
    assert (group_advantage(nearly_equal, 4, std_floor=torch.tensor(0.01)).abs() < 0.02).all()


def test_a_group_of_two_is_not_clipped_whatever_its_rewards() -> None:
    """The population's standard deviation of two values is half their distance: both advantages would be 1 in size."""
    torch.manual_seed(3)
    advantage = group_advantage(torch.randn(64), group_size=2)
    torch.testing.assert_close(advantage.abs(), torch.full((64,), greatest_advantage(2)), rtol=1e-3, atol=1e-3)
    # With a floor, a small difference gives a small advantage.
    difference = torch.tensor([0.0, 0.01, 0.0, 0.4])
    advantage = group_advantage(difference, 2, std_floor=1.0)
    torch.testing.assert_close(advantage, torch.tensor([-0.005, 0.005, -0.2, 0.2]), rtol=1e-4, atol=1e-4)


def test_relative_advantage_is_negative_where_the_teacher_is_better() -> None:
    student, teacher = torch.tensor([1.0, 2.0, 3.0, 9.0]), torch.tensor([1.5, 2.0, 2.5, 1.0])
    advantage = relative_advantage(student - teacher, scale=1.0, eps=0.0)
    torch.testing.assert_close(advantage, torch.tensor([-0.5, 0.0, 0.5, 1.0]))
    assert torch.equal(relative_advantage(student - student, scale=0.0), torch.zeros(4))
    maps = relative_advantage((student - teacher).view(1, 1, 2, 2), torch.tensor(2.0), eps=0.0)
    torch.testing.assert_close(maps.flatten(), torch.tensor([-0.25, 0.0, 0.25, 1.0]))


@pytest.mark.parametrize(("group_size", "moves_inside"), [(4, True), (2, True), (1, False)])
def test_permuted_advantages_are_the_same_values_of_other_samples(group_size: int, moves_inside: bool) -> None:
    advantage = torch.arange(8.0)
    for seed in range(5):
        moved = permuted_advantage(advantage, group_size, torch.Generator().manual_seed(seed))
        assert (moved != advantage).all()
        assert torch.equal(moved.sort().values, advantage)
        same_group = (moved // group_size) == (advantage // group_size)
        assert bool(same_group.all()) == moves_inside
    assert torch.equal(permuted_advantage(advantage[:1], 1), advantage[:1])


def test_advantage_of_maps_is_per_location() -> None:
    torch.manual_seed(2)
    maps = torch.randn(8, 1, 3, 3)
    advantage = group_advantage(maps, group_size=4)
    assert advantage.shape == maps.shape
    assert torch.equal(advantage[:, 0, 1, 2], group_advantage(maps[:, 0, 1, 2], group_size=4))


def test_a_group_of_one_is_plain_dmd() -> None:
    assert torch.equal(group_advantage(torch.randn(5), group_size=1), torch.zeros(5))


@pytest.mark.parametrize("group_size", [0, 3])
def test_advantage_errors(group_size: int) -> None:
    with pytest.raises(ValueError, match="groups"):
        group_advantage(torch.randn(8), group_size)


def test_adaptation_is_equation_13() -> None:
    advantage = torch.tensor([-1.0, -0.25, 0.0, 1.0])
    alpha, beta = score_adaptation(advantage, 0.4)
    torch.testing.assert_close(alpha, torch.tensor([0.6, 0.9, 1.0, 1.4]))
    torch.testing.assert_close(beta, torch.tensor([1.4, 1.1, 1.0, 0.6]))


@pytest.mark.parametrize("strength", [-0.1, 1.0, float("nan")])
def test_adaptation_errors(strength: float) -> None:
    with pytest.raises(AMDRestoreError, match="strength"):
        score_adaptation(torch.zeros(2), strength)


@pytest.mark.parametrize("shape", [(16,), (16, 1, 4, 4)])
def test_sharpening_is_positive_with_mean_one_and_falls(shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    advantage = torch.rand(shape) * 2 - 1
    weight = sharpening_weight(advantage, 0.8)
    assert weight.shape == shape and (weight > 0).all()
    assert weight.mean().item() == pytest.approx(1.0, abs=1e-6)
    order = advantage.flatten().argsort()
    assert (weight.flatten()[order].diff() <= 0).all()
    assert torch.equal(sharpening_weight(advantage, 0.0), torch.ones(shape))


def test_sharpening_errors() -> None:
    for tau in (-0.5, float("nan")):
        with pytest.raises(AMDRestoreError, match="tau"):
            sharpening_weight(torch.zeros(4), tau)


def test_diagonal_detail_is_the_amplitude_of_a_checkerboard_and_nothing_of_edges() -> None:
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    checkerboard = 0.5 + 0.1 * (1 - 2 * ((rows + columns) % 2))[None, None].expand(1, 3, -1, -1)
    torch.testing.assert_close(diagonal_detail(checkerboard).abs(), torch.full((1, 3, 15, 15), 0.1))
    stripes = ((columns % 2) + torch.rand(16, 1))[None, None]
    torch.testing.assert_close(diagonal_detail(stripes), torch.zeros(1, 1, 15, 15), atol=1e-6, rtol=0)


def test_chroma_detail_finds_coloured_grain_and_nothing_of_gray() -> None:
    gray = torch.rand(1, 1, 32, 32).expand(-1, 3, -1, -1)
    for detail in chroma_detail(gray + torch.rand(1, 3, 1, 1)):
        torch.testing.assert_close(detail, torch.zeros_like(detail), atol=1e-6, rtol=0)
    dots = 0.1 * (1 - 2 * (torch.arange(32) % 2))[None, None, None].expand(1, 1, 32, 32)
    green, white = torch.zeros(1, 3, 32, 32), dots.expand(-1, 3, -1, -1)
    green[:, 1:2] = dots
    assert ChromaDetail().measure(green, torch.zeros_like(green), green) > 0.01
    assert ChromaDetail().measure(white, torch.zeros_like(white), white) < 1e-6


def test_the_cell_profile_finds_a_woven_texture_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    gt = 0.5 + 0.02 * torch.randn(2, 3, 96, 96, generator=generator)
    other = 0.5 + 0.02 * torch.randn(2, 3, 96, 96, generator=generator)
    assert cell_profile_distance(other, gt, 4) < 0.05
    assert cell_profile_distance(0.5 + 0.5 * (other - 0.5), gt, 4) < 0.05, "weaker, but equally everywhere"
    woven = other.clone()
    woven[..., ::4] = 0.5 + 1.5 * (woven[..., ::4] - 0.5)  # each fourth column has more of it
    assert cell_profile_distance(woven, gt, 4) > 0.1
    assert L1().measure(woven, gt, gt) < 1.2 * L1().measure(other, gt, gt)
    woven.requires_grad_()
    (gradient,) = torch.autograd.grad(cell_profile_distance(woven, gt, 4), woven)
    step = (woven - 0.5 * gradient).detach()
    assert cell_profile_distance(step, gt, 4) < cell_profile_distance(woven, gt, 4)


def test_pooled_l1_sees_colours_and_no_texture() -> None:
    gt = torch.rand(2, 3, 48, 64)
    sign = (-1.0) ** torch.arange(64)
    assert pooled_l1(gt + 0.1 * sign, gt) < 1e-6  # what L1 calls .1
    assert pooled_l1(gt - 0.1, gt) == pytest.approx(0.1, abs=1e-6)
    blotch = torch.zeros(2, 3, 48, 64)
    blotch[:, 0, 16:24, 16:24] = 0.9  # 8 x 8 pixels of one channel: full at 4 and 8, diluted by 4 over as many at 16
    assert pooled_l1(gt + blotch, gt) == pytest.approx(0.9 * 64 / (3 * 48 * 64), rel=1e-4)
