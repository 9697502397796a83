"""A student of one to four steps: its rollout in training, and its losses to the ground truth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amd_restore.diffusion import Recipe, approach, first_state, last_call, row_times
from amd_restore.losses.perceptual import pooled_l1, random_view
from amd_restore.models.distributed import own_place, process_count
from amd_restore.models.image_critic import ImageCritic
from amd_restore.models.latent import Windows, cut_images, decode_windows
from amd_restore.models.restoration_model import RestorationModel
from amd_restore.models.rollout import Rollout


class StudentModel(RestorationModel):
    """Base of :class:`~amd_restore.models.dmd_model.DMDModel`: everything that needs no teacher."""

    kind = "student"
    critic: ImageCritic | None = None
    percep: Any  # LPIPS as a loss, with distill.weight_percep

    def feed_data(self, data: Any) -> None:
        """In training each lq appears ``group_size`` times in a row, to be restored from as many noises."""
        super().feed_data(data)
        if self.is_train and torch.is_grad_enabled():  # validation runs without gradient
            size = self.run.distill.group_size
            self.gt = self.gt.repeat_interleave(size, dim=0)
            self.lq = self.lq.repeat_interleave(size, dim=0)

    # ---- rollout ----------------------------------------------------------------------------------------------

    def draw_rollout(self) -> Rollout:
        """What is random about this step's samples, drawn in advance for the whole batch."""
        noise = self.start_noise()
        steps, stops, calls = self.draw_schedules()
        fresh = [self.fresh_noise(i + 1) for i in range(calls)] if self.run.distill.renoise else []
        return Rollout(
            lq=self.lq,
            gt=self.gt,
            cond=self.codec.condition(self.lq),
            noise=noise,
            steps=steps,
            stops=stops,
            fresh=torch.stack(fresh, dim=1) if fresh else None,
            windows=self.draw_windows(),
        )

    def generate(self, rollout: Rollout, with_gradient: bool) -> Rollout:
        """The rollout with the student's samples; in several parts they get their gradient later, part by part."""
        with torch.set_grad_enabled(with_gradient and self.accumulate == 1):
            parts = [self.last_step(self.approach_last_step(part)) for part in rollout.parts(self.accumulate)]
        return rollout.joining(parts, "x_t", "t", "x0", "image")

    def approach_last_step(self, rollout: Rollout) -> Rollout:
        """The rollout with the states of the student's last call, without gradient."""
        drawn = rollout.fresh
        draw = None if drawn is None else lambda step: drawn[:, step - 1]
        with self.autocast():
            cond, first = self.first_call(rollout)
            x_t = approach(self.denoiser(self.net_g), first, cond, self.times(rollout), rollout.stops, draw)
        return rollout.having(x_t=x_t)

    def last_step(self, rollout: Rollout) -> Rollout:
        """The rollout with the student's samples, which carry the gradient of its last call."""
        stops, x_t = rollout.stops, rollout.x_t
        with self.autocast():  # anew: older PyTorch would reuse casts made without gradient (its issue 112583)
            cond, first = self.first_call(rollout)
            x0, t = last_call(self.denoiser(self.net_g), first, x_t, cond, self.times(rollout), stops)
        return rollout.having(x0=x0, t=t, image=decode_windows(self.codec, x0, rollout.lq, rollout.windows))

    def first_call(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """The student's condition, and its state at t = 1."""
        cond = self.codec.condition(rollout.lq, trained=True) if self.encoder else rollout.cond
        return cond, first_state(self.process, self.codec, rollout.lq, cond, rollout.noise, self.recipe())

    def times(self, rollout: Rollout) -> Tensor:
        """Schedule of each sample, as far as the batch goes."""
        return row_times(rollout.steps, int(rollout.stops.max()), self.run.distill.time_shift)

    def recipe(self, num_steps: int = 1, guidance_scale: float = 1.0) -> Recipe:
        """As ``distill`` trains it."""
        options = self.run.distill
        sampler = "renoise" if options.renoise else "ode"
        return Recipe(num_steps, sampler, options.time_shift, options.start, options.start_noise, guidance_scale)

    def fresh_noise(self, step: int) -> Tensor:
        """Noise for a step of the rollout after the first; successive draws of the step's generator."""
        return self.start_noise()

    def start_noise(self) -> Tensor:
        """Noise (B, C, h, w) from which the student starts."""
        return self.randn(self.codec.latent_shape(self.lq))

    def draw_windows(self) -> Windows | None:
        """Where losses and rewards look, with ``distill.decode_crop``; None is everywhere."""
        options = self.run.distill
        n, _, *size = self.lq.shape
        height, width = (side // self.codec.lq_patch for side in size)
        side = -(-(options.decode_crop or 0) // self.codec.cells(self.codec.lq_patch))
        if not side or side >= max(height, width):
            return None
        return Windows.draw(self.rand, (height, width), side, n // options.group_size, options.group_size)

    def targets(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """``gt`` and ``lq`` where ``rollout.image`` lies."""
        return cut_images(self.codec, rollout.gt, rollout.lq, rollout.windows)

    def draw_schedules(self) -> tuple[Tensor, Tensor, int]:
        """Length of the schedule and the step that is trained, (B,) each, at random but equal inside a group.

        With the greatest number of steps before one that is trained, in the batch of all processes.

        One set of weights serves all lengths, so every batch mixes them: where whole batches had one length, the
        rarer times were forgotten between their turns (4 steps fell to 14 dB within 100 updates).
        """
        options = self.run.distill
        groups = self.lq.shape[0] // options.group_size
        weights = torch.tensor(options.step_weights or [1.0] * len(options.num_steps))
        count = groups * process_count()
        choice = torch.multinomial(weights, count, replacement=True, generator=self.host_generator)
        steps = torch.tensor(options.num_steps)[choice]
        uniform = torch.rand(count, generator=self.host_generator)
        stop = (uniform * steps).long()
        own = own_place(groups)
        size = options.group_size
        return steps[own].repeat_interleave(size), stop[own].repeat_interleave(size), int(stop.max())

    # ---- losses to the ground truth ---------------------------------------------------------------------------

    def student_losses(self, rollout: Rollout) -> dict[str, Tensor]:
        """Losses to the ground truth, each times its weight."""
        options, image = self.run.distill, rollout.image
        losses: dict[str, Tensor] = {}
        gt, _ = self.targets(rollout)
        if options.weight_pix > 0:
            losses["l_pix"] = options.weight_pix * (image - gt).abs().mean()
        if options.weight_pooled > 0:
            losses["l_pooled"] = options.weight_pooled * pooled_l1(image, gt)
        if options.weight_l2 > 0:
            losses["l_l2"] = options.weight_l2 * (image - gt).square().mean()
        if options.weight_percep > 0:
            pair = (image, gt)
            if options.percep_augment:
                pair = random_view(image, gt, self.host_generator)
            losses["l_percep"] = options.weight_percep * self.percep(*pair).mean()
        return losses

    def adversarial_loss(self, rollout: Rollout) -> dict[str, Tensor]:
        """The student's loss by ``network_d``, times its weight; it comes after all rewards have judged the image."""
        if self.critic is None:
            return {}
        self.critic.see(rollout.image, self.targets(rollout)[0])
        with self.autocast():
            return {"l_g_gan": self.run.distill.weight_adversarial * self.critic.student_loss()}

    def critic_losses(self, rollout: Rollout) -> dict[str, Tensor]:
        """The loss of ``network_d`` on the pairs that it has just judged."""
        assert self.critic is not None
        with self.autocast():
            return {"l_d": self.critic.loss()}
