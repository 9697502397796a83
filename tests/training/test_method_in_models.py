"""What the models do with the equations: who is called with what, and what becomes of the answers.

The networks are replaced by answers that are known, so that every expected value can be written down.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from test_distillation import build, feed, snapshot, workshop  # noqa: F401
from torch import Tensor
from training_setup import build_model, load_miniature, rollout_of

Answer = Callable[[str, Tensor, Tensor, Tensor | None], Tensor]  # (network, x_t, t, condition) -> x0


class Spy:
    """Stands in for all denoisers of a model and notes their calls.

    Args:
        model: whose networks are replaced.
        answer: what they predict.
    """

    def __init__(self, model: Any, answer: Answer) -> None:
        self.calls: list[dict[str, Any]] = []
        self.answer, self.process = answer, model.process
        names = ("net_g", "net_teacher", "net_fake")
        self.names = {id(getattr(model, name)): name for name in names if hasattr(model, name)}
        model.denoiser = self.of

    def of(self, net: torch.nn.Module) -> Any:
        """A denoiser of ``net``."""
        name = self.names[id(net)]

        def call(x_t: Tensor, t: Tensor, cond: Tensor | None, keep: Tensor | None = None) -> Tensor:
            self.calls.append({"net": name, "x_t": x_t, "t": t, "cond": cond, "keep": keep})
            return self.answer(name, x_t, t, cond)

        call.process = self.process  # type: ignore[attr-defined]
        return call

    def of_net(self, name: str) -> list[dict[str, Any]]:
        """Calls of one network, in their order."""
        return [call for call in self.calls if call["net"] == name]


def prepare(model: Any) -> tuple[Any, Tensor]:
    """A student's model, and samples as its student could have made them."""
    model.seed_step(2)
    return model, torch.randn(model.codec.latent_shape(model.lq), generator=torch.Generator().manual_seed(0))


# ---- the matching direction -------------------------------------------------------------------------------------


def test_direction_and_normaliser_of_known_teachers(workshop: Path) -> None:  # noqa: F811
    model, x0 = prepare(build(workshop))
    spy = Spy(model, lambda net, *_: x0 + (0.3 if net == "net_teacher" else -0.1))
    direction, norm = model.direction(rollout_of(model, x0, advantage=torch.zeros(len(x0))))
    torch.testing.assert_close(direction, torch.full_like(x0, 0.4))
    # The distance to the teacher's estimate, not to the fake one's.
    torch.testing.assert_close(norm, torch.full((len(x0), 1, 1, 1), 0.3))
    (teacher,), (fake,) = spy.of_net("net_teacher"), spy.of_net("net_fake")
    assert torch.equal(teacher["x_t"], fake["x_t"]) and torch.equal(teacher["t"], fake["t"])
    assert not spy.of_net("net_g")


def test_guidance_compares_the_teacher_with_itself_without_a_condition(workshop: Path) -> None:  # noqa: F811
    model, x0 = prepare(build(workshop, guidance_scale=3.0, adaptation_strength=0.0))

    def answer(net: str, x_t: Tensor, t: Tensor, given: Tensor | None) -> Tensor:
        if net == "net_fake":
            return x0 - 0.1
        return x0 + (0.05 if given is None else 0.3)

    spy = Spy(model, answer)
    direction, _ = model.direction(rollout_of(model, x0, advantage=torch.zeros(len(x0))))
    torch.testing.assert_close(direction, torch.full_like(x0, 0.4 + 2.0 * (0.3 - 0.05)))
    given = [call["cond"] is not None for call in spy.of_net("net_teacher")]
    assert sorted(given) == [False, True], "once each"


