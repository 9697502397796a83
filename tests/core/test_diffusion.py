"""Processes, conversions, codec, denoiser, sampler and rollout; parity with diffusers where it has the same thing."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from amd_restore.diffusion import (
    PREDICTION_TYPES,
    Denoiser,
    Draw,
    FlowMatching,
    GuidedDenoiser,
    Process,
    RectifiedFlow,
    ResidualCodec,
    approach,
    build_codec,
    build_process,
    last_call,
    row_times,
    sample_ode,
    sample_renoise,
)
from amd_restore.errors import AMDRestoreError

PROCESSES = [RectifiedFlow(), FlowMatching(3.0)]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_to_x0_inverts_target(process: Process, prediction_type: str) -> None:
    x0, noise, t = torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5), torch.tensor([0.1, 0.4, 0.7, 0.95])
    output = process.target(x0, noise, t, prediction_type)
    found = process.to_x0(output, process.add_noise(x0, noise, t), t, prediction_type)
    torch.testing.assert_close(found, x0, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
def test_v_has_unit_variance_and_is_minus_x0_at_pure_noise(process: Process) -> None:
    x0, noise = torch.randn(1, 1, 200, 200), torch.randn(1, 1, 200, 200)
    for time in (0.05, 0.5, 1.0):
        target = process.target(x0, noise, torch.tensor([time]), "v")
        assert target.std() == pytest.approx(1.0, abs=0.02)
    torch.testing.assert_close(target, -x0)


def test_v_is_diffusers_velocity_where_the_process_preserves_variance() -> None:
    from diffusers import DDPMScheduler

    scheduler = cast(Any, DDPMScheduler)(prediction_type="v_prediction")
    step = torch.tensor([300, 700])

    class VariancePreserving(Process):
        def alpha(self, t: Tensor) -> Tensor:
            return scheduler.alphas_cumprod[step].sqrt()

        def sigma(self, t: Tensor) -> Tensor:
            return (1 - scheduler.alphas_cumprod[step]).sqrt()

    x0, noise, process = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), VariancePreserving()
    torch.testing.assert_close(process.add_noise(x0, noise, step), scheduler.add_noise(x0, noise, step))
    torch.testing.assert_close(process.target(x0, noise, step, "v"), scheduler.get_velocity(x0, noise, step))


def test_rectified_flow_is_diffusers_flow_matching() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = cast(Any, FlowMatchEulerDiscreteScheduler)()
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    x0, noise, process = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4), RectifiedFlow()
    x_t = noise
    for i, timestep in enumerate(scheduler.timesteps):
        t, s = torch.tensor([1 - i / 4]), torch.tensor([1 - (i + 1) / 4])
        velocity = process.noise_from_x0(x_t, x0, t) - x0
        theirs = scheduler.step(velocity, timestep, x_t).prev_sample
        x_t = process.step(x_t, x0, t, s)
        torch.testing.assert_close(x_t, theirs, rtol=1e-5, atol=1e-5)


def test_loss_weight_is_that_of_v() -> None:
    process, t = RectifiedFlow(), torch.tensor([0.3, 0.9])
    x0, guess, noise = (torch.randn(2, 1, 3, 3) for _ in range(3))
    x_t = process.add_noise(x0, noise, t)
    as_v = [process.target(x, process.noise_from_x0(x_t, x, t), t, "v") for x in (x0, guess)]
    error_v = (as_v[0] - as_v[1]).square().mean(dim=(1, 2, 3))
    error_x0 = (x0 - guess).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(error_v, error_x0 * process.loss_weight(t))


def test_wrong_options_are_named() -> None:
    for call in (
        lambda: build_process({"type": "brownian"}),
        lambda: FlowMatching(0.0),
        lambda: build_codec({"type": "vae", "scale": 4}),
        lambda: ResidualCodec(scale=3, patch=4),
        lambda: RectifiedFlow().times(0),
        lambda: RectifiedFlow().to_x0(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1), "score"),
    ):
        with pytest.raises(AMDRestoreError):
            call()
    assert build_process(FlowMatching(1.5).config()).config() == {"type": "flow_matching", "shift": 1.5}


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_codec_round_trip_and_shapes(scale: int) -> None:
    codec = build_codec({"scale": scale, "patch": 4, "std": 0.1})
    gt, lq = torch.rand(2, 3, 16, 24), torch.rand(2, 3, 16 // scale, 24 // scale)
    x0, cond = codec.encode(gt, lq), codec.condition(lq)
    assert x0.shape == codec.latent_shape(lq) == (2, codec.channels, 4, 6)
    assert cond.shape == (2, codec.cond_channels, 4, 6)
    torch.testing.assert_close(codec.decode(x0, lq), gt)
    torch.testing.assert_close(codec.decode(torch.zeros_like(x0), lq), codec.upsample(lq))


class Shrink(nn.Module):
    """Ideal denoiser of N(mean, std^2) data under the rectified flow, predicting x0; counts its calls by batch size."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.gain = nn.Parameter(torch.ones(()))
        self.calls: list[int] = []

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None, keep: Tensor | None = None) -> Tensor:
        self.calls.append(len(x_t))
        t = t.reshape(-1, 1, 1, 1)
        x_t = x_t / RectifiedFlow().input_scale(t)
        weight = (1 - t) * self.std**2 / ((1 - t) ** 2 * self.std**2 + t**2)
        return self.gain * (self.mean + weight * (x_t - (1 - t) * self.mean))


