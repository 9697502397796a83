"""Distribution Matching Distillation of the teacher into a student of one to four steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amd_restore.diffusion import rollout
from amd_restore.losses.dmd import (
    denoising_loss,
    gradient_cosine,
    matching_direction,
    normalizer,
    surrogate_loss,
)
from amd_restore.losses.perceptual import random_view
from amd_restore.models.restoration_model import RestorationModel, build_network, channels_last
from amd_restore.registry import MODEL_REGISTRY
from amd_restore.rewards.fidelity_reward import build_lpips


@MODEL_REGISTRY.register()
class DMDModel(RestorationModel):
    """DMD (2311.18828, 2405.14867) of a conditional diffusion teacher.

    ``net_g``: student. ``net_teacher``: real score, frozen. ``net_fake``: fake score, follows the student.
    :class:`~amd_restore.models.amd_model.AMDModel` overrides :meth:`diagnose`; everything else is shared.
    """

    kind = "student"

    def init_training_settings(self) -> None:
        """Build teacher and fake teacher, both from ``path.pretrain_network_teacher`` unless the fake has its own.

        The real score is the teacher's average, the fake one goes on from its raw weights.
        """
        paths = self.opt["path"]
        self.net_teacher = channels_last(build_network(self.opt["network_teacher"])).to(self.device)
        self.load_network(self.net_teacher, paths["pretrain_network_teacher"], True, "params_ema")
        self.net_teacher.eval().requires_grad_(False)
        self.net_fake = self.model_to_device(build_network(self.opt["network_fake"]))
        fake_path = paths.get("pretrain_network_fake") or paths["pretrain_network_teacher"]
        self.load_network(self.net_fake, fake_path, True, "params")
        self.net_fake.train()
        distill = self.run.distill
        if distill.weight_percep > 0:
            self.percep = build_lpips(distill.percep_net, self.device)
        super().init_training_settings()

    def setup_optimizers(self) -> None:
        """Student's and fake teacher's optimizers, in this order."""
        for name, net in (("optim_g", self.net_g), ("optim_fake", self.net_fake)):
            options = dict(self.opt["train"][name])
            optimizer = self.get_optimizer(options.pop("type"), net.parameters(), **options)
            setattr(self, name.replace("optim_", "optimizer_"), optimizer)
            self.optimizers.append(optimizer)

    def feed_data(self, data: Any) -> None:
        """In training each lq appears ``group_size`` times in a row, to be restored from as many noises."""
        super().feed_data(data)
        if self.is_train and torch.is_grad_enabled():  # validation runs without gradient
            size = self.run.distill.group_size
            self.gt = self.gt.repeat_interleave(size, dim=0)
            self.lq = self.lq.repeat_interleave(size, dim=0)

    def optimize_parameters(self, current_iter: int) -> None:
        """One step of BasicSR's loop."""
        update_student = current_iter % self.run.distill.fake_updates_per_student == 0  # the only place that says so
        self.seed_step(current_iter)
        cond = self.codec.condition(self.lq)

        # 1. Student rollout; only the last step carries gradient.
        with torch.set_grad_enabled(update_student), self.autocast():
            fresh_noise = self.fresh_noise if self.sampler == "renoise" else None
            x0, _ = rollout(self.denoiser(self.net_g), self.start_noise(), cond, *self.draw_steps(), fresh_noise)
        image = self.codec.decode(x0, self.lq)

        # 2. Rewards diagnose; they never backpropagate.
        advantage = self.diagnose(image.detach(), update_student)

        # 3. Student: matching and guidance, weighted by how good each sample already is (eq. 10, 13).
        if update_student:
            self.step(self.optimizer_g, **self.student_losses(x0, image, cond, advantage))
            if self.ema_decay > 0:
                updates = current_iter // self.run.distill.fake_updates_per_student
                self.model_ema(min(self.ema_decay, (1 + updates) / (10 + updates)))

        # 4. Fake score: fits the student's samples, sharpest where they are worst.
        self.step(self.optimizer_fake, l_fake=self.fake_loss(x0.detach(), cond, advantage))

    # ---- the four sentences, in detail ------------------------------------------------------------------------

    def fresh_noise(self, step: int) -> Tensor:
        """Noise for a step of the rollout after the first; successive draws of the step's generator."""
        return self.start_noise()

    def start_noise(self) -> Tensor:
        """Noise (B, C, h, w) from which the student starts."""
        shape = self.codec.latent_shape(self.lq)
        return torch.randn(shape, generator=self.generator, device=self.device)

    def draw_steps(self) -> tuple[Tensor, Tensor]:
        """Length of the schedule and the step that is trained, (B,) each, at random but equal inside a group.

        One set of weights serves all lengths, so every batch mixes them: where whole batches had one length, the
        rarer times were forgotten between their turns (4 steps fell to 14 dB within 100 updates).
        """
        options = self.run.distill
        groups = self.lq.shape[0] // options.group_size
        weights = torch.tensor(options.step_weights or [1.0] * len(options.num_steps), device=self.device)
        choice = torch.multinomial(weights, groups, replacement=True, generator=self.generator)
        steps = torch.tensor(options.num_steps, device=self.device)[choice]
        stop = (self.rand(groups) * steps).long()
        return steps.repeat_interleave(options.group_size), stop.repeat_interleave(options.group_size)

    def diagnose(self, image: Tensor, update_student: bool) -> Tensor | None:
        """Advantage of each sample; None is plain DMD."""
        return None

    def adaptation(self, advantage: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Weights alpha and beta of eq. 10."""
        return None, None

    def sharpening(self, advantage: Tensor | None) -> Tensor | None:
        """Weights of the fake teacher's loss."""
        return None

    def student_losses(self, x0: Tensor, image: Tensor, cond: Tensor, advantage: Tensor | None) -> dict[str, Tensor]:
        """Matching loss and anchoring losses, each times its weight."""
        options = self.run.distill
        losses: dict[str, Tensor] = {}
        if options.weight_dmd > 0:
            direction, norm = self.direction(x0.detach(), cond, advantage)
            losses[self.loss_name] = options.weight_dmd * surrogate_loss(x0, direction, norm)
        if options.weight_pix > 0:
            losses["l_pix"] = options.weight_pix * (image - self.gt).abs().mean()
        if options.weight_percep > 0:
            pair = (image, self.gt)
            if options.percep_augment:
                pair = random_view(image, self.gt, self.generator)
            losses["l_percep"] = options.weight_percep * self.percep(*pair).mean()
        return losses

    loss_name = "l_dmd"

    @torch.no_grad()
    def direction(self, x0: Tensor, cond: Tensor, advantage: Tensor | None) -> tuple[Tensor, Tensor]:
        """H of eq. 10 at a random noise level shared by teacher and fake, and DMD's normaliser."""
        options = self.run.distill
        t = options.t_min + (options.t_max - options.t_min) * self.rand(x0.shape[0])
        x_t = self.process.add_noise(x0, self.randn_like(x0), t)
        uncond = None
        with self.autocast():
            x0_real = self.denoiser(self.net_teacher)(x_t, t, cond)
            x0_fake = self.denoiser(self.net_fake)(x_t, t, cond)
            if options.guidance_scale != 1.0:
                uncond = self.denoiser(self.net_teacher)(x_t, t, None)
        alpha, beta = self.adaptation(advantage)
        direction = matching_direction(x0_real, x0_fake, uncond, options.guidance_scale, alpha, beta)
        norm = normalizer(x0, x0_real) if options.normalize else torch.ones(x0.shape[0], 1, 1, 1, device=x0.device)
        x0_gt = self.codec.encode(self.gt, self.lq)
        self.log(
            amd__grad_norm=(direction / norm).square().mean().sqrt(),
            amd__cosine_gt=gradient_cosine(direction, x0_gt - x0),
            amd__distance_real=norm,
            amd__x0_std=x0.std(),
        )
        return direction, norm

    def fake_loss(self, x0: Tensor, cond: Tensor, advantage: Tensor | None) -> Tensor:
        """Denoising loss of the fake teacher on the student's samples, fresh noise and times."""
        options = self.run.distill
        t = options.t_min + (1.0 - options.t_min) * self.rand(x0.shape[0])
        x_t = self.process.add_noise(x0, self.randn_like(x0), t)
        with self.autocast():
            x0_pred = self.denoiser(self.net_fake)(x_t, t, cond)
        return denoising_loss(x0_pred, x0, self.process.loss_weight(t), self.sharpening(advantage))

    def reward_names(self) -> tuple[str, ...]:
        """The anchoring losses; rewards are added by AMD."""
        options = self.run.distill
        names = ["l1"] if options.weight_pix > 0 else []
        return (*names, f"lpips_{options.percep_net}") if options.weight_percep > 0 else tuple(names)

    def save(self, epoch: int, current_iter: int) -> None:
        """The fake teacher too, under BasicSR's naming."""
        self.save_network(self.net_fake, "net_fake", current_iter)
        super().save(epoch, current_iter)
