"""Distribution Matching Distillation of the teacher into a student of one to four steps."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from amd_restore.diffusion import rollout
from amd_restore.losses.diagnostics import group_diversity, zone_cosine, zone_mean
from amd_restore.losses.dmd import (
    denoising_loss,
    gradient_cosine,
    matching_direction,
    normalizer,
    surrogate_loss,
    vsd_weight,
)
from amd_restore.losses.perceptual import random_view
from amd_restore.models.gan_branch import GANBranch
from amd_restore.models.restoration_model import RestorationModel, build_network, channels_last
from amd_restore.registry import MODEL_REGISTRY
from amd_restore.rewards.fidelity_reward import build_lpips

DIAGNOSE_EVERY = 4  # updates of the student between looks at the Forbidden Zone; all of them would cost 3% of a step


@MODEL_REGISTRY.register()
class DMDModel(RestorationModel):
    """DMD (2311.18828, 2405.14867) of a conditional diffusion teacher.

    ``net_g``: student. ``net_teacher``: real score, frozen. ``net_fake``: fake score, follows the student.
    :class:`~amd_restore.models.amd_model.AMDModel` overrides :meth:`diagnose`; everything else is shared.
    ``distill.objective`` switches the baselines: ``dmd``, ``dmd2`` (adds :class:`GANBranch`), ``vsd`` (2305.16213, no
    normaliser) and ``regression`` (only the losses to the ground truth; no fake teacher).
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
        distill = self.run.distill
        if distill.fake_sees_step:
            self.opt["network_fake"]["cond_channels"] = self.codec.cond_channels + 1
        self.net_fake = self.model_to_device(build_network(self.opt["network_fake"]))
        fake_path = paths.get("pretrain_network_fake") or paths["pretrain_network_teacher"]
        self.load_network(self.net_fake, fake_path, True, "params", grow=distill.fake_sees_step)
        self.net_fake.train()
        if distill.weight_percep > 0:
            self.percep = build_lpips(distill.percep_net, self.device)
        if distill.objective == "dmd2":
            with torch.random.fork_rng(devices=[]):
                self.gan = GANBranch(self.get_bare_model(self.net_fake), self.device)
        super().init_training_settings()

    def setup_optimizers(self) -> None:
        """Student's and fake teacher's optimizers, in this order."""
        fake = [*self.net_fake.parameters(), *(self.gan.head.parameters() if self.gan else ())]
        for name, parameters in (("optim_g", list(self.net_g.parameters())), ("optim_fake", fake)):
            options = dict(self.opt["train"][name])
            optimizer = self.get_optimizer(options.pop("type"), parameters, **options)
            setattr(self, name.replace("optim_", "optimizer_"), optimizer)
            self.optimizers.append(optimizer)

    def feed_data(self, data: Any) -> None:
        """In training each lq appears ``group_size`` times in a row, to be restored from as many noises."""
        super().feed_data(data)
        if self.is_train and torch.is_grad_enabled():  # validation runs without gradient
            size = self.run.distill.group_size
            self.gt = self.gt.repeat_interleave(size, dim=0)
            self.lq = self.lq.repeat_interleave(size, dim=0)

    def train_step(self, current_iter: int) -> None:
        """The student's turn every ``fake_updates_per_student`` iterations, the fake teacher's in each."""
        update_student = current_iter % self.run.distill.fake_updates_per_student == 0  # the only place that says so
        updates = current_iter // self.run.distill.fake_updates_per_student
        self.diagnosing = update_student and updates % DIAGNOSE_EVERY == 1
        cond = self.codec.condition(self.lq)

        # 1. Student rollout; only the last step carries gradient.
        with torch.set_grad_enabled(update_student), self.autocast():
            fresh_noise = self.fresh_noise if self.sampler == "renoise" else None
            start = self.start_noise()
            schedule = (*self.draw_steps(), fresh_noise, self.time_shift)
            x0, made_at = rollout(self.denoiser(self.net_g), start, cond, *schedule)
        self.made_at = made_at
        self.fake_cond = self.condition_of_fake(cond, made_at)
        image = self.codec.decode(x0, self.lq)

        # 2. Rewards diagnose; they never backpropagate.
        advantage = self.diagnose(image.detach(), update_student)

        # 3. Student: matching and guidance, weighted by how good each sample already is (eq. 10, 13).
        if update_student:
            self.step(self.optimizer_g, **self.student_losses(x0, image, cond, advantage))
            if self.ema_decay > 0:
                self.model_ema(min(self.ema_decay, (1 + updates) / (10 + updates)))

        # 4. Fake score: fits the student's samples, sharpest where they are worst.
        if self.run.distill.objective != "regression":
            self.step(self.optimizer_fake, **self.fake_losses(x0.detach(), cond, advantage))

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
        if options.weight_dmd > 0 and options.objective != "regression":
            direction, norm = self.direction(x0.detach(), cond, advantage)
            # Late steps refine what is there; matched in full they would draw the whole posterior anew.
            share = self.made_at.reshape(-1, 1, 1, 1) ** options.matching_decay
            losses[self.loss_name] = options.weight_dmd * surrogate_loss(x0, direction * share, norm)
        if self.gan is not None:
            t = self.score_times(x0.shape[0])
            x_t = self.process.add_noise(x0, self.randn_like(x0), t)
            with self.autocast():
                loss = self.gan.student_loss(self.denoiser(self.net_fake), x_t, t, self.fake_cond)
            losses["l_gan"] = options.weight_gan * loss
        if options.weight_pix > 0:
            losses["l_pix"] = options.weight_pix * (image - self.gt).abs().mean()
        if options.weight_percep > 0:
            pair = (image, self.gt)
            if options.percep_augment:
                pair = random_view(image, self.gt, self.generator)
            losses["l_percep"] = options.weight_percep * self.percep(*pair).mean()
        return losses

    loss_name = "l_dmd"
    gan: GANBranch | None = None
    diagnosing = False  # whether this step measures more than it needs

    def condition_of_fake(self, cond: Tensor, made_at: Tensor) -> Tensor:
        """``cond``, with the time of the student's step as one more channel if ``fake_sees_step``.

        The student's samples differ in kind from step to step. A fake score that has to fit their mixture pushes
        each kind away from the others instead of towards the teacher: later steps then sharpen without end.
        """
        if not self.run.distill.fake_sees_step:
            return cond
        return torch.cat([cond, made_at.reshape(-1, 1, 1, 1).expand(-1, 1, *cond.shape[2:]).to(cond.dtype)], dim=1)

    def score_times(self, n: int) -> Tensor:
        """Times (n,) at which scores are compared."""
        options = self.run.distill
        return options.t_min + (options.t_max - options.t_min) * self.rand(n)

    @torch.no_grad()
    def direction(self, x0: Tensor, cond: Tensor, advantage: Tensor | None) -> tuple[Tensor, Tensor]:
        """H of eq. 10 at a random noise level shared by teacher and fake, and what divides it."""
        options = self.run.distill
        t = self.score_times(x0.shape[0])
        x_t = self.process.add_noise(x0, self.randn_like(x0), t)
        uncond = None
        with self.autocast():
            x0_real = self.denoiser(self.net_teacher)(x_t, t, cond)
            x0_fake = self.denoiser(self.net_fake)(x_t, t, self.fake_cond)
            if options.guidance_scale != 1.0:
                uncond = self.denoiser(self.net_teacher)(x_t, t, None)
        alpha, beta = self.adaptation(advantage)
        direction = matching_direction(x0_real, x0_fake, uncond, options.guidance_scale, alpha, beta)
        if options.objective == "vsd":
            norm = 1.0 / vsd_weight(self.process.alpha(t), self.process.sigma(t))
        elif options.normalize:
            norm = normalizer(x0, x0_real)
        else:
            norm = torch.ones(x0.shape[0], 1, 1, 1, device=x0.device)
        if self.diagnosing:
            with self.diagnostics.extra():
                matching = matching_direction(x0_real, x0_fake, beta=beta)
                self.log_direction(x0, direction, matching, norm, advantage)
        return direction, norm

    def log_direction(
        self, x0: Tensor, direction: Tensor, matching: Tensor, norm: Tensor, advantage: Tensor | None
    ) -> None:
        """Size of the step and its parts, and whether it leads to the ground truth, inside and outside the zone."""
        to_gt = self.codec.encode(self.gt, self.lq) - x0
        self.log(
            amd__grad_norm=(direction / norm).square().mean().sqrt(),
            amd__norm_matching=(matching / norm).square().mean().sqrt(),
            amd__norm_guidance=((direction - matching) / norm).square().mean().sqrt(),
            amd__cosine_gt=gradient_cosine(direction, to_gt),
            amd__distance_real=norm,
            amd__x0_std=x0.std(),
            amd__diversity=group_diversity(self.codec.decode(x0, self.lq), self.run.distill.group_size),
        )
        if advantage is not None:
            inside, outside = zone_cosine(direction, to_gt, advantage < 0)
            self.log(amd__cosine_gt_inside=inside, amd__cosine_gt_outside=outside)

    def fake_losses(self, x0: Tensor, cond: Tensor, advantage: Tensor | None) -> dict[str, Tensor]:
        """Denoising loss of the fake teacher on the student's samples, fresh noise and times; the critic's in DMD2."""
        options = self.run.distill
        t = options.t_min + (1.0 - options.t_min) * self.rand(x0.shape[0])
        x_t = self.process.add_noise(x0, self.randn_like(x0), t)
        denoiser, weight_t = self.denoiser(self.net_fake), self.process.loss_weight(t)
        with self.autocast(), self.gan.tap() if self.gan else contextlib.nullcontext() as tap:
            x0_pred = denoiser(x_t, t, self.fake_cond)
        losses = {"l_fake": denoising_loss(x0_pred, x0, weight_t, self.sharpening(advantage))}
        if self.gan is not None and tap is not None:
            x0_gt = self.codec.encode(self.gt, self.lq)
            real_t = self.process.add_noise(x0_gt, self.randn_like(x0), t)
            with self.autocast():
                loss = self.gan.critic_loss(denoiser, tap.features, real_t, t, self.fake_cond)
            losses["l_gan_fake"] = options.weight_gan_fake * loss
        if advantage is not None and self.diagnosing:
            with self.diagnostics.extra():
                error = (x0_pred.detach() - x0).square() * weight_t.reshape(-1, 1, 1, 1)
                inside, outside = zone_mean(error, advantage < 0)
                self.log(amd__fake_loss_inside=inside, amd__fake_loss_outside=outside)
        return losses

    def reward_names(self) -> tuple[str, ...]:
        """The anchoring losses; rewards are added by AMD."""
        options = self.run.distill
        names = ["l1"] if options.weight_pix > 0 else []
        return (*names, f"lpips_{options.percep_net}") if options.weight_percep > 0 else tuple(names)

    def extra_state(self) -> dict[str, Any]:
        """The critic's head."""
        return {"gan_head": self.gan.head.state_dict()} if self.gan else {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`extra_state`."""
        if self.gan:
            self.gan.head.load_state_dict(state["gan_head"])

    def save(self, epoch: int, current_iter: int) -> None:
        """The fake teacher too, under BasicSR's naming."""
        self.save_network(self.net_fake, "net_fake", current_iter)
        super().save(epoch, current_iter)
