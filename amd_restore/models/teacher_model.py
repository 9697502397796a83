"""Training of the conditional diffusion teacher."""

from __future__ import annotations

import torch
from torch import Tensor

from amd_restore.diffusion import Recipe
from amd_restore.models.image_losses import ImageLosses
from amd_restore.models.restoration_model import RestorationModel
from amd_restore.models.rollout import Denoising
from amd_restore.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class TeacherModel(RestorationModel):
    """Conditional denoiser.

    The loss is the v-weighted squared error; t has a logit-normal distribution, a share of the batch is at t = 1, and
    the condition is dropped at random for classifier-free guidance. ``losses`` compare its late estimates of x0
    with the ground truth, see :meth:`~amd_restore.models.image_losses.ImageLosses.of_late`.
    """

    kind = "teacher"

    def init_training_settings(self) -> None:
        """Build the losses."""
        self.losses = ImageLosses(self.run.losses, self.device)
        super().init_training_settings()

    def reward_names(self) -> tuple[str, ...]:
        """Return the metrics used as losses."""
        return tuple(sorted(self.losses.names))

    def recipe(self, num_steps: int = 1, guidance_scale: float = 1.0) -> Recipe:
        """Return the recipe of evenly spaced deterministic steps."""
        return Recipe(num_steps, guidance_scale=guidance_scale)

    def released_steps(self) -> tuple[tuple[int, ...], int]:
        """Return a choice of numbers of steps."""
        return (1, 4, 10, 20), 10

    def train_step(self, current_iter: int) -> None:
        """Update the teacher once."""
        self.descend(self.optimizer_g, self.draw_batch(), self.denoising_losses)
        if self.ema_decay > 0:
            # The decay is small at first, so that the average does not keep the initial weights.
            self.model_ema(min(self.ema_decay, (1 + current_iter) / (10 + current_iter)))

    def draw_batch(self) -> Denoising:
        """Return latents of the batch with noise, times and dropped conditions."""
        options = self.run.diffusion
        x0 = self.codec.encode(self.gt, self.lq)  # (B, C, h, w)
        n, noise, cond = len(x0), self.randn(x0.shape), self.codec.condition(self.lq)
        t = torch.sigmoid(self.randn((n,)) * options.logit_std + options.logit_mean)
        t = torch.where(self.rand(n) < options.share_t1, torch.ones_like(t), t)
        keep = self.rand(n) >= options.cond_dropout
        return Denoising(x0=x0, noise=noise, t=t, cond=cond, keep=keep, gt=self.gt, lq=self.lq)

    def denoising_losses(self, batch: Denoising) -> dict[str, Tensor]:
        """Return the mean squared error of v (the x0 error times :meth:`Process.loss_weight`), and the image losses."""
        x_t = self.process.add_noise(batch.x0, batch.noise, batch.t)
        with self.autocast():
            x0_pred = self.denoiser(self.net_g)(x_t, batch.t, batch.cond, batch.keep)
        error = (x0_pred - batch.x0).square().mean(dim=(1, 2, 3))
        denoise = (error * self.process.loss_weight(batch.t)).mean()
        below = self.run.diffusion.losses_below
        return {"l_denoise": denoise} | self.losses.of_late(batch, x0_pred, self.codec, below, self.host_generator)
