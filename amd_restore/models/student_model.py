"""A student of one to four steps: its rollout in training, and its losses to the ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from amd_restore.diffusion import Recipe, approach, first_state, last_call, row_times
from amd_restore.models.distributed import own_place, process_count
from amd_restore.models.latent import Windows, cut_images, decode_windows
from amd_restore.models.restoration_model import RestorationModel
from amd_restore.models.rollout import Rollout
from amd_restore.models.student_losses import StudentLosses


class StudentModel(RestorationModel):
    """Base of :class:`~amd_restore.models.supervised_model.SupervisedModel` and of
    :class:`~amd_restore.models.dmd_model.DMDModel`: everything that needs no teacher."""

    kind = "student"
    losses: StudentLosses

    def init_training_settings(self) -> None:
        """Build the losses, and the discriminator that one of them may need."""
        self.losses = StudentLosses(self.run, self.opt.get("network_d"), self.device)
        if self.losses.discriminator and self.run.path.pretrain_network_d:
            self.load_network(self.losses.discriminator.net, self.run.path.pretrain_network_d, True, "params")
        super().init_training_settings()

    def trained_parameters(self) -> dict[str, list[Tensor]]:
        """What is trained, by the name of its optimizer's block."""
        student = [*self.net_g.parameters(), *(self.encoder.parameters() if self.encoder else ())]
        discriminator = self.losses.discriminator
        return {"optim_g": student} | ({"optim_d": [*discriminator.net.parameters()]} if discriminator else {})

    def setup_optimizers(self) -> None:
        """An optimizer for each of :meth:`trained_parameters`."""
        for name, parameters in self.trained_parameters().items():
            options = getattr(self.run.train, name)
            optimizer = self.get_optimizer(options.type, parameters, options.lr, **options.arguments)
            setattr(self, name.replace("optim_", "optimizer_"), optimizer)
            self.optimizers.append(optimizer)

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
        weights = torch.tensor(options.step_weights or [1.0] * len(options.num_steps), dtype=torch.float32)
        count = groups * process_count()
        choice = torch.multinomial(weights, count, replacement=True, generator=self.host_generator)
        steps = torch.tensor(options.num_steps)[choice]
        uniform = torch.rand(count, generator=self.host_generator, dtype=torch.float32)
        stop = (uniform * steps).long()
        own = own_place(groups)
        size = options.group_size
        return steps[own].repeat_interleave(size), stop[own].repeat_interleave(size), int(stop.max())

    # ---- the student's turn -----------------------------------------------------------------------------------

    def update_student(self, rollout: Rollout, updates: int) -> None:
        """A step of the student and of its average, then of the discriminator that has judged it.

        Args:
            rollout: the student's samples.
            updates: of the student so far, with this one.
        """

        def losses(part: Rollout) -> dict[str, Tensor]:
            part = part if self.accumulate == 1 else self.last_step(part)
            return self.student_losses(part) | self.adversarial_loss(part)

        self.descend(self.optimizer_g, rollout, losses)
        if self.ema_decay > 0:
            decay = min(self.ema_decay, (1 + updates) / (10 + updates))
            self.model_ema(decay)
            if self.encoder:
                self.encoder.update(decay)
        if self.losses.discriminator:
            self.descend(self.optimizer_d, rollout, self.discriminator_losses)

    def student_losses(self, rollout: Rollout) -> dict[str, Tensor]:
        """Losses to the ground truth but the adversarial one, each times its weight."""
        return self.losses.of(rollout.image, *self.targets(rollout), self.host_generator)

    def adversarial_loss(self, rollout: Rollout) -> dict[str, Tensor]:
        """The student's loss by ``network_d``, times its weight; after all others, whose features it may need."""
        loss = self.losses.adversarial
        if loss is None:
            return {}
        with self.autocast():
            return {f"l_{loss.name}": loss(rollout.image, *self.targets(rollout), self.host_generator)}

    def discriminator_losses(self, rollout: Rollout) -> dict[str, Tensor]:
        """The loss of ``network_d`` on the pairs that it has just judged."""
        assert self.losses.discriminator is not None
        with self.autocast():
            return {"l_d": self.losses.discriminator.loss()}

    # ---- saving -----------------------------------------------------------------------------------------------

    def reward_names(self) -> tuple[str, ...]:
        """Metrics that are losses."""
        return tuple(sorted(self.losses.names))

    def extra_state(self) -> dict[str, Any]:
        """The trained encoder."""
        return {"encoder": self.encoder.state_dict()} if self.encoder else {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`extra_state`."""
        if self.encoder:
            self.encoder.load_state_dict(state["encoder"])

    def save_other_networks(self, current_iter: int) -> None:
        """The discriminator, under BasicSR's naming."""
        if self.losses.discriminator:
            self.save_network(self.losses.discriminator.net, "net_d", current_iter)
