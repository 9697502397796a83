"""Student of one to four steps, and its losses to the ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from amd_restore.models.image_losses import ImageLosses
from amd_restore.models.rollout import Rollout
from amd_restore.models.rollout_model import RolloutModel


class StudentModel(RolloutModel):
    """Base of :class:`~amd_restore.models.supervised_model.SupervisedModel` and of
    :class:`~amd_restore.models.dmd_model.DMDModel`: all parts that need no teacher."""

    kind = "student"
    losses: ImageLosses

    def init_training_settings(self) -> None:
        """Build the losses, and the discriminator if one of them needs it."""
        self.losses = ImageLosses(self.run.losses, self.device, self.run.network_d)
        if self.losses.discriminator and self.run.path.pretrain_network_d:
            self.load_network(self.losses.discriminator.net, self.run.path.pretrain_network_d, True, "params")
        super().init_training_settings()

    def trained_parameters(self) -> dict[str, list[Tensor]]:
        """Return the trained parameters by the name of their optimizer's block."""
        student = [*self.net_g.parameters(), *(self.encoder.parameters() if self.encoder else ())]
        discriminator = self.losses.discriminator
        return {"optim_g": student} | ({"optim_d": [*discriminator.net.parameters()]} if discriminator else {})

    def setup_optimizers(self) -> None:
        """Build an optimizer for each of :meth:`trained_parameters`."""
        for name, parameters in self.trained_parameters().items():
            options = getattr(self.run.train, name)
            optimizer = self.get_optimizer(options.type, parameters, options.lr, **options.arguments)
            setattr(self, name.replace("optim_", "optimizer_"), optimizer)
            self.optimizers.append(optimizer)

    # ---- update of the student -------------------------------------------------------------------------------

    def update_student(self, rollout: Rollout, updates: int) -> None:
        """Update the student and its average, then the discriminator.

        Args:
            rollout: the student's samples.
            updates: number of student updates, including this one.
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
        """Return losses to the ground truth except the adversarial one, each times its weight."""
        return self.losses.of(rollout.image, *self.targets(rollout), self.host_generator)

    def adversarial_loss(self, rollout: Rollout) -> dict[str, Tensor]:
        """Return the adversarial loss times its weight; call it last, because it may need features of other losses."""
        loss = self.losses.adversarial
        if loss is None:
            return {}
        with self.autocast():
            return {f"l_{loss.name}": loss(rollout.image, *self.targets(rollout), self.host_generator)}

    def discriminator_losses(self, rollout: Rollout) -> dict[str, Tensor]:
        """Return the loss of ``network_d`` on the pairs of the student's update."""
        assert self.losses.discriminator is not None
        with self.autocast():
            return {"l_d": self.losses.discriminator.loss()}

    # ---- saving -----------------------------------------------------------------------------------------------

    def released_steps(self) -> tuple[tuple[int, ...], int]:
        """Return the trained numbers of steps; the default is the smallest."""
        steps = tuple(self.run.distill.num_steps)
        return steps, min(steps)

    def reward_names(self) -> tuple[str, ...]:
        """Return the metrics used as losses."""
        return tuple(sorted(self.losses.names))

    def extra_state(self) -> dict[str, Any]:
        """Return the state of the trained encoder."""
        return {"encoder": self.encoder.state_dict()} if self.encoder else {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`extra_state`."""
        if self.encoder:
            self.encoder.load_state_dict(state["encoder"])

    def save_other_networks(self, current_iter: int) -> None:
        """Save the discriminator under BasicSR's naming."""
        if self.losses.discriminator:
            self.save_network(self.losses.discriminator.net, "net_d", current_iter)