@pytest.mark.parametrize("decay", [0.0, 1.0, 2.0])
def test_later_steps_are_matched_less(workshop: Path, decay: float) -> None:  # noqa: F811
    """By the time of the step to the power ``matching_decay``."""
    model, x0 = prepare(build(workshop, matching_decay=decay, adaptation_strength=0.0))
    known = x0.clone()
    Spy(model, lambda net, *_: known + (0.3 if net == "net_teacher" else -0.1))
    t = torch.linspace(1.0, 0.2, len(x0))
    rollout = rollout_of(model, x0.requires_grad_(), t, advantage=torch.zeros(len(x0)))
    losses = model.student_losses(model.with_direction(rollout))
    (gradient,) = torch.autograd.grad(losses["l_amd"], x0)
    expected = -(0.4 / 0.3) * t**decay / x0.numel()
    torch.testing.assert_close(gradient, expected.reshape(-1, 1, 1, 1).expand_as(x0), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("first", [True, False])
def test_the_first_step_is_matched_or_left_to_the_ground_truth(workshop: Path, first: bool) -> None:  # noqa: F811
    """A student of one step without ``matching_first`` learns from the ground truth alone."""
    alone: dict[str, Any] = {
        "num_steps": [1],
        "step_weights": [1.0],
        "losses": [{"type": "L1"}],
        "fake_updates_per_student": 1,
    }
    models = [build(workshop, matching_first=first, **alone), build(workshop, weight_dmd=0.0, **alone)]
    for model in models:
        model.optimize_parameters(1)
    ours, unmatched = (snapshot(model.net_g) for model in models)
    assert all(torch.equal(ours[key], unmatched[key]) for key in ours) == (not first)


def test_teacher_and_fake_score_meet_only_what_is_matched(workshop: Path) -> None:  # noqa: F811
    """Else the fake score pushes the later steps away from the first one, and they settle too wide."""
    model, x0 = prepare(build(workshop, matching_first=False, adaptation_strength=0.0, sharpening_strength=1.0))
    t, advantage = torch.tensor([1.0, 1.0, 0.2, 0.2, 1.0, 1.0, 0.1, 0.1]), torch.linspace(-1.0, 1.0, 8)
    assert len(x0) == len(t)
    rollout = rollout_of(model, x0, t, advantage=advantage)
    spy = Spy(model, lambda net, x_t, *_: x_t * 0.0)
    direction, _ = model.direction(rollout)
    assert [len(call["t"]) for call in spy.calls] == [4, 4]
    matched = t < 1.0
    assert not direction[~matched].any()
    batches: list[Any] = []
    model.descend = lambda optimizer, batch, losses_of: batches.append((batch, losses_of(batch)))
    model.update_fake(rollout)
    batch, losses = batches[0]
    assert torch.equal(batch.x0, x0[matched])
    expected = torch.exp(-advantage[matched]) / torch.exp(-advantage[matched]).mean()
    torch.testing.assert_close(batch.weight, expected)
    weight = expected * model.process.loss_weight(batch.t) * x0[matched].square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(losses["l_fake"], weight.mean())
    batches.clear()
    model.update_fake(rollout_of(model, x0, torch.ones(8), advantage=advantage))
    assert not batches, "nothing is matched: the fake score stays"


@pytest.mark.parametrize(
    "options",
    [
        {"group_size": 4, "spatial": True},
        {"advantage": "teacher", "group_size": 1, "advantage_every": 2},
        {"advantage": "teacher", "group_size": 2, "std_floor": 1.0, "permute_advantage": True},
    ],
)
def test_rewards_meet_only_what_is_matched(workshop: Path, options: dict[str, Any]) -> None:  # noqa: F811
    """Statistics, logs and advantages of a batch are those of its matched rows alone."""
    whole, part = (build(workshop, matching_first=first, **options) for first in (False, True))
    size = options["group_size"]
    for model in (whole, part):
        coarse = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(3))
        gt = torch.nn.functional.interpolate(coarse, size=(48, 48), mode="bicubic").clamp(0, 1)
        model.feed_data({"gt": gt})
        model.current_iter, model.diagnosing = model.run.distill.fake_updates_per_student, True
        model.seed_step(1)
    rollout = whole.generate(whole.draw_rollout(), with_gradient=False)
    matched = torch.tensor([False, True, False, True]).repeat_interleave(size)
    rollout = rollout.having(stops=matched.long())
    rows = matched.nonzero().squeeze(1)
    noise = whole.randn(rollout.noise.shape)  # of the teacher's samples, which are drawn for the whole batch
    whole.randn, part.randn = (lambda shape: noise[: shape[0]]), (lambda shape: noise[1 : 2 * shape[0] : 2])
    found, expected = whole.diagnose(rollout, True), part.diagnose(rollout[rows], True)
    torch.testing.assert_close(found[matched], expected)
    assert not found[~matched].any()
    torch.testing.assert_close(whole.mean_advantage, part.mean_advantage)
    for name, value in part.reward.state_dict().items():
        torch.testing.assert_close(whole.reward.state_dict()[name], value)
    logs = [model.get_current_log() for model in (whole, part)]
    for log in logs:
        log.pop("amd/overhead")  # a time
    assert logs[0] == pytest.approx(logs[1], rel=1e-4, nan_ok=True) and "amd/alpha_mean" in logs[0]

    before = {name: value.clone() for name, value in whole.reward.state_dict().items()}
    nothing = whole.diagnose(rollout.having(stops=torch.zeros_like(rollout.stops)), True)
    assert not nothing.any() and all(torch.equal(whole.reward.state_dict()[name], before[name]) for name in before)


