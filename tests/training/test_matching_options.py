"""What one can vary about the matching: times and noise, the normaliser, and what a sample is compared with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_distillation import build, changed, feed, snapshot, workshop  # noqa: F401
from torch import Tensor

from amd_restore.models.zone_maps import save_zone_maps, side_of_squares


def rollout(model: Any) -> Any:
    feed(model)
    model.seed_step(1)
    return model.generate(model.draw_rollout(), with_gradient=False)


def calls_of(model: Any, net: str, run: Any) -> list[tuple[Tensor, Tensor]]:
    """States and times for which ``net`` was called in ``run()``."""
    calls: list[tuple[Tensor, Tensor]] = []
    handle = getattr(model, net).register_forward_pre_hook(lambda _, args: calls.append((args[0], args[1])))
    run()
    handle.remove()
    return calls


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_group_shares_its_time_and_noise_where_wanted(workshop: Path, is_shared: bool) -> None:  # noqa: F811
    model = build(workshop, group_size=4, share_times=is_shared, sharpening_strength=0.0, adaptation_strength=0.0)
    samples = rollout(model)
    samples = samples.having(x0=samples.x0[:1].expand_as(samples.x0), advantage=torch.zeros(len(samples)))
    ((states, times),) = calls_of(model, "net_teacher", lambda: model.direction(samples))
    for first in range(0, len(times), 4):
        members = slice(first, first + 4)
        assert (len(times[members].unique()) == 1) == is_shared
        assert torch.equal(states[members], states[first : first + 1].expand_as(states[members])) == is_shared
    assert len(times.unique()) > 1, "groups differ"


def test_several_draws_are_averaged(workshop: Path) -> None:  # noqa: F811
    once, thrice = (build(workshop, matching_draws=draws, adaptation_strength=0.0) for draws in (1, 3))
    samples = rollout(once)
    samples = samples.having(advantage=torch.zeros(len(samples)))
    thrice.net_teacher.load_state_dict(once.net_teacher.state_dict())
    thrice.net_fake.load_state_dict(once.net_fake.state_dict())
    for model in (once, thrice):
        model.seed_step(5)
    singles = [direction / norm for direction, norm in (once.direction(samples) for _ in range(3))]
    averaged, norm = thrice.direction(samples)
    torch.testing.assert_close(averaged / norm, torch.stack(singles).mean(dim=0))


@pytest.mark.parametrize(("normalizer", "expected"), [("teacher", 0.3), ("guided", 0.3 + 2.0 * 0.25), ("none", 1.0)])
def test_the_step_is_divided_by_what_the_option_says(workshop: Path, normalizer: str, expected: float) -> None:  # noqa: F811
    model = build(workshop, normalizer=normalizer, guidance_scale=3.0, adaptation_strength=0.0)
    samples = rollout(model)
    samples = samples.having(advantage=torch.zeros(len(samples)))

    def denoiser(net: Any) -> Any:
        def predict(x_t: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
            if net is model.net_fake:
                return samples.x0 - 0.1
            return samples.x0 + (0.05 if cond is None else 0.3)

        return predict

    model.denoiser = denoiser
    torch.testing.assert_close(model.direction(samples)[1].flatten(), torch.full((len(samples),), expected))


# ---- the advantage over the teacher ------------------------------------------------------------------------------


def test_samples_worse_than_the_teachers_are_in_the_zone(workshop: Path) -> None:  # noqa: F811
    model = build(workshop, advantage="teacher", group_size=1)
    feed(model)
    noise = torch.randn(model.gt.shape, generator=torch.Generator().manual_seed(0))
    amount = torch.linspace(0.02, 0.2, len(noise)).reshape(-1, 1, 1, 1)
    student, teacher = (model.gt + a * noise for a in (amount, amount.flip(0)))
    advantage = model.advantage(student, model.gt, model.lq, teacher)[0]
    half = len(noise) // 2
    assert (advantage[:half] > 0).all() and (advantage[-half:] < 0).all()
    assert model.reward.difference_scale > 0
    _, beta = model.adaptation(advantage)
    assert (beta[-half:] > 1).all(), "matched more where the teacher is better"


@pytest.mark.parametrize("is_map", [False, True])
def test_a_training_with_the_advantage_over_the_teacher(workshop: Path, is_map: bool, tmp_path: Path) -> None:  # noqa: F811
    model = build(workshop, advantage="teacher", group_size=1, spatial=is_map, fake_updates_per_student=1)
    feed(model)
    before = snapshot(model.net_g)
    for iteration in (1, 2):
        model.optimize_parameters(iteration)
    after = snapshot(model.net_g)
    assert any(not torch.equal(before[key], after[key]) for key in before)
    log = model.get_current_log()
    assert 0 < log["reward/difference_scale"] < float("inf")
    assert 0 <= log["amd/forbidden_share"] <= 1
    model.folders = dataclasses.replace(model.folders, visualization=tmp_path)
    save_zone_maps(model, [{"gt": model.gt[:1], "lq": model.lq[:1]}], 2)
    assert list(tmp_path.glob("zones/*.npz"))


def test_zone_maps_of_images_of_several_sizes(workshop: Path, tmp_path: Path) -> None:  # noqa: F811
    """One square for all, of a size that every reward can measure, or none."""
    model = build(workshop, group_size=4)
    feed(model)
    model.run = dataclasses.replace(model.run, val=dataclasses.replace(model.run.val, panels=2))
    model.folders = dataclasses.replace(model.folders, visualization=tmp_path)
    images = [
        {"gt": model.gt[:1], "lq": model.lq[:1]},
        {"gt": model.gt[:1, :, :, : 4 * 8], "lq": model.lq[:1, :, :, :8]},
    ]
    save_zone_maps(model, images, 1)
    (file,) = tmp_path.glob("zones/*.npz")
    assert np.load(file)["lq"].shape == (2, 8, 8, 3)
    model.reward.rewards[0].min_size = 33
    save_zone_maps(model, images, 2)
    assert len(list(tmp_path.glob("zones/*.npz"))) == 1
    model.reward.rewards[0].min_size = 96
    large = [{"gt": torch.zeros(1, 3, 128, 128)}]
    assert side_of_squares(model, large) == 32
    model.run = dataclasses.replace(model.run, scale=1)
    assert side_of_squares(model, large) == 96


def test_zone_maps_are_of_the_first_validation_set(workshop: Path, tmp_path: Path) -> None:  # noqa: F811
    model = build(workshop, group_size=4)
    feed(model)
    model.folders = dataclasses.replace(model.folders, visualization=tmp_path)
    model.current_iter = 1
    for gray in (0.2, 0.8):
        model.after_validation([{"gt": torch.full_like(model.gt[:1], gray), "lq": torch.full_like(model.lq[:1], gray)}])
    (file,) = tmp_path.glob("zones/*.npz")
    assert np.load(file)["gt"].max() == 51


@pytest.mark.parametrize(
    "options",
    [
        {"advantage": "teacher", "group_size": 1},
        {"advantage": "teacher", "group_size": 1, "advantage_every": 2, "spatial": True},
        {"group_size": 4, "permute_advantage": True},
    ],
)
def test_strength_zero_is_dmd_whatever_the_advantage(workshop: Path, options: dict[str, Any]) -> None:  # noqa: F811
    """The teacher's sample and the permutation draw random numbers of their own."""
    idle: dict[str, Any] = {"adaptation_strength": 0.0, "sharpening_strength": 0.0, "fake_updates_per_student": 1}
    plain = build(workshop, "dmd_x4_classical", group_size=options["group_size"], **idle)
    model = build(workshop, **idle, **options)
    for iteration in (1, 2, 3):
        for one in (plain, model):
            feed(one, iteration)
            one.optimize_parameters(iteration)
    for net in ("net_g", "net_fake"):
        expected = snapshot(getattr(plain, net))
        assert not changed(getattr(model, net), expected), net


