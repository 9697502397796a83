"""From noise to a clean latent: samplers, and the recipe by which the latent of an image is restored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from amd_restore.arrays import Array, broadcast, channels_last_memory, device_of, no_grad, where, zeros
from amd_restore.diffusion.codec import Codec, ResidualCodec
from amd_restore.diffusion.denoiser import Denoiser, GuidedDenoiser
from amd_restore.diffusion.process import Process, shift_time

STARTS = ("noise", "lq")
Draw = Callable[[int], Array]  # number of a step, 0 for the first -> standard normal noise (B, C, h, w)


class Sampler(Protocol):
    """Follows a schedule from its first time to its last; 0 is the clean latent.

    Args:
        denoiser: predicts x0.
        x_t: state (B, C, h, w) at ``times[0]``.
        cond: condition (B, K, h, w).
        times: (num_steps + 1,), falling, in [0, 1].
        draw: noise of the steps after the first, as ``draw(1)``, ``draw(2)`` ...

    Returns:
        The state (B, C, h, w) at ``times[-1]``.
    """

    def __call__(self, denoiser: Denoiser, x_t: Array, cond: Array, times: Array, draw: Draw) -> Array: ...


@no_grad
def sample_ode(denoiser: Denoiser, x_t: Array, cond: Array, times: Array, draw: Draw | None = None) -> Array:
    """Deterministic :class:`Sampler`: DDIM (2010.02502, eq. 12 with eta = 0), Euler steps for flows."""
    for t, s in pairwise(broadcast(times[:, None], (len(times), len(x_t)))):
        x0 = denoiser(x_t, t, cond)
        x_t = x0 if s[0] == 0 else denoiser.process.step(x_t, x0, t, s)
    return x_t


@no_grad
def sample_renoise(denoiser: Denoiser, x_t: Array, cond: Array, times: Array, draw: Draw) -> Array:
    """:class:`Sampler` with fresh noise in every step (consistency models, 2303.01469, algorithm 1; DMD2).

    A few-step student has no ODE: the errors of its prediction depend on the noise in ``x_t``. Fresh noise keeps them
    from adding up over the steps.
    """
    for step, (t, s) in enumerate(pairwise(broadcast(times[:, None], (len(times), len(x_t)))), start=1):
        x0 = denoiser(x_t, t, cond)
        x_t = x0 if s[0] == 0 else denoiser.process.add_noise(x0, draw(step), s)
    return x_t


SAMPLERS: dict[str, Sampler] = {"ode": sample_ode, "renoise": sample_renoise}


@dataclass(frozen=True)
class Recipe:
    """How a latent is restored.

    Args:
        num_steps: network evaluations, twice as many with guidance.
        sampler: name in ``SAMPLERS``.
        time_shift: 1 spaces the steps evenly; less moves those after the first towards the image, see
            :func:`~amd_restore.diffusion.process.shift_time`.
        start: ``noise``, or ``lq`` where the first state is the latent of the enlarged input.
        start_noise: added to that latent, in standard deviations of the process at t = 1; with 0 all samples of one
            image are equal.
        guidance_scale: see :class:`~amd_restore.diffusion.denoiser.GuidedDenoiser`; 1 is no guidance.
    """

    num_steps: int
    sampler: str = "ode"
    time_shift: float = 1.0
    start: str = "noise"
    start_noise: float = 0.0
    guidance_scale: float = 1.0


def first_state(process: Process, codec: Codec, lq: Array, cond: Array, noise: Array, recipe: Recipe) -> Array:
    """State (B, C, h, w) at t = 1: noise, or the latent of the enlarged ``lq`` (OSEDiff, 2406.08177, eq. 2).

    Args:
        process: of the denoiser.
        codec: makes that latent, which is the condition for all codecs but the residual one.
        lq: (B, 3, H, W) in [0, 1].
        cond: its condition (B, K, h, w); a gradient may go back to the encoder that made it.
        noise: standard normal (B, C, h, w).
        recipe: says which.
    """
    sigma = process.sigma(zeros((), noise) + 1)
    if recipe.start == "noise":
        return noise * sigma
    latent = codec.encode(codec.upsample(lq), lq) if codec.name == ResidualCodec.name else cond
    return latent if recipe.start_noise == 0 else latent + recipe.start_noise * sigma * noise


@no_grad
def restore_latent(
    denoiser: Denoiser, codec: Codec, lq: Array, draw: Draw, recipe: Recipe, sampler: Sampler | None = None
) -> Array:
    """Restore the latent of a batch; ``codec.decode`` makes it an image.

    Args:
        denoiser: teacher or student.
        codec: between the images and latents of ``denoiser``.
        lq: (B, 3, H, W) in [0, 1], sides multiples of ``codec.lq_patch``.
        draw: noise of each step, of shape ``codec.latent_shape(lq)``.
        recipe: how.
        sampler: takes the place of the recipe's.

    Returns:
        x0 (B, C, h, w).

    Raises:
        AMDRestoreError: the recipe has less than one step.
    """
    times = denoiser.process.times(recipe.num_steps, device_of(lq), recipe.time_shift)
    cond = channels_last_memory(codec.condition(lq, trained=True))
    x_t = first_state(denoiser.process, codec, lq, cond, draw(0), recipe)
    if recipe.guidance_scale != 1.0:
        denoiser = GuidedDenoiser(denoiser, recipe.guidance_scale)
    return (sampler or SAMPLERS[recipe.sampler])(denoiser, x_t, cond, times, draw)


def row_times(steps: Array, calls: int, shift: float) -> Array:
    """Schedules of a batch that mixes them: the times (B, calls + 1) of each row's first ``calls`` steps.

    Args:
        steps: number of steps of each row's schedule, (B,).
        calls: columns beyond the end of a schedule are 0.
        shift: see :func:`~amd_restore.diffusion.process.shift_time`.
    """
    import torch

    numbers = torch.arange(calls + 1, dtype=torch.float32, device=steps.device)
    return shift_time((1.0 - numbers / steps[:, None]).clamp_min(0.0), shift)


@no_grad
def approach(
    denoiser: Denoiser, x_t: Array, cond: Array, times: Array, stops: Array, draw: Draw | None = None
) -> Array:
    """Backward simulation (DMD2, 2405.14867, section 4.5): the student's own states before the step that is trained.

    Args:
        denoiser: the student; called without gradient, each time only on the rows that go on.
        x_t: first states (B, C, h, w).
        cond: condition (B, K, h, w).
        times: schedules, (B, at least the greatest of ``stops`` + 1), see :func:`row_times`.
        stops: number of each row's step that is trained, (B,); on the CPU it saves waiting for a GPU.
        draw: fresh noise of the steps, for the whole batch; None takes deterministic steps.

    Returns:
        States (B, C, h, w) at ``times[:, stops]``.
    """
    x_t = x_t.clone()
    for i in range(int(stops.max())):
        rows = (stops > i).nonzero().squeeze(1)
        t, s = (times[rows, k].to(x_t.device) for k in (i, i + 1))
        x0 = denoiser(x_t[rows], t, cond[rows])
        if draw is None:
            x_t[rows] = denoiser.process.step(x_t[rows], x0, t, s)
        else:
            x_t[rows] = denoiser.process.add_noise(x0, draw(i + 1)[rows], s)
    return x_t


def last_call(
    denoiser: Denoiser, first: Array, x_t: Array, cond: Array, times: Array, stops: Array
) -> tuple[Array, Array]:
    """The step that is trained, with gradient, after :func:`approach`.

    Args:
        first: first states, as given to :func:`approach`; rows that stop at once pass their gradient on to them.
        x_t: states of :func:`approach`.
        denoiser, cond, times, stops: as there.

    Returns:
        Samples x0 (B, C, h, w), and their times (B,).
    """
    x_t = where((stops == 0).to(x_t.device).reshape(-1, 1, 1, 1), first, x_t)
    t = times.gather(1, stops[:, None]).squeeze(1).to(x_t.device)
    return denoiser(x_t, t, cond), t
