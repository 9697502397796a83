"""Samples that start from less noise learn fidelity instead of perception."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_distillation import build, workshop  # noqa: F401

from amd_restore.models.fidelity_levels import draw_levels, mean_by_level
from amd_restore.options.blocks import DistillOptions


def options(**values: Any) -> DistillOptions:
    return DistillOptions(num_steps=[1], objective="regression", weight_percep=1.0, **values)


def test_half_of_the_share_gets_no_noise_and_the_rest_some() -> None:
    generator = torch.Generator().manual_seed(0)
    level = draw_levels(lambda n: torch.rand(n, generator=generator), 40_000, options(fidelity_share=0.4))
    assert level is not None
    assert float((level == 0).float().mean()) == pytest.approx(0.2, abs=0.01)
    assert float((level == 1).float().mean()) == pytest.approx(0.6, abs=0.01)
    between = level[(level > 0) & (level < 1)]
    assert float(between.mean()) == pytest.approx(0.5, abs=0.02)


def test_a_group_has_one_level_and_without_a_share_nothing_is_drawn() -> None:
    level = draw_levels(torch.rand, 12, options(fidelity_share=1.0, group_size=4))
    assert level is not None
    assert torch.equal(level.reshape(3, 4), level[::4, None].expand(3, 4))

    def never(count: int) -> torch.Tensor:
        raise AssertionError("drew numbers")

    assert draw_levels(never, 12, options()) is None


def test_means_are_weighted_by_sample() -> None:
    losses, level = torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([0.5, 0.0])
    assert mean_by_level(losses, None) == 4.0
    assert mean_by_level(losses, level) == 0.5
    assert mean_by_level(losses[:, 0], level) == 0.25


def losses_at(model: Any, level: float) -> dict[str, float]:
    model.seed_step(1)
    model.draw_rollout()
    model.level = torch.full_like(model.level, level)
    cond = model.cond = model.fake_cond = model.codec.condition(model.lq)
    x0, image, _, model.made_at = model.student_samples()
    found = model.student_losses(x0, image, cond, torch.zeros(len(x0)))
    return {name: float(value.detach()) for name, value in found.items()} | {
        "l1": float((image - model.gt).abs().mean().detach())
    }


def test_without_noise_only_fidelity_counts(workshop: Path) -> None:  # noqa: F811
    model = build(workshop, fidelity_share=0.5, weight_fidelity=3.0, weight_pix=0.0)
    faithful, perceptual = losses_at(model, 0.0), losses_at(model, 1.0)
    assert faithful["l_fidelity"] == pytest.approx(3 * faithful["l1"], rel=1e-5) and faithful["l1"] > 0
    assert faithful["l_percep"] == faithful["l_amd"] == 0
    assert perceptual["l_fidelity"] == 0 and perceptual["l_percep"] > 0


def test_levels_scale_the_noise(workshop: Path) -> None:  # noqa: F811
    model = build(workshop, fidelity_share=1.0)
    model.seed_step(3)
    model.draw_rollout()
    deviation = model.noise.flatten(1).std(dim=1)
    assert torch.allclose(deviation, model.level, atol=0.1)
    assert 0 in model.level and (model.level < 1).all()
