"""Samples of a student of one to four steps during training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amd_restore.diffusion import Recipe, approach, first_state, last_call, row_times
from amd_restore.models.distributed import own_place, process_count
from amd_restore.models.latent import Windows, cut_images, decode_windows
from amd_restore.models.restoration_model import RestorationModel
from amd_restore.models.rollout import Draw, Rollout


class RolloutModel(RestorationModel):
    """Base of :class:`~amd_restore.models.student_model.StudentModel`: the student's steps of ``distill``."""

    def feed_data(self, data: Any) -> None:
        """Set the batch; in training each lq is repeated ``group_size`` times, to be restored from different noises."""
        super().feed_data(data)
        if self.is_train and torch.is_grad_enabled():  # Validation runs without gradient.
            size = self.run.distill.group_size
            self.gt = self.gt.repeat_interleave(size, dim=0)
            self.lq = self.lq.repeat_interleave(size, dim=0)

    # ---- rollout ----------------------------------------------------------------------------------------------

    def draw_rollout(self) -> Draw:
        """Draw the random numbers of this step's samples for the whole batch."""
        noise = self.start_noise()
        steps, stops, calls = self.draw_schedules()
        fresh = [self.fresh_noise(i + 1) for i in range(calls)] if self.run.distill.renoise else []
        return Draw(
            lq=self.lq,
            gt=self.gt,
            cond=self.codec.condition(self.lq),
            noise=noise,
            steps=steps,
            stops=stops,
            fresh=torch.stack(fresh, dim=1) if fresh else None,
            windows=self.draw_windows(),
        )

    def generate(self, draw: Draw, with_gradient: bool) -> Rollout:
        """Return the student's samples; with several parts the gradient is computed later, part by part."""
        sampled = []
        with torch.set_grad_enabled(with_gradient and self.accumulate == 1):
            for part in draw.parts(self.accumulate):
                x_t = self.approach_last_step(part)
                sampled.append({"x_t": x_t, **self.last_step(part, x_t)})
        return Rollout.of(draw, sampled)

    def approach_last_step(self, draw: Draw) -> Tensor:
        """Return the states x_t (B, C, h, w) of the student's last call, without gradient."""
        fresh = draw.fresh
        noise = None if fresh is None else lambda step: fresh[:, step - 1]
        with self.autocast():
            cond, first = self.first_call(draw)
            return approach(self.denoiser(self.net_g), first, cond, self.times(draw), draw.stops, noise)

    def last_step(self, draw: Draw, x_t: Tensor) -> dict[str, Tensor]:
        """Return ``x0``, ``t`` and ``image`` of a :class:`Rollout`, with the gradient of the student's last call."""
        with self.autocast():  # A new context, because older PyTorch reuses casts made without gradient (issue 112583).
            cond, first = self.first_call(draw)
            x0, t = last_call(self.denoiser(self.net_g), first, x_t, cond, self.times(draw), draw.stops)
        return {"x0": x0, "t": t, "image": decode_windows(self.codec, x0, draw.lq, draw.windows)}

    def first_call(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return the student's condition and its state at t = 1."""
        cond = self.codec.condition(draw.lq, trained=True) if self.encoder else draw.cond
        return cond, first_state(self.process, self.codec, draw.lq, cond, draw.noise, self.recipe())

    def times(self, draw: Draw) -> Tensor:
        """Return the times of each sample, up to the last step of the batch."""
        return row_times(draw.steps, int(draw.stops.max()), self.run.distill.time_shift)

    def recipe(self, num_steps: int = 1, guidance_scale: float = 1.0) -> Recipe:
        """Return the recipe of ``distill``."""
        options = self.run.distill
        sampler = "renoise" if options.renoise else "ode"
        return Recipe(num_steps, sampler, options.time_shift, options.start, options.start_noise, guidance_scale)

    def fresh_noise(self, step: int) -> Tensor:
        """Draw noise for a step of the rollout after the first from the step's generator."""
        return self.start_noise()

    def start_noise(self) -> Tensor:
        """Draw the noise (B, C, h, w) from which the student starts."""
        return self.randn(self.codec.latent_shape(self.lq))

    def draw_windows(self) -> Windows | None:
        """Draw the windows of ``distill.decode_crop`` for losses and rewards; None for whole images."""
        options = self.run.distill
        n, _, *size = self.lq.shape
        height, width = (side // self.codec.lq_patch for side in size)
        side = -(-(options.decode_crop or 0) // self.codec.cells(self.codec.lq_patch))
        if not side or side >= max(height, width):
            return None
        return Windows.draw(self.rand, (height, width), side, n // options.group_size, options.group_size)

    def targets(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return ``gt`` and ``lq`` at the place of a rollout's ``image``."""
        return cut_images(self.codec, draw.gt, draw.lq, draw.windows)

    def draw_schedules(self) -> tuple[Tensor, Tensor, int]:
        """Draw number of steps and trained step, (B,) each, equal inside a group.

        Also returns the largest number of steps before a trained one in the batch of all processes.

        Every batch mixes the numbers of steps: with one number per batch the student forgets the rarer times between
        their updates.
        """
        options = self.run.distill
        groups = self.lq.shape[0] // options.group_size
        weights = torch.tensor(options.step_weights or [1.0] * len(options.num_steps), dtype=torch.float32)
        count = groups * process_count()
        choice = torch.multinomial(weights, count, replacement=True, generator=self.host_generator)
        steps = torch.tensor(options.num_steps)[choice]
        uniform = torch.rand(count, generator=self.host_generator, dtype=torch.float32)
        stop = (uniform * steps).long()
        own = own_place(groups)
        size = options.group_size
        return steps[own].repeat_interleave(size), stop[own].repeat_interleave(size), int(stop.max())