# ---- rollout ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1.0, 0.2])
def test_the_student_meets_its_states_at_the_shifted_times(workshop: Path, shift: float) -> None:  # noqa: F811
    model, x0 = prepare(build(workshop, num_steps=[4], step_weights=[1.0], time_shift=shift))
    spy = Spy(model, lambda *call: torch.zeros_like(call[1]))
    rows = len(x0)
    model.draw_schedules = lambda: (torch.full((rows,), 4), torch.full((rows,), 3), 3)
    rollout = model.generate(model.draw_rollout(), with_gradient=False)
    even = torch.tensor([1.0, 0.75, 0.5, 0.25])
    expected = shift * even / (1.0 + (shift - 1.0) * even)
    assert [float(call["t"].unique()) for call in spy.calls] == pytest.approx(expected.tolist())
    torch.testing.assert_close(rollout.t, expected[-1].expand(rows))
    last = spy.calls[-1]["x_t"]
    assert torch.equal(last, rollout.x_t)
    assert float(last.std()) == pytest.approx(float(expected[-1]), rel=0.05), "nothing but noise, of that time"


def test_every_sample_of_a_group_starts_from_its_own_noise(workshop: Path) -> None:  # noqa: F811
    model = build(workshop)
    spy = Spy(model, lambda *call: torch.zeros_like(call[1]))
    model.seed_step(1)
    model.draw_schedules = lambda: (torch.full((len(model.lq),), 2), torch.ones(len(model.lq)).long(), 1)
    model.generate(model.draw_rollout(), with_gradient=False)
    for call in spy.calls:  # the first state is noise, the second fresh noise
        correlation = torch.corrcoef(call["x_t"].flatten(1)) - torch.eye(len(model.lq))
        assert len(model.lq) > 2 and correlation.abs().max() < 0.1
    assert len(spy.calls) == 2


# ---- the fake score ---------------------------------------------------------------------------------------------


def fake_calls(model: Any, x0: Tensor, count: int) -> list[dict[str, Any]]:
    spy = Spy(model, lambda *_: x0)
    for iteration in range(1, count + 1):
        model.seed_step(iteration)
        model.fake_losses(model.fake_batch(rollout_of(model, x0)))
    return spy.of_net("net_fake")


def test_the_fake_teacher_learns_at_all_times(workshop: Path) -> None:  # noqa: F811
    model, x0 = prepare(build(workshop))
    times = torch.cat([call["t"] for call in fake_calls(model, x0, 50)])
    low = model.run.distill.t_min
    assert low <= times.min() < low + 0.05 and 0.95 < times.max() <= 1.0
    assert float(times.mean()) == pytest.approx((low + 1.0) / 2, abs=0.05) and len(times.unique()) == len(times)


def test_the_fake_teacher_learns_from_fresh_noise(workshop: Path) -> None:  # noqa: F811
    model, x0 = prepare(build(workshop))
    noises = []
    for call in fake_calls(model, x0, 2):
        alpha, sigma = (c(call["t"]).reshape(-1, 1, 1, 1) for c in (model.process.alpha, model.process.sigma))
        noises.append(((call["x_t"] - alpha * x0) / sigma).flatten())
        assert float(noises[-1].std()) == pytest.approx(1.0, abs=0.02) and abs(float(noises[-1].mean())) < 0.02
    assert abs(float(torch.corrcoef(torch.stack(noises))[0, 1])) < 0.05


