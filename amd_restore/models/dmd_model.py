"""Distribution Matching Distillation of the teacher into a student of one to four steps."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from amd_restore.diffusion import approach, last_call
from amd_restore.losses.diagnostics import errors_by_zone, group_diversity, sizes_of_step, zone_cosine
from amd_restore.losses.dmd import (
    denoising_loss,
    gradient_cosine,
    matching_direction,
    normalizer,
    surrogate_loss,
    vsd_weight,
)
from amd_restore.losses.perceptual import pooled_l1, random_view
from amd_restore.models.distributed import load_whole
from amd_restore.models.gan_branch import GANBranch
from amd_restore.models.image_critic import ImageCritic, build_critic
from amd_restore.models.latent import Windows, cut_images, decode_windows
from amd_restore.models.restoration_model import RestorationModel, build_network, channels_last
from amd_restore.registry import MODEL_REGISTRY
from amd_restore.rewards import BaseReward
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
        if paths.get("pretrain_network_teacher"):
            self.load_network(self.net_teacher, paths["pretrain_network_teacher"], True, "params_ema")
        self.net_teacher = self.sharded_net(self.net_teacher.eval().requires_grad_(False))
        distill = self.run.distill
        if distill.fake_sees_step:
            self.opt["network_fake"]["cond_channels"] = self.codec.cond_channels + 1
        self.net_fake = self.model_to_device(build_network(self.opt["network_fake"]))
        fake_path = paths.get("pretrain_network_fake") or paths.get("pretrain_network_teacher")
        if fake_path:
            self.load_network(self.net_fake, fake_path, True, "params", grow=distill.fake_sees_step)
        self.net_fake.train()
        if distill.weight_percep > 0:
            self.percep = build_lpips(distill.percep_net, self.device)
        if distill.objective == "dmd2":
            with torch.random.fork_rng(devices=[]):
                self.gan = GANBranch(self.get_bare_model(self.net_fake), self.device)
            self.gan.head = self.sharded_net(self.gan.head)
        if self.opt.get("network_d"):
            self.critic = build_critic(self.opt["network_d"], self.device, [r for r, _ in self.reward_losses])
            if paths.get("pretrain_network_d"):
                self.load_network(self.critic.net, paths["pretrain_network_d"], True, "params")
            self.critic.net = self.sharded_net(self.critic.net)
        super().init_training_settings()

    def setup_optimizers(self) -> None:
        """Student's and fake teacher's optimizers, then the critic's if there is one."""
        fake = [*self.net_fake.parameters(), *(self.gan.head.parameters() if self.gan else ())]
        student = [*self.net_g.parameters(), *(self.encoder.parameters() if self.encoder else ())]
        named = [("optim_g", student), ("optim_fake", fake)]
        if self.critic is not None:
            named.append(("optim_d", [*self.critic.net.parameters()]))
        for name, parameters in named:
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
        self.draw_rollout()
        (self.cond,) = self.in_parts(lambda: (self.codec.condition(self.lq),))

        # 1. Student rollout; only the last step carries gradient. Of several parts, it is repeated for each in 3.
        at_once = update_student and self.share.parts == 1
        with torch.set_grad_enabled(at_once):
            x0, image, self.state, self.made_at = self.in_parts(self.student_samples)
        self.fake_cond = self.condition_of_fake(self.cond, self.made_at)

        # 2. Rewards diagnose; they never backpropagate.
        advantage = self.diagnose(image.detach(), update_student)

        # 3. Student: matching and guidance, weighted by how good each sample already is (eq. 10, 13).
        if update_student:

            def student_losses(rows: slice) -> dict[str, Tensor]:
                sample, seen = (x0, image) if at_once else self.student_samples()[:2]
                losses = self.student_losses(sample, seen, self.cond, _rows(advantage, rows))
                return losses | self.adversarial_loss(seen)

            self.descend(self.optimizer_g, student_losses)
            if self.ema_decay > 0:
                decay = min(self.ema_decay, (1 + updates) / (10 + updates))
                self.model_ema(decay)
                if self.encoder:
                    self.encoder.update(decay)

            self.update_critic()

        # 4. Fake score: fits the student's samples, sharpest where they are worst.
        if self.run.distill.objective != "regression":
            self.weights = self.sharpening(advantage)
            samples = x0.detach()

            def fake_losses(rows: slice) -> dict[str, Tensor]:
                return self.fake_losses(samples[rows], self.cond, _rows(advantage, rows))

            self.descend(self.optimizer_fake, fake_losses)

    # ---- the four sentences, in detail ------------------------------------------------------------------------

    def update_critic(self) -> None:
        """A step of ``network_d``, which looks at the images that the student has just been judged by."""
        if self.critic is None:
            return
        critic = self.critic

        def losses(rows: slice) -> dict[str, Tensor]:
            with self.autocast():
                return {"l_d": critic.loss()}

        self.descend(self.optimizer_d, losses)

    def draw_rollout(self) -> None:
        """What is random about this step's samples, in advance: each part, and each repetition, takes its rows."""
        self.noise = self.start_noise()
        self.steps, self.stops, self.calls = self.draw_schedules()
        fresh = [self.fresh_noise(i + 1) for i in range(self.calls)] if self.sampler == "renoise" else []
        self.fresh = torch.stack(fresh, dim=1) if fresh else None  # (B, calls, C, h, w)
        self.windows = self.draw_windows()
        self.state, self.weights = None, None

    def student_samples(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The student's samples x0, their images, the states of its last call, and the times of that call (B,)."""
        denoiser, schedule = self.denoiser(self.net_g), (self.steps, self.stops)
        with self.autocast():
            cond = self.student_condition(self.lq) if self.encoder else self.cond
            start = self.first_state(self.lq, cond, self.noise)
            state = self.state
            if state is None:
                drawn = self.fresh
                fresh = None if drawn is None else lambda step: drawn[:, step - 1]
                calls = self.calls if self.sharded else 0
                state = approach(denoiser, self.noise, cond, *schedule, fresh, self.time_shift, start, calls)
        with self.autocast():  # anew: older PyTorch would reuse casts made without gradient (its issue 112583)
            x0, made_at = last_call(denoiser, state, cond, *schedule, self.time_shift, start)
        return x0, self.decoded(x0), state, made_at

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

    def decoded(self, x0: Tensor) -> Tensor:
        """Images of this step's samples, where losses look."""
        return decode_windows(self.codec, x0, self.lq, self.windows)

    def seen(self) -> tuple[Tensor, Tensor]:
        """``gt`` and ``lq`` at that place."""
        return cut_images(self.codec, self.gt, self.lq, self.windows)

    def draw_steps(self) -> tuple[Tensor, Tensor]:
        """The first two of :meth:`draw_schedules`."""
        return self.draw_schedules()[:2]

    def draw_schedules(self) -> tuple[Tensor, Tensor, int]:
        """Length of the schedule and the step that is trained, (B,) each, at random but equal inside a group.

        With the greatest number of steps before one that is trained, in the batch of all processes.

        One set of weights serves all lengths, so every batch mixes them: where whole batches had one length, the
        rarer times were forgotten between their turns (4 steps fell to 14 dB within 100 updates).
        """
        options = self.run.distill
        groups = self.lq.shape[0] // options.group_size
        weights = torch.tensor(options.step_weights or [1.0] * len(options.num_steps))
        count = groups * self.share.count
        choice = torch.multinomial(weights, count, replacement=True, generator=self.host_generator)
        steps = torch.tensor(options.num_steps)[choice]
        uniform = torch.rand(count, generator=self.host_generator)
        stop = (uniform * steps).long()
        own = self.share.place(groups)
        size = options.group_size
        return steps[own].repeat_interleave(size), stop[own].repeat_interleave(size), int(stop.max())

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
            if not options.matching_first:
                share = share * (self.made_at < 1.0).reshape(-1, 1, 1, 1)
            losses[self.loss_name] = options.weight_dmd * surrogate_loss(x0, direction * share, norm)
        if self.gan is not None:
            t = self.score_times(x0.shape[0])
            x_t = self.process.add_noise(x0, self.randn_like(x0), t)
            with self.autocast():
                loss = self.gan.student_loss(self.denoiser(self.gan.net), x_t, t, self.fake_cond)
            losses["l_gan"] = options.weight_gan * loss
        gt, _ = self.seen()
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

    def adversarial_loss(self, image: Tensor) -> dict[str, Tensor]:
        """The student's loss by ``network_d``, times its weight; it comes after all rewards have seen the image."""
        if self.critic is None:
            return {}
        self.critic.see(image, self.seen()[0])
        with self.autocast():
            return {"l_g_gan": self.run.distill.weight_adversarial * self.critic.student_loss()}

    loss_name = "l_dmd"
    row_names = (
        *RestorationModel.row_names,
        *("cond", "fake_cond", "noise", "fresh", "steps", "stops", "state", "made_at", "windows", "weights"),
    )
    state: Tensor | None = None  # in which the student is asked last, once it is known
    weights: Tensor | None = None  # of the fake teacher's loss, see sharpening()
    windows: Windows | None = None
    gan: GANBranch | None = None
    critic: ImageCritic | None = None
    reward_losses: Sequence[tuple[BaseReward, float]] = ()
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
        self.log_of_batch(sizes_of_step, x0, direction, matching, norm)
        self.log(
            amd__cosine_gt=gradient_cosine(direction, to_gt),
            amd__distance_real=norm,
            amd__diversity=group_diversity(self.decoded(x0), self.run.distill.group_size),
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
        losses = {"l_fake": denoising_loss(x0_pred, x0, weight_t, self.weights)}
        if self.gan is not None and tap is not None:
            x0_gt = self.codec.encode(self.gt, self.lq)
            real_t = self.process.add_noise(x0_gt, self.randn_like(x0), t)
            with self.autocast():
                loss = self.gan.critic_loss(denoiser, tap.features, real_t, t, self.fake_cond)
            losses["l_gan_fake"] = options.weight_gan_fake * loss
        if advantage is not None and self.diagnosing:
            with self.diagnostics.extra():
                error = (x0_pred.detach() - x0).square() * weight_t.reshape(-1, 1, 1, 1)
                self.log_of_batch(errors_by_zone, error, advantage)
        return losses

    def reward_names(self) -> tuple[str, ...]:
        """The anchoring losses; rewards are added by AMD."""
        options = self.run.distill
        names = ["l1"] if options.weight_pix > 0 else []
        names += ["l2"] if options.weight_l2 > 0 else []
        return (*names, f"lpips_{options.percep_net}") if options.weight_percep > 0 else tuple(names)

    def extra_state(self) -> dict[str, Any]:
        """The critic's head and the trained encoder."""
        state: dict[str, Any] = {"gan_head": self.gan.head.state_dict()} if self.gan else {}
        return {**state, "encoder": self.encoder.state_dict()} if self.encoder else state

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`extra_state`."""
        if self.gan:
            load_whole(self.gan.head, state["gan_head"])
        if self.encoder:
            self.encoder.load_state_dict(state["encoder"])

    def save_other_networks(self, current_iter: int) -> None:
        """The fake teacher and the discriminator, under BasicSR's naming."""
        self.save_network(self.net_fake, "net_fake", current_iter)
        if self.critic:
            self.save_network(self.critic.net, "net_d", current_iter)


def _rows(values: Tensor | None, rows: slice) -> Tensor | None:
    return None if values is None else values[rows]
