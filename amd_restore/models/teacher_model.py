"""Training of the conditional diffusion teacher, and its warm start by regression."""

from __future__ import annotations

import torch
from torch import Tensor

from amd_restore.models.restoration_model import RestorationModel
from amd_restore.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class TeacherModel(RestorationModel):
    """Conditional denoiser of the residual.

    ``train.objective`` is ``regression`` (L1 at pure noise, t = 1: the cheap warm start, which fixes what the
    condition alone can say) or ``denoising`` (v-weighted squared error, t from a logit-normal, a share of the batch
    at t = 1, condition dropped at random for classifier-free guidance).
    """

    kind = "teacher"

    def train_step(self, current_iter: int) -> None:
        """One step of gradient descent."""
        self.descend(self.optimizer_g, lambda rows: self.losses())
        if self.ema_decay > 0:
            # A short memory at first, so that the average forgets the start.
            self.model_ema(min(self.ema_decay, (1 + current_iter) / (10 + current_iter)))

    def losses(self) -> dict[str, Tensor]:
        """The loss of the samples at hand, by its name."""
        x0 = self.codec.encode(self.gt, self.lq)  # (B, C, h, w)
        noise = self.randn_like(x0)
        if self.opt["train"].get("objective", "denoising") == "regression":
            return {"l_pix": self.regression_loss(x0, noise)}
        return {"l_denoise": self.denoising_loss(x0, noise)}

    def regression_loss(self, x0: Tensor, noise: Tensor) -> Tensor:
        """L1 between x0 and its estimate from pure noise."""
        t = torch.ones(x0.shape[0], device=x0.device)
        with self.autocast():
            x0_pred = self.denoiser(self.net_g)(noise * self.process.sigma(t[0]), t, self.codec.condition(self.lq))
        return (x0_pred - x0).abs().mean()

    def denoising_loss(self, x0: Tensor, noise: Tensor) -> Tensor:
        """Squared error of v (the x0 error times :meth:`Process.loss_weight`), averaged."""
        options = self.run.diffusion
        n = x0.shape[0]
        t = torch.sigmoid(self.randn((n,)) * options.logit_std + options.logit_mean)
        t = torch.where(self.rand(n) < options.share_t1, torch.ones_like(t), t)
        keep = self.rand(n) >= options.cond_dropout
        x_t = self.process.add_noise(x0, noise, t)
        with self.autocast():
            x0_pred = self.denoiser(self.net_g)(x_t, t, self.codec.condition(self.lq), keep)
        error = (x0_pred - x0).square().mean(dim=(1, 2, 3))
        return (error * self.process.loss_weight(t)).mean()
