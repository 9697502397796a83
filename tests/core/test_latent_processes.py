"""Forward processes read from a pretrained model's own scheduler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from latent_models import STABLE_DIFFUSION_SCHEDULER, diffusers

from amd_restore.archs.latent.pretrained import process_of_scheduler, scheduler_process
from amd_restore.diffusion import FlowMatching, VariancePreserving, build_process
from amd_restore.errors import AMDRestoreError

SCHEDULES: list[dict[str, Any]] = [
    STABLE_DIFFUSION_SCHEDULER,
    {"beta_schedule": "linear"},
    {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 200},
    {"trained_betas": [0.01, 0.02, 0.05, 0.2, 0.4], "num_train_timesteps": 5},
    {**STABLE_DIFFUSION_SCHEDULER, "rescale_betas_zero_snr": True},
]


@pytest.mark.parametrize("options", SCHEDULES, ids=str)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_variance_preserving_is_the_schedulers_process(
    options: dict[str, Any], prediction: str, tmp_path: Path
) -> None:
    # DDIM also tells what it takes for the clean image when the last state is pure noise.
    scheduler: Any = diffusers.DDIMScheduler(prediction_type=prediction, **({"clip_sample": False} | options))
    scheduler.save_pretrained(tmp_path / "scheduler")
    config, prediction_type = scheduler_process(tmp_path)
    process = build_process(json.loads(json.dumps(config)))
    assert isinstance(process, VariancePreserving)
    assert build_process(process.config()).config() == process.config()
    count = scheduler.config.num_train_timesteps
    scheduler.set_timesteps(count)
    steps = torch.tensor([0, 1, count // 3, count // 2, count - 2, count - 1])
    t = steps / (count - 1)
    torch.testing.assert_close(t * (count - 1), steps.float())
    x0, noise = torch.randn(2, len(steps), 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x_t = process.add_noise(x0, noise, t)
    torch.testing.assert_close(x_t, scheduler.add_noise(x0, noise, steps), rtol=1e-6, atol=1e-6)
    output = process.target(x0, noise, t, prediction_type)
    found = process.to_x0(output, x_t, t, prediction_type)
    for i, step in enumerate(steps):
        if prediction == "epsilon" and process.alpha(t[i]) < 1e-3:
            continue  # noise says nothing about the image there; diffusers divides by it all the same
        theirs = scheduler.step(output[i : i + 1], step, x_t[i : i + 1]).pred_original_sample
        # Noise is told from image by a division by alpha, which multiplies the rounding of both.
        amplified = 1 / float(process.alpha(t[i])) if prediction == "epsilon" else 1.0
        torch.testing.assert_close(found[i : i + 1], theirs, rtol=1e-6, atol=1e-6 * amplified)


def test_between_its_timesteps_the_process_moves_evenly_in_log_snr() -> None:
    process = VariancePreserving(**{k: v for k, v in STABLE_DIFFUSION_SCHEDULER.items() if k.startswith("beta")})
    t = torch.tensor([500.0, 500.25, 501.0]) / 999
    low, between, high = process.log_snr(t)
    torch.testing.assert_close(between, 0.75 * low + 0.25 * high)
    dense = torch.linspace(0, 1, 5001)
    assert (process.alpha(dense).diff() < 0).all() and (process.sigma(dense).diff() > 0).all()
    torch.testing.assert_close(process.alpha(dense) ** 2 + process.sigma(dense) ** 2, torch.ones(5001))
    assert torch.equal(process.input_scale(dense), torch.ones(5001))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_is_the_schedulers_process(shift: float, tmp_path: Path) -> None:
    scheduler: Any = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.save_pretrained(tmp_path / "scheduler")
    config, prediction_type = scheduler_process(tmp_path)
    process = build_process(config)
    assert isinstance(process, FlowMatching) and prediction_type == "flow" and process.config() == config
    rows = torch.tensor([0, 1, 250, 600, 999])  # their table runs from noise to image
    t = (1000 - rows) / 1000
    torch.testing.assert_close(process.sigma(t), scheduler.sigmas[rows], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(process.network_time(t) * 1000, scheduler.timesteps[rows], rtol=1e-6, atol=1e-3)
    x0, noise = torch.randn(2, len(rows), 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x_t = process.add_noise(x0, noise, t)
    theirs = scheduler.scale_noise(x0, scheduler.timesteps[rows], noise)
    torch.testing.assert_close(x_t, theirs, rtol=1e-6, atol=1e-6)
    output = process.target(x0, noise, t, "flow")
    torch.testing.assert_close(process.to_x0(output, x_t, t, "flow"), x0, rtol=1e-5, atol=1e-5)
    assert torch.equal(process.input_scale(t), torch.ones(5))
    # One step of theirs to the end is the estimate of the clean image.
    scheduler.set_timesteps(sigmas=[1.0])
    theirs = scheduler.step(output[:1], scheduler.timesteps[0], x_t[:1]).prev_sample
    torch.testing.assert_close(process.to_x0(output, x_t, t, "flow")[:1], theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}, "shift with the resolution"),
        ({"_class_name": "EDMEulerScheduler", "sigma_min": 0.002}, "EDMEulerScheduler .* is not known"),
        ({"_class_name": "DPMSolver", "beta_schedule": "linear", "prediction_type": "cosmic"}, "'cosmic'"),
    ],
)
def test_schedulers_of_other_processes_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(AMDRestoreError, match=message):
        process_of_scheduler(config, "folder/scheduler")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta_end": 1.5}, "betas must lie"),
        ({"beta_schedule": "cubic"}, "unknown beta_schedule 'cubic'"),
        ({"num_train_timesteps": 1}, "at least 2"),
        ({"gamma": 1}, "'gamma'"),
    ],
)
def test_a_bad_process_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AMDRestoreError, match=message) as found:
        build_process({"type": "variance_preserving", **options})
    assert "\n" not in str(found.value)
