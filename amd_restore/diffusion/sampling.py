"""From noise to image: the many-step sampler of the teacher and the few-step rollout of the student."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from amd_restore.diffusion.denoiser import Denoiser
from amd_restore.diffusion.process import shift_time


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

    Returns:
        x0 (B, C, h, w).

    Raises:
        AMDRestoreError: when ``num_steps`` is below 1.
    """
    times = denoiser.process.times(num_steps, noise.device, time_shift)
    x_t = noise * denoiser.process.sigma(times[0])
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

    Returns:
        The student's sample x0 (B, C, h, w) and the time (B,) at which it was asked.
    """
    count = noise.shape[0]
    steps = torch.as_tensor(num_steps, device=noise.device).expand(count)
    stop = steps - 1 if stop_step is None else torch.as_tensor(stop_step, device=noise.device).expand(count)
    x_t = noise * denoiser.process.sigma(torch.ones((), device=noise.device))
    with torch.no_grad():
        for i in range(int(stop.max())):
            rows = (stop > i).nonzero().squeeze(1)
            t, s = (shift_time(1.0 - k / steps[rows], time_shift) for k in (i, i + 1))
            x0 = denoiser(x_t[rows], t, cond[rows])
            if fresh_noise is None:
                x_t[rows] = denoiser.process.step(x_t[rows], x0, t, s)
            else:
                x_t[rows] = denoiser.process.add_noise(x0, fresh_noise(i + 1)[rows], s)
    t = shift_time(1.0 - stop / steps, time_shift)
    return denoiser(x_t, t, cond), t