def test_the_permuted_control_moves_every_advantage(workshop: Path) -> None:  # noqa: F811
    found = []
    for is_permuted in (False, True):
        model = build(workshop, group_size=4, permute_advantage=is_permuted, std_floor=0.0)
        samples = rollout(model)
        found.append(model.diagnose(samples, update_student=True))
    assert torch.equal(found[0].sort().values, found[1].sort().values)
    assert (found[0] != found[1]).all()


@pytest.mark.parametrize("fakes", [1, 2])
def test_the_advantage_can_be_computed_every_kth_time(workshop: Path, fakes: int) -> None:  # noqa: F811
    """Between, all samples have the mean of the last one: the matching keeps its mean weight."""
    model = build(
        workshop,
        advantage="teacher",
        group_size=1,
        spatial=True,
        fake_updates_per_student=fakes,
        advantage_every=3,
        num_steps=[1],
        step_weights=[1.0],
    )
    drawn, found, teacher, direction = [], [], model.teacher_images, model.with_direction

    def drawing(draw: Any, rows: Any) -> Tensor:
        drawn.append(model.current_iter)
        images: Tensor = teacher(draw, rows)
        return images

    def looking(samples: Any) -> Any:
        found.append(samples.advantage)
        return direction(samples)

    model.teacher_images, model.with_direction = drawing, looking
    for iteration in range(1, 1 + 5 * fakes):
        model.optimize_parameters(iteration)
    # Iterations that train the fake score alone belong to the student's update before them, as its sharpening does.
    assert drawn == [i for i in range(1, 1 + 5 * fakes) if i // fakes in (1, 4)]
    means = [value.mean() for value in found]
    assert found[0].shape[2:] == model.codec.latent_shape(model.lq)[2:] and found[0].std() > 0
    for value in found[1:3]:
        assert value.unique().numel() == 1
        if fakes == 1:
            torch.testing.assert_close(value[0], means[0])
    _, beta = model.adaptation(found[1])
    assert beta is not None and beta.shape == (2,)
    state = model.extra_state()
    other = build(workshop, advantage="teacher", group_size=1, spatial=True, advantage_every=3)
    other.load_extra_state(state)
    assert torch.equal(other.mean_advantage, model.mean_advantage) and model.mean_advantage != 0


def test_without_rewards_a_step_measures_no_zone(workshop: Path) -> None:  # noqa: F811
    model = build(workshop, advantage_every=8, fake_updates_per_student=1, num_steps=[1], step_weights=[1.0])
    logs = []
    for iteration in range(1, 6):  # measured: 1 and 5; with an advantage: 1
        model.optimize_parameters(iteration)
        logs.append(model.get_current_log())
    assert "amd/cosine_gt_inside" in logs[0] and "reward/total" in logs[0]
    assert "amd/cosine_gt_inside" not in logs[4] and "l_amd" in logs[4]