def test_the_fake_teacher_is_sharpest_where_samples_are_worst(workshop: Path) -> None:  # noqa: F811
    model, x0 = prepare(build(workshop, sharpening_strength=1.0))
    advantage = torch.linspace(-1.0, 1.0, len(x0))
    batch = model.fake_batch(rollout_of(model, x0, advantage=advantage))
    expected = torch.exp(-advantage) / torch.exp(-advantage).mean()
    torch.testing.assert_close(batch.weight, expected)
    spy = Spy(model, lambda *_: x0 + 0.5)
    loss = model.fake_losses(batch)[0]["l_fake"]
    weight_t = model.process.loss_weight(spy.calls[-1]["t"])
    torch.testing.assert_close(loss, 0.25 * (expected * weight_t).mean())


# ---- rewards ----------------------------------------------------------------------------------------------------


def test_the_better_sample_of_a_group_has_the_advantage(workshop: Path) -> None:  # noqa: F811
    model = build(workshop, group_size=2, std_floor=1.0)
    noise = torch.randn(model.gt.shape, generator=torch.Generator().manual_seed(0))
    amount = torch.tensor([0.02, 0.2, 0.2, 0.02]).reshape(-1, 1, 1, 1)
    advantage = model.advantage(model.gt + amount * noise, model.gt, model.lq)[0]
    assert (advantage > 0.5).tolist() == [True, False, False, True]
    assert (advantage < -0.5).tolist() == [False, True, True, False]
    alpha, beta = model.adaptation(advantage)
    assert beta[1] > 1.0 > beta[0] and alpha[0] > 1.0 > alpha[1], "poor samples: more matching, less guidance"


# ---- averages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["amd_x4_classical", "teacher_x4_classical"])
def test_the_average_moves_by_its_decay(workshop: Path, name: str) -> None:  # noqa: F811
    model = teacher(workshop) if name.startswith("teacher") else build(workshop, name, fake_updates_per_student=1)
    model.ema_decay = 0.5
    for iteration, decay in ((1, 2 / 11), (2, 3 / 12), (40, 0.5)):
        average = snapshot(model.net_g_ema)
        feed(model, seed=iteration)
        model.optimize_parameters(iteration)
        weights = snapshot(model.net_g)
        assert any(not torch.allclose(average[key], weights[key], rtol=1e-2) for key in weights)
        for key, value in snapshot(model.net_g_ema).items():
            torch.testing.assert_close(value, decay * average[key] + (1.0 - decay) * weights[key], rtol=1e-4, atol=1e-6)


# ---- the teacher ------------------------------------------------------------------------------------------------


def teacher(folder: Path, **diffusion: Any) -> Any:
    start = str(folder / "experiments/start0/models/net_g_latest.pth")
    options = load_miniature("teacher_x4_classical", folder, start)
    options["amp"] = "none"
    options["diffusion"].update(diffusion)
    model = build_model(options, folder)
    feed(model)
    return model


def teacher_calls(model: Any, count: int = 200) -> list[dict[str, Any]]:
    x0 = model.codec.encode(model.gt, model.lq)
    spy = Spy(model, lambda *_: x0)
    for iteration in range(1, count + 1):
        model.seed_step(iteration)
        model.denoising_losses(model.draw_batch())
    return spy.calls


