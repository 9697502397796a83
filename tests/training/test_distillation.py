"""The distillation step in miniature: who gets gradients, and what strength 0 means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training_setup import TINY_NETWORK, StartWeights, build_model, load_miniature, rollout_of


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Path:
    """Folder with data and weights to start from."""
    folder = tmp_path_factory.mktemp("distill")
    StartWeights(folder).of(TINY_NETWORK)
    return folder


def build(folder: Path, name: str = "amd_x4_classical", losses: Any = None, **distill: Any) -> Any:
    """A miniature model built as the training command builds it, in float32, fed with one batch.

    ``losses`` are in place of those of the option file, ``distill`` changes its block.
    """
    options = load_miniature(name, folder, str(folder / "experiments/start0/models/net_g_latest.pth"))
    options["amp"] = "none"
    options["distill"].update(distill)
    options["losses"] = options["losses"] if losses is None else losses
    model = build_model(options, folder)
    feed(model)
    return model


def feed(model: Any, seed: int = 3) -> None:
    """Two smooth crops with some texture, the same for the same seed."""
    coarse = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    model.feed_data({"gt": torch.nn.functional.interpolate(coarse, size=(48, 48), mode="bicubic").clamp(0, 1)})


def snapshot(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def changed(net: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(p, before[name]) for name, p in net.named_parameters())


@pytest.mark.parametrize("name", ["dmd_x4_classical", "amd_x4_classical"])
def test_each_phase_moves_only_its_own_network(workshop: Path, name: str) -> None:
    model = build(workshop, name, fake_updates_per_student=2)
    nets = {"g": model.net_g, "fake": model.net_fake, "teacher": model.net_teacher}
    before = {key: snapshot(net) for key, net in nets.items()}
    model.optimize_parameters(1)  # fake only
    assert {key for key, net in nets.items() if changed(net, before[key])} == {"fake"}
    assert all(p.grad is None for p in model.net_g.parameters())
    model.optimize_parameters(2)  # student and fake
    assert {key for key, net in nets.items() if changed(net, before[key])} == {"g", "fake"}
    assert all(p.grad is None and not p.requires_grad for p in model.net_teacher.parameters())


def test_the_student_loss_reaches_only_the_student(workshop: Path) -> None:
    model = build(workshop)
    model.seed_step(2)
    rollout = model.generate(model.draw_rollout(), with_gradient=True)
    rollout = rollout.having(advantage=model.diagnose(rollout, True))
    losses = model.student_losses(model.with_direction(rollout))
    assert set(losses) == {"l_amd", "l_l1", "l_lpips_squeeze"}
    sum(losses.values()).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.net_g.parameters())
    assert all(p.grad is None for net in (model.net_fake, model.net_teacher) for p in net.parameters())
    assert all(p.grad is None for p in model.losses.losses[1].metric.distance.parameters())


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_strength_zero_is_dmd_bit_for_bit(workshop: Path, guidance_scale: float) -> None:
    # Guidance needs a condition: give the null condition something to differ by.
    models = [
        build(workshop, "dmd_x4_classical", guidance_scale=guidance_scale),
        build(
            workshop,
            "amd_x4_classical",
            guidance_scale=guidance_scale,
            adaptation_strength=0.0,
            sharpening_strength=0.0,
        ),
    ]
    for model in models:
        for iteration in range(1, 5):
            model.optimize_parameters(iteration)
    for net in ("net_g", "net_fake", "net_g_ema"):
        a, b = (snapshot(getattr(model, net)) for model in models)
        assert all(torch.equal(a[key], b[key]) for key in a), net


def test_strengths_change_the_result(workshop: Path) -> None:
    plain = build(workshop, "amd_x4_classical", adaptation_strength=0.0, sharpening_strength=0.0)
    adapted = build(workshop, "amd_x4_classical", adaptation_strength=0.9, sharpening_strength=0.0)
    sharpened = build(workshop, "amd_x4_classical", adaptation_strength=0.0, sharpening_strength=1.0)
    for model in (plain, adapted, sharpened):
        for iteration in (1, 2):
            model.optimize_parameters(iteration)
    assert changed(adapted.net_g, snapshot(plain.net_g))
    assert not changed(adapted.net_fake, snapshot(plain.net_fake))
    assert changed(sharpened.net_fake, snapshot(plain.net_fake))


def test_each_lq_is_restored_from_a_group_of_noises(workshop: Path) -> None:
    model = build(workshop, group_size=3)
    assert model.lq.shape == (6, 3, 12, 12)
    assert torch.equal(model.lq[0], model.lq[2]) and not torch.equal(model.lq[0], model.lq[3])
    model.seed_step(1)
    noise = model.start_noise()
    assert not torch.equal(noise[0], noise[1])


def test_paired_training_data_is_grouped_too_and_validation_is_not(workshop: Path) -> None:
    model = build(workshop, group_size=3)
    lq = torch.rand(2, 3, 12, 12)
    batch = {"gt": torch.rand(2, 3, 48, 48), "lq": lq, "lq_path": ["a", "b"]}
    model.feed_data(batch)
    assert model.lq.shape[0] == model.gt.shape[0] == 6
    assert torch.equal(model.lq[:3], lq[:1].expand(3, -1, -1, -1))
    with torch.no_grad():
        model.feed_data(batch)
    assert model.lq.shape[0] == 2


def test_all_lengths_of_schedule_are_drawn(workshop: Path) -> None:
    model = build(workshop, num_steps=[1, 2, 4], step_weights=[1.0, 1.0, 1.0])
    drawn: set[tuple[int, int]] = set()
    for iteration in range(200):
        model.seed_step(iteration)
        steps, stops = model.draw_schedules()[:2]
        assert torch.equal(steps[0], steps[1]) and torch.equal(stops[0], stops[1])  # one group
        drawn.update(zip(steps.tolist(), stops.tolist(), strict=True))
    assert drawn == {(1, 0), (2, 0), (2, 1), (4, 0), (4, 1), (4, 2), (4, 3)}


def test_a_gradient_that_is_not_finite_stops_the_run(workshop: Path) -> None:
    from amd_restore.errors import AMDRestoreError

    model = build(workshop, "dmd_x4_classical")
    before = snapshot(model.net_fake)
    parameter = next(model.net_fake.parameters())
    with pytest.raises(AMDRestoreError, match="not finite"):
        model.descend(model.optimizer_fake, rollout_of(model), lambda _: {"l_fake": (parameter * float("nan")).sum()})
    assert not changed(model.net_fake, before)
