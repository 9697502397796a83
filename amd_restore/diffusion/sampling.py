"""From noise to image: the many-step sampler of the teacher and the few-step rollout of the student."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from amd_restore.diffusion.codec import Codec, ResidualCodec
from amd_restore.diffusion.denoiser import Denoiser
from amd_restore.diffusion.process import Process, shift_time


def lq_start(codec: Codec, process: Process, lq: Tensor, cond: Tensor, noise: Tensor, amount: float = 0.0) -> Tensor:
    """State at t = 1 of a student that starts from the latent of the enlarged ``lq`` (OSEDiff, 2406.08177, eq. 2).

    Args:
        codec: makes that latent; for all but the residual one it is the condition.
        process: of the student.
        lq: (B, 3, H, W) in [0, 1].
        cond: its condition, as the student sees it.
        noise: standard normal (B, C, h, w).
        amount: noise added, in deviations of the process at t = 1; without any, samples of one image are equal.

    Returns:
        (B, C, h, w); zeros and noise for the residual codec, whose latent of ``lq`` is nothing.
    """
    latent = codec.encode(codec.upsample(lq), lq) if codec.name == ResidualCodec.name else cond
    if amount == 0:
        return latent
    return latent + amount * process.sigma(torch.ones((), device=noise.device)) * noise


def _batch_time(t: Tensor, like: Tensor) -> Tensor:
    return t.expand(like.shape[0]).to(like.device)


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    noise: Tensor,
    cond: Tensor,
    num_steps: int,
    guidance_scale: float = 1.0,
    fresh_noise: Callable[[int], Tensor] | None = None,
    time_shift: float = 1.0,
    start: Tensor | None = None,
) -> Tensor:
    """Go from t = 1 to t = 0 in ``num_steps`` steps.

    Without ``fresh_noise`` the steps are deterministic: the ODE that a teacher was trained to follow. A few-step
    student has no ODE; it answers with a sample whose errors depend on the noise it saw, so it is noised again with
    *fresh* noise (as consistency models, 2303.01469, algorithm 1, and DMD2 do), or those errors would accumulate.

    Args:
        denoiser: teacher or student.
        noise: standard normal (B, C, h, w).
        cond: condition (B, K, h, w).
        num_steps: network evaluations (twice as many with guidance).
        guidance_scale: 1 is no guidance.
        fresh_noise: called with 1, 2, ... for the noise, of the shape of ``noise``, of each step after the first.
        time_shift: 1 spaces the steps evenly; less moves those after the first towards the image, see
            :func:`~amd_restore.diffusion.process.shift_time`.
        start: the state at t = 1, see :func:`lq_start`; None is ``noise`` times the process's deviation there.

    Returns:
        x0 (B, C, h, w).

    Raises:
        AMDRestoreError: when ``num_steps`` is below 1.
    """
    times = denoiser.process.times(num_steps, noise.device, time_shift)
    x_t = noise * denoiser.process.sigma(times[0]) if start is None else start
    for i, (t, s) in enumerate(zip(times[:-1], times[1:], strict=True)):
        x0 = denoiser.guided(x_t, _batch_time(t, x_t), cond, guidance_scale)
        if s == 0:
            x_t = x0
        elif fresh_noise is None:
            x_t = denoiser.process.step(x_t, x0, _batch_time(t, x_t), _batch_time(s, x_t))
        else:
            x_t = denoiser.process.add_noise(x0, fresh_noise(i + 1), _batch_time(s, x_t))
    return x_t


def rollout(
    denoiser: Denoiser,
    noise: Tensor,
    cond: Tensor,
    num_steps: int | Tensor,
    stop_step: int | Tensor | None = None,
    fresh_noise: Callable[[int], Tensor] | None = None,
    time_shift: float = 1.0,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Backward simulation (DMD2, 2405.14867, section 4.5): the student meets its own intermediate states.

    All calls but the last run without gradient, each only on the samples that need it; the last one, on the whole
    batch, carries the gradient (if enabled outside).

    Args:
        denoiser: the student.
        noise: standard normal (B, C, h, w).
        cond: condition (B, K, h, w).
        num_steps: length of each sample's schedule, a number or (B,).
        stop_step: index in [0, num_steps) of the call whose estimate is returned, a number or (B,); None is the last.
        fresh_noise: as in :func:`sample`, for the whole batch.
        time_shift: as in :func:`sample`.
        start: as in :func:`sample`; its gradient reaches whoever made it from the samples asked at their first step.

    Returns:
        The student's sample x0 (B, C, h, w) and the time (B,) at which it was asked.
    """
    count = noise.shape[0]
    steps = torch.as_tensor(num_steps, device=noise.device).expand(count)
    stop = steps - 1 if stop_step is None else torch.as_tensor(stop_step, device=noise.device).expand(count)
    x_t = approach(denoiser, noise, cond, steps, stop, fresh_noise, time_shift, start)
    return last_call(denoiser, x_t, cond, steps, stop, time_shift, start)


@torch.no_grad()
def approach(
    denoiser: Denoiser,
    noise: Tensor,
    cond: Tensor,
    steps: Tensor,
    stop: Tensor,
    fresh_noise: Callable[[int], Tensor] | None = None,
    time_shift: float = 1.0,
    start: Tensor | None = None,
) -> Tensor:
    """All of a :func:`rollout` but its last call: the states (B, C, h, w) in which the student is asked last.

    Args:
        denoiser, noise, cond, fresh_noise, time_shift, start: as in :func:`rollout`.
        steps, stop: as ``num_steps`` and ``stop_step`` there, (B,); on the CPU they save waiting for a GPU.
    """
    first = noise * denoiser.process.sigma(torch.ones((), device=noise.device)) if start is None else start
    x_t = first.clone() if start is not None else first
    for i in range(int(stop.max())):
        rows = (stop > i).nonzero().squeeze(1)
        t, s = (shift_time(1.0 - k / steps[rows], time_shift).to(x_t.device) for k in (i, i + 1))
        x0 = denoiser(x_t[rows], t, cond[rows])
        if fresh_noise is None:
            x_t[rows] = denoiser.process.step(x_t[rows], x0, t, s)
        else:
            x_t[rows] = denoiser.process.add_noise(x0, fresh_noise(i + 1)[rows], s)
    return x_t


def last_call(
    denoiser: Denoiser,
    x_t: Tensor,
    cond: Tensor,
    steps: Tensor,
    stop: Tensor,
    time_shift: float = 1.0,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The call of a :func:`rollout` that carries the gradient, given the states ``x_t`` of :func:`approach`."""
    if start is not None:
        x_t = torch.where((stop == 0).to(x_t.device).reshape(-1, 1, 1, 1), start, x_t)
    t = shift_time(1.0 - stop / steps, time_shift).to(x_t.device)
    return denoiser(x_t, t, cond), t