def test_the_sampler_follows_the_ode_to_the_data() -> None:
    denoiser = Denoiser(Shrink(0.5, 0.3), RectifiedFlow(), "x0")
    noise = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    cond = torch.zeros_like(noise)
    x0 = sample_ode(denoiser, noise, cond, denoiser.process.times(100))
    assert x0.mean() == pytest.approx(0.5, abs=0.01) and x0.std() == pytest.approx(0.3, rel=0.03)
    # One step of a teacher is the posterior mean.
    assert sample_ode(denoiser, noise, cond, denoiser.process.times(1)).std() < 1e-6


def test_fresh_noise_is_used_between_steps_only() -> None:
    denoiser = Denoiser(Shrink(0.0, 1.0), RectifiedFlow(), "x0")
    noise, cond = torch.randn(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    asked: list[int] = []

    def fresh(step: int) -> Tensor:
        asked.append(step)
        return torch.full_like(noise, float(step))

    found = sample_renoise(denoiser, noise, cond, denoiser.process.times(3), fresh)
    assert asked == [1, 2]
    x_t, process = noise, RectifiedFlow()
    for step, (t, s) in enumerate([(1.0, 2 / 3), (2 / 3, 1 / 3)], start=1):
        x0 = denoiser(x_t, torch.full((2,), t), cond)
        x_t = process.add_noise(x0, torch.full_like(noise, float(step)), torch.full((2,), s))
    torch.testing.assert_close(found, denoiser(x_t, torch.full((2,), 1 / 3), cond), rtol=1e-4, atol=1e-5)
    times = process.times(1)
    assert torch.equal(sample_renoise(denoiser, noise, cond, times, fresh), sample_ode(denoiser, noise, cond, times))


def rollout(
    denoiser: Denoiser, noise: Tensor, cond: Tensor, steps: Tensor, stops: Tensor, draw: Draw | None = None
) -> tuple[Tensor, Tensor]:
    """A student's samples and their times, as training makes them."""
    times = row_times(steps, int(stops.max()), 1.0)
    x_t = approach(denoiser, noise, cond, times, stops, draw)
    return last_call(denoiser, noise, x_t, cond, times, stops)


@pytest.mark.parametrize("renoise", [False, True])
def test_rollout_with_mixed_schedules_is_that_of_each_sample_alone(renoise: bool) -> None:
    net = Shrink(0.2, 0.7)
    denoiser = Denoiser(net, RectifiedFlow(), "x0")
    noise, cond = torch.randn(4, 1, 4, 4), torch.zeros(4, 1, 4, 4)
    layers = {step: torch.randn(4, 1, 4, 4) for step in (1, 2, 3)}
    steps, stops = torch.tensor([1, 2, 4, 4]), torch.tensor([0, 1, 3, 1])
    mixed, t = rollout(denoiser, noise, cond, steps, stops, (lambda step: layers[step]) if renoise else None)
    assert net.calls == [3, 1, 1, 4]  # each early call only on the samples that need it
    torch.testing.assert_close(t, torch.tensor([1.0, 0.5, 0.25, 0.75]))
    for i in range(4):
        one = slice(i, i + 1)
        draw = (lambda step, one=one: layers[step][one]) if renoise else None
        alone, _ = rollout(denoiser, noise[one], cond[one], steps[one], stops[one], draw)
        torch.testing.assert_close(mixed[one], alone)


def test_only_the_last_call_of_a_rollout_carries_gradient() -> None:
    net = Shrink(0.2, 0.7)
    noise, cond = torch.randn(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    steps = torch.tensor([4, 4])
    x0, _ = rollout(Denoiser(net, RectifiedFlow(), "x0"), noise, cond, steps, steps - 1)
    (gradient,) = torch.autograd.grad(x0.sum(), net.gain)
    torch.testing.assert_close(gradient, x0.sum())  # d(gain * y) = y; earlier calls would add to it


def test_guidance_extrapolates_from_the_unconditional_estimate() -> None:
    class Conditional(nn.Module):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor | None, keep: Tensor | None = None) -> Tensor:
            return torch.zeros_like(x) if cond is None else cond

    denoiser = Denoiser(Conditional(), RectifiedFlow(), "x0")
    x_t, t, cond = torch.randn(1, 1, 2, 2), torch.ones(1), torch.full((1, 1, 2, 2), 2.0)
    guided = GuidedDenoiser(denoiser, 3.0)
    torch.testing.assert_close(guided(x_t, t, cond), torch.full_like(x_t, 6.0))
    torch.testing.assert_close(guided(x_t, t, None), torch.zeros_like(x_t))


SMALL: dict[str, dict[str, Any]] = {
    "FlatDenoiser": {"num_feat": 8, "num_block": 1},
    "CondUNet": {"channels": (32, 32)},
}


@pytest.mark.parametrize("arch", SMALL)
def test_architectures_drop_the_condition_per_sample(arch: str) -> None:
    from amd_restore.registry import ARCH_REGISTRY, register_all

    register_all()
    net = ARCH_REGISTRY.get(arch)(in_channels=12, cond_channels=3, **SMALL[arch])
    assert not net(torch.randn(1, 12, 5, 7), torch.ones(1), None).any()  # zero-initialised end
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    x_t, t, cond = torch.randn(2, 12, 5, 7), torch.tensor([0.3, 1.0]), torch.randn(2, 3, 5, 7)
    both = net(x_t, t, cond, torch.tensor([True, False]))
    assert both.shape == x_t.shape
    torch.testing.assert_close(both[:1], net(x_t, t, cond)[:1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(both[1:], net(x_t, t, None)[1:], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(both[1:], net(x_t, t, cond)[1:], atol=1e-3)