def test_losses_of_the_fake_score_are_on_its_late_estimates_of_the_students_images(workshop: Path) -> None:  # noqa: F811
    """The target is the student's image, not the photograph."""
    start = str(workshop / "experiments/start0/models/net_g_latest.pth")
    options = load_miniature("amd_x4_classical", workshop, start)
    options.setdefault("diffusion", {})["losses_below"] = 0.5
    options["fake_losses"] = [{"type": "L1", "weight": 2.0}]
    options["amp"] = "none"
    model = build_model(options, workshop)
    feed(model)
    model, x0 = prepare(model)
    assert "l1" in model.reward_names()
    Spy(model, lambda *_: x0 + 0.2)
    batch = model.fake_batch(rollout_of(model, x0, advantage=torch.zeros(len(x0))))
    images = model.codec.decode(x0, model.lq)
    torch.testing.assert_close(batch.gt, images)
    batch = batch.having(t=torch.tensor([0.4, *[0.9] * (len(x0) - 1)]))
    losses, _ = model.fake_losses(batch)
    error = 2.0 * (model.codec.decode(x0 + 0.2, model.lq) - images).abs().mean((1, 2, 3))
    assert float(error[0]) > 0
    torch.testing.assert_close(losses["l_l1_of_fake"], error[0] / len(x0))


def test_losses_of_the_teacher_are_on_its_late_conditioned_estimates(workshop: Path) -> None:  # noqa: F811
    """An error of the estimates counts by the share of such rows; early ones and those without condition have none."""

    def losses(part: Any, x0: torch.Tensor) -> torch.Tensor:
        below = model.run.diffusion.losses_below
        return cast(torch.Tensor, model.losses.of_late(part, x0, model.codec, below, model.host_generator)["l_l1"])

    start = str(workshop / "experiments/start0/models/net_g_latest.pth")
    options = load_miniature("teacher_x4_classical", workshop, start)
    options.update(amp="none", losses=[{"type": "L1", "weight": 2.0}])
    options.setdefault("diffusion", {})["losses_below"] = 0.5
    model = build_model(options, workshop)
    feed(model)
    assert model.reward_names() == ("l1",)
    x0 = model.codec.encode(model.gt, model.lq)
    batch = model.draw_batch()
    assert len(batch) == 2
    error = 2.0 * (model.codec.decode(x0 + 0.5, model.lq) - model.gt).abs().mean((1, 2, 3))
    for t, keep, rows in (
        ((0.4, 0.9), (True, True), [0]),
        ((0.1, 0.4), (False, True), [1]),
        ((0.5, 1.0), (True, True), [0]),
        ((0.6, 1.0), (True, True), []),
    ):
        part = batch.having(t=torch.tensor(t), keep=torch.tensor(keep))
        torch.testing.assert_close(losses(part, x0 + 0.5), error[rows].sum() / 2)
    x0 = x0.requires_grad_()
    losses(batch.having(t=torch.tensor([0.4, 0.9]), keep=torch.tensor([True, True])), x0 + 0.5).backward()
    assert x0.grad is not None and x0.grad[0].abs().sum() > 0 and not x0.grad[1].any()


def test_the_teacher_minimises_the_error_of_v(workshop: Path) -> None:  # noqa: F811
    """The x0 error times ``Process.loss_weight``, here of an error of .5 everywhere."""
    model = teacher(workshop, share_t1=0.0)
    x0 = model.codec.encode(model.gt, model.lq)
    spy = Spy(model, lambda *_: x0 + 0.5)
    model.seed_step(1)
    loss = model.denoising_losses(model.draw_batch())["l_denoise"]
    weight = model.process.loss_weight(spy.calls[-1]["t"])
    torch.testing.assert_close(loss, 0.25 * weight.mean())
    assert abs(float(weight.mean()) - 1.0) > 0.1, "else it would make no difference"


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_conditions_is_dropped(workshop: Path, share: float) -> None:  # noqa: F811
    keep = torch.cat([call["keep"] for call in teacher_calls(teacher(workshop, cond_dropout=share))]).float()
    assert float(keep.mean()) == pytest.approx(1.0 - share, abs=0.08 if 0 < share < 1 else 0.0)


def test_some_teacher_samples_are_pure_noise(workshop: Path) -> None:  # noqa: F811
    """The rest are at times whose logits are normal."""
    model = teacher(workshop, share_t1=0.25)
    times = torch.cat([call["t"] for call in teacher_calls(model)])
    assert float((times == 1.0).float().mean()) == pytest.approx(0.25, abs=0.08)
    assert float(torch.logit(times[times < 1.0]).mean()) == pytest.approx(model.run.diffusion.logit_mean, abs=0.2)
