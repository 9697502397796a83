"""A student of one to four steps, and its losses to the ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from amd_restore.models.rollout import Rollout
from amd_restore.models.rollout_model import RolloutModel
from amd_restore.models.student_losses import StudentLosses


class StudentModel(RolloutModel):
    """Base of :class:`~amd_restore.models.supervised_model.SupervisedModel` and of
    :class:`~amd_restore.models.dmd_model.DMDModel`: everything that needs no teacher."""

    kind = "student"
    losses: StudentLosses

    def init_training_settings(self) -> None:
        """Build the losses, and the discriminator that one of them may need."""
        self.losses = StudentLosses(self.run, self.device)
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

    # ---- the student's turn -----------------------------------------------------------------------------------

    def update_student(self, rollout: Rollout, updates: int) -> None:
        """A step of the student and of its average, then of the discriminator that has judged it.

        Args:
            rollout: the student's samples.
            updates: of the student so far, with this one.
        """

        def losses(part: Rollout) -> dict[str, Tensor]:
            part = part if self.accumulate == 1 else part.having(**self.last_step(part, part.x_t))
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

    def released_steps(self) -> tuple[tuple[int, ...], int]:
        """Those that it is trained for; the fewest."""
        steps = tuple(self.run.distill.num_steps)
        return steps, min(steps)

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
