"""Distillation with analytic solutions: a Gaussian teacher, a Gaussian student, a perfect fake score.

The optimal denoiser of a Gaussian is a line, so teacher and fake need no network and no fitting, and what the student
converges to is a property of the equations alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from amd_restore.diffusion import RectifiedFlow
from amd_restore.losses import (
    group_advantage,
    matching_direction,
    normalizer,
    relative_advantage,
    score_adaptation,
    sharpening_weight,
    surrogate_loss,
)

PROCESS = RectifiedFlow()
GROUP = 4
BATCH = 4096
TEACHER = (0.7, 1.3)  # mean and standard deviation
Direction = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]  # (x0, x0_real, x0_fake, x_t, t) -> H


def denoise(x_t: Tensor, t: Tensor, mean: float | Tensor, std: float | Tensor) -> Tensor:
    """E[x0 | x_t] when x0 is Gaussian."""
    alpha, sigma = (c(t).reshape(-1, 1, 1, 1) for c in (PROCESS.alpha, PROCESS.sigma))
    gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    return mean + gain * (x_t - alpha * mean)


def distil(direction: Direction, teacher: tuple[float, float], normalised: bool, seed: int) -> tuple[float, float]:
    """Mean and standard deviation of the student ``x = mean + std z`` after distillation, over the last third."""
    generator = torch.Generator().manual_seed(seed)
    mean, log_std = torch.tensor(-0.5, requires_grad=True), torch.tensor(-0.7, requires_grad=True)
    optimizer = torch.optim.Adam([mean, log_std], lr=0.03, betas=(0.0, 0.99))
    # Stratified noise and times: far less Monte Carlo error than independent draws.
    grid = (torch.arange(BATCH) + 0.5) / BATCH
    tail: list[tuple[float, float]] = []
    num_updates = 600
    for update in range(num_updates):
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - update / num_updates)
        z, times, noise = (grid[torch.randperm(BATCH, generator=generator)] for _ in range(3))
        x0 = (mean + log_std.exp() * _normal(z)).reshape(-1, 1, 1, 1)
        with torch.no_grad():
            x_t = PROCESS.add_noise(x0, _normal(noise).reshape(-1, 1, 1, 1), times)
            x0_real = denoise(x_t, times, *teacher)
            x0_fake = denoise(x_t, times, mean, log_std.exp())
            step = direction(x0.detach(), x0_real, x0_fake, x_t, times)
            # The normaliser of a batch of single numbers would be |x0 - x0_real| of one draw, which correlates with
            # the step; real images average it over thousands of pixels. Averaging over the batch does the same here.
            norm = normalizer(x0, x0_real).mean() if normalised else 1.0
        optimizer.zero_grad()
        surrogate_loss(x0, step, norm).backward()
        optimizer.step()
        if update >= 2 * num_updates // 3:
            tail.append((mean.item(), log_std.exp().item()))
    return sum(m for m, _ in tail) / len(tail), sum(s for _, s in tail) / len(tail)


def _normal(uniform: Tensor) -> Tensor:
    return math.sqrt(2.0) * torch.erfinv(2.0 * uniform - 1.0)


def amd(strength: float) -> Direction:
    """Eq. 10, 12 and 13 at w = 1 with a reward that dislikes the distance from 2."""

    def direction(x0: Tensor, x0_real: Tensor, x0_fake: Tensor, *_: Tensor) -> Tensor:
        advantage = group_advantage(-(x0.flatten() - 2.0).abs(), GROUP)
        alpha, beta = score_adaptation(advantage, strength)
        return matching_direction(x0_real, x0_fake, None, 1.0, alpha, beta)

    return direction


def relative(strength: float) -> Direction:
    """The same with the advantage relative to one sample of the teacher for each sample of the student."""
    generator = torch.Generator().manual_seed(9)

    def direction(x0: Tensor, x0_real: Tensor, x0_fake: Tensor, *_: Tensor) -> Tensor:
        reference = TEACHER[0] + TEACHER[1] * torch.randn(len(x0), generator=generator)
        difference = -(x0.flatten() - 2.0).abs() + (reference - 2.0).abs()
        scale = difference.square().mean().sqrt()
        alpha, beta = score_adaptation(relative_advantage(difference, scale), strength)
        return matching_direction(x0_real, x0_fake, None, 1.0, alpha, beta)

    return direction


def test_dmd_recovers_the_teacher() -> None:
    mean, std = distil(lambda _, real, fake, *__: matching_direction(real, fake), TEACHER, True, seed=0)
    assert mean == pytest.approx(TEACHER[0], rel=0.01) and std == pytest.approx(TEACHER[1], rel=0.01)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("strength", [0.0, 0.3, 0.9])
def test_amd_keeps_the_teacher_for_every_strength(strength: float, normalised: bool) -> None:
    mean, std = distil(amd(strength), TEACHER, normalised, seed=1)
    assert mean == pytest.approx(TEACHER[0], rel=0.01) and std == pytest.approx(TEACHER[1], rel=0.01)


def test_teacher_relative_amd_keeps_the_teacher() -> None:
    mean, std = distil(relative(0.9), TEACHER, True, seed=6)
    assert mean == pytest.approx(TEACHER[0], rel=0.02) and std == pytest.approx(TEACHER[1], rel=0.02)


def settled_deviation(share: float, first: float) -> float:
    """Standard deviation of a matched later step when ``share`` of what the fake score fits is not matched.

    Teacher N(0, 1); the unmatched first step stays at N(0, ``first``); the fake score of their mixture is exact.
    """
    generator = torch.Generator().manual_seed(0)
    log_std = torch.tensor(-0.2, requires_grad=True)
    optimizer = torch.optim.Adam([log_std], lr=0.03, betas=(0.0, 0.99))
    grid = (torch.arange(BATCH) + 0.5) / BATCH
    tail: list[float] = []
    num_updates = 400
    for update in range(num_updates):
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - update / num_updates)
        z, times, noise = (grid[torch.randperm(BATCH, generator=generator)] for _ in range(3))
        x0 = (log_std.exp() * _normal(z)).reshape(-1, 1, 1, 1)
        with torch.no_grad():
            x_t = PROCESS.add_noise(x0, _normal(noise).reshape(-1, 1, 1, 1), times)
            alpha, sigma = (c(times).reshape(-1, 1, 1, 1) for c in (PROCESS.alpha, PROCESS.sigma))
            density = []
            for weight, std in ((share, torch.tensor(first)), (1.0 - share, log_std.exp())):
                variance = alpha**2 * std**2 + sigma**2
                density.append(weight * torch.exp(-0.5 * x_t.square() / variance) / variance.sqrt())
            unmatched = density[0] / (density[0] + density[1])
            x0_fake = unmatched * denoise(x_t, times, 0.0, first)
            x0_fake = x0_fake + (1.0 - unmatched) * denoise(x_t, times, 0.0, log_std.exp())
            x0_real = denoise(x_t, times, 0.0, 1.0)
            step, norm = matching_direction(x0_real, x0_fake), normalizer(x0, x0_real).mean()
        optimizer.zero_grad()
        surrogate_loss(x0, step, norm).backward()
        optimizer.step()
        if update >= 2 * num_updates // 3:
            tail.append(log_std.exp().item())
    return sum(tail) / len(tail)


def test_a_fake_score_of_unmatched_samples_makes_the_matched_ones_too_wide() -> None:
    """Why rows that are not matched leave the fake score, see DMDModel.update_fake."""
    assert settled_deviation(0.0, 0.8) == pytest.approx(1.0, rel=0.01)
    assert settled_deviation(0.56, 0.8) > 1.12


@pytest.mark.parametrize(("strength", "expected"), [(0.1, 1.24), (0.3, 1.73)])
def test_separate_weights_on_pull_and_push_move_the_fixed_point(strength: float, expected: float) -> None:
    """The tempting other operator: pull ``x0_real - x`` and push ``x - x0_fake`` with weights 1 and 1 + s."""
    mean, std = distil(
        lambda x0, real, fake, *_: (real - x0) + (1.0 + strength) * (x0 - fake), (0.0, 1.0), False, seed=2
    )
    assert std == pytest.approx(expected, rel=0.02)
    assert mean == pytest.approx(0.0, abs=0.02)


# Means and standard deviations of 2 x 2 locations.
SPATIAL_TEACHER = torch.tensor([[[[0.7, -0.4], [1.1, 0.5]]], [[[1.3, 0.8], [0.6, 1.0]]]])[:, None].unbind()


@functools.cache  # its seed is fixed, and several tests look at the same run
def distil_images(strength: float, weights: str) -> tuple[Tensor, Tensor]:
    """Means and standard deviations (1, 1, 2, 2) of a student of 2 x 2 independent Gaussians, one per location.

    ``weights``: ``maps`` compares each location with its peers, ``whole_image`` the mean reward of an image, and
    ``constant_maps`` that same mean at every location.
    """
    generator = torch.Generator().manual_seed(5)
    mean, log_std = torch.full((1, 1, 2, 2), -0.5), torch.full((1, 1, 2, 2), -0.7)
    parameters = [mean.requires_grad_(), log_std.requires_grad_()]
    optimizer = torch.optim.Adam(parameters, lr=0.03, betas=(0.0, 0.99))
    grid = (torch.arange(BATCH) + 0.5) / BATCH
    tail: list[tuple[Tensor, Tensor]] = []
    num_updates = 600
    for update in range(num_updates):
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - update / num_updates)
        # Each location has its own stratified draws; the time is that of the image.
        order = torch.stack([torch.randperm(BATCH, generator=generator) for _ in range(9)], dim=1)
        z, noise = (_normal(grid[order[:, k : k + 4]]).reshape(-1, 1, 2, 2) for k in (0, 4))
        times = grid[order[:, 8]]
        x0 = mean + log_std.exp() * z
        with torch.no_grad():
            x_t = PROCESS.add_noise(x0, noise, times)
            x0_real, x0_fake = denoise(x_t, times, *SPATIAL_TEACHER), denoise(x_t, times, mean, log_std.exp())
            reward = -(x0 - 2.0).abs()
            if weights != "maps":
                reward = reward.mean(dim=(1, 2, 3))
            if weights == "constant_maps":
                reward = reward.reshape(-1, 1, 1, 1).repeat(1, 1, 2, 2)
            alpha, beta = score_adaptation(group_advantage(reward, GROUP), strength)
            step = matching_direction(x0_real, x0_fake, None, 1.0, alpha, beta)
            norm = normalizer(x0, x0_real).mean()
        optimizer.zero_grad()
        surrogate_loss(x0, step, norm).backward()
        optimizer.step()
        if update >= 2 * num_updates // 3:
            tail.append((mean.detach().clone(), log_std.detach().exp()))
    means, stds = zip(*tail, strict=True)
    return torch.stack(means).mean(dim=0), torch.stack(stds).mean(dim=0)


@pytest.mark.parametrize("weights", ["whole_image", "maps"])
@pytest.mark.parametrize("strength", [0.0, 0.3, 0.9])
def test_amd_keeps_the_teacher_at_every_location(strength: float, weights: str) -> None:
    for student, teacher in zip(distil_images(strength, weights), SPATIAL_TEACHER, strict=True):
        torch.testing.assert_close(student, teacher, rtol=0.01, atol=0.0)


def test_a_whole_image_reward_is_the_constant_map() -> None:
    for one, other in zip(distil_images(0.9, "whole_image"), distil_images(0.9, "constant_maps"), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(distil_images(0.9, "maps")[0], distil_images(0.9, "whole_image")[0])


def test_strength_zero_distils_like_dmd_bit_for_bit() -> None:
    """Whatever the shape of the advantage: at strength 0 it is multiplied away exactly."""
    for one, other in zip(distil_images(0.0, "maps"), distil_images(0.0, "whole_image"), strict=True):
        assert torch.equal(one, other)


def test_guidance_tilts_by_alpha() -> None:
    """Conditional N(0.7, 1), unconditional N(0, 1): the mean moves on by alpha (w - 1) times their difference."""

    def direction(x0: Tensor, x0_real: Tensor, x0_fake: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        alpha = torch.full_like(t, 0.5)
        return matching_direction(x0_real, x0_fake, denoise(x_t, t, 0.0, 1.0), 3.0, alpha, torch.ones_like(t))

    mean, std = distil(direction, (0.7, 1.0), False, seed=3)
    assert mean == pytest.approx(0.7 + 0.5 * 2.0 * 0.7, rel=0.01)
    assert std == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("tau", [0.0, 0.4])
def test_sharpening_makes_the_fake_teacher_one_of_the_tilted_density(tau: float) -> None:
    """A fake score trained with weights exp(-tau a) learns the density p exp(-tau a), here with a = x.

    That is what Repulsive Landscape Sharpening does in the limit of a perfect fake: the balance p exp(-tau a) =
    p_teacher leaves the student at p_teacher exp(tau a), tilted towards the reward.
    """
    torch.manual_seed(4)
    x0 = torch.randn(400_000, dtype=torch.float64)
    t = torch.full_like(x0, 0.5)
    x_t = PROCESS.add_noise(x0, torch.randn_like(x0), t)
    weight = sharpening_weight(x0, tau)
    # Weighted least squares: the minimiser of denoising_loss over lines.
    design = torch.stack([torch.ones_like(x_t), x_t], dim=1) * weight.sqrt()[:, None]
    offset, slope = torch.linalg.lstsq(design, (x0 * weight.sqrt())[:, None]).solution.flatten().tolist()
    tilted = denoise(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1), torch.tensor([0.5, 0.5]), -tau, 1.0).flatten()
    assert offset == pytest.approx(tilted[0].item(), abs=0.01)
    assert slope == pytest.approx((tilted[1] - tilted[0]).item(), abs=0.01)
