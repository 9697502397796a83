"""Distribution Matching Distillation of the teacher into a student of one to four steps."""

from __future__ import annotations

import torch
from torch import Tensor

from amd_restore.archs.base import checked_network
from amd_restore.losses.diagnostics import errors_by_zone, group_diversity, sizes_of_step, zone_cosine
from amd_restore.losses.dmd import (
    denoising_loss,
    gradient_cosine,
    matching_direction,
    normalizer,
    surrogate_loss,
)
from amd_restore.models.distributed import mean_of_all
from amd_restore.models.image_losses import ImageLosses
from amd_restore.models.persistence import check_latents
from amd_restore.models.restoration_model import build_network, channels_last
from amd_restore.models.rollout import Denoising, Rollout
from amd_restore.models.student_model import StudentModel
from amd_restore.registry import MODEL_REGISTRY

DIAGNOSE_EVERY = 4  # student updates between measurements in the Forbidden Zone, to save time


@MODEL_REGISTRY.register()
class DMDModel(StudentModel):
    """DMD (2311.18828, 2405.14867) of a conditional diffusion teacher.

    ``net_g``: student. ``net_teacher``: real score, frozen. ``net_fake``: fake score, trained on the student's samples.
    :class:`~amd_restore.models.amd_model.AMDModel` adds the advantage.
    """

    def init_training_settings(self) -> None:
        """Build real and fake score from ``path.pretrain_network_teacher``, or the fake score from its own weights.

        The real score takes the teacher's averaged weights, the fake score its raw weights.

        Raises:
            AMDRestoreError: the teacher is one of other latents.
        """
        paths, run = self.run.path, self.run
        self.net_teacher = channels_last(checked_network(build_network(run.network_teacher))).to(self.device)
        if paths.pretrain_network_teacher:
            self.load_network(self.net_teacher, paths.pretrain_network_teacher, True, "params_ema")
            check_latents(paths.pretrain_network_teacher, self.codec, self.process, self.prediction_type)
        self.net_teacher.eval().requires_grad_(False)
        self.net_fake = self.model_to_device(build_network(run.network_fake))
        fake_path = paths.pretrain_network_fake or paths.pretrain_network_teacher
        if fake_path:
            self.load_network(self.net_fake, fake_path, True, "params", grow=run.distill.fake_sees_step)
        self.net_fake.train()
        self.losses_of_fake = ImageLosses(run.fake_losses, self.device)
        super().init_training_settings()

    def reward_names(self) -> tuple[str, ...]:
        """Return the metrics used as losses, those of the fake score included."""
        return tuple(sorted({*super().reward_names(), *self.losses_of_fake.names}))

    def trained_parameters(self) -> dict[str, list[Tensor]]:
        """Add the fake score."""
        return super().trained_parameters() | {"optim_fake": [*self.net_fake.parameters()]}

    def train_step(self, current_iter: int) -> None:
        """Update the student every ``fake_updates_per_student`` iterations, the fake score in each."""
        update_student = current_iter % self.run.distill.fake_updates_per_student == 0
        updates = current_iter // self.run.distill.fake_updates_per_student
        self.diagnosing = update_student and updates % DIAGNOSE_EVERY == 1
        # 1. Student rollout; only the last step has a gradient.
        rollout = self.generate(self.draw_rollout(), with_gradient=update_student)
        # 2. Rewards measure the samples; they never backpropagate.
        rollout = rollout.having(advantage=self.diagnose(rollout, update_student))
        # 3. Student: matching and guidance, weighted by the advantage of each sample (eq. 10, 13).
        if update_student:
            self.update_student(rollout, updates)
        # 4. Fake score: denoising loss on the student's samples, with larger weights for worse ones.
        self.update_fake(rollout)

    # ---- 2. rewards -------------------------------------------------------------------------------------------

    def diagnose(self, rollout: Rollout, update_student: bool) -> Tensor | None:
        """Return the advantage of each sample; None for plain DMD."""
        return None

    def adaptation(self, advantage: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Weights alpha and beta of eq. 10."""
        return None, None

    def sharpening(self, advantage: Tensor | None) -> Tensor | None:
        """Weights of the fake score's loss."""
        return None

    # ---- 3. student -------------------------------------------------------------------------------------------

    def update_student(self, rollout: Rollout, updates: int) -> None:
        """Update the student, with the matching direction."""
        super().update_student(self.with_direction(rollout), updates)

    def with_direction(self, rollout: Rollout) -> Rollout:
        """Return the rollout with the matching direction, if the matching loss has a weight."""
        if self.run.distill.weight_dmd == 0:
            return rollout
        direction, norm = self.direction(rollout)
        return rollout.having(direction=direction, norm=norm)

    def student_losses(self, rollout: Rollout) -> dict[str, Tensor]:
        """Return matching loss and losses to the ground truth, each times its weight."""
        options = self.run.distill
        x0 = rollout.x0
        losses: dict[str, Tensor] = {}
        if rollout.direction is not None and rollout.norm is not None:
            # Late steps refine an image; with the full matching loss they would generate a new sample of the posterior.
            share = rollout.t.reshape(-1, 1, 1, 1) ** options.matching_decay
            losses[self.loss_name] = options.weight_dmd * surrogate_loss(x0, rollout.direction * share, rollout.norm)
        return losses | super().student_losses(rollout)

    loss_name = "l_dmd"
    diagnosing = False  # whether this step logs additional measurements

    def matched(self, rollout: Rollout) -> Tensor | None:
        """Return the indices of rows with a matching loss; None for all."""
        if self.run.distill.matching_first:
            return None
        return (rollout.stops > 0).nonzero().squeeze(1)

    def condition_of_fake(self, rollout: Rollout) -> Tensor:
        """Return the condition, with the time of the student's step as an additional channel if ``fake_sees_step``.

        The distribution of the student's samples depends on the step. A fake score of their mixture pushes the samples
        of each step away from those of the others instead of towards the teacher: later steps then become ever sharper.
        """
        cond = rollout.cond
        if not self.run.distill.fake_sees_step:
            return cond
        times = rollout.t.reshape(-1, 1, 1, 1).expand(-1, 1, *cond.shape[2:])
        return torch.cat([cond, times.to(cond.dtype)], dim=1)

    @torch.no_grad()
    def direction(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Return H of eq. 10 at a random noise level shared by teacher and fake score, and its normaliser.

        H is 0 in rows without a matching loss, for which no network is called.
        """
        draws = [self.direction_of_draw(rollout) for _ in range(self.run.distill.matching_draws)]
        direction, norm = draws[0]
        if len(draws) > 1:
            direction = torch.stack([direction / norm for direction, norm in draws]).mean(dim=0)
            norm = torch.ones_like(norm)
        return direction, norm

    def direction_of_draw(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Return H and normaliser at one time and noise for each sample, or for each group with ``share_times``."""
        options = self.run.distill
        size = options.group_size if options.share_times else 1
        t = options.t_min + (options.t_max - options.t_min) * self.rand(len(rollout) // size)
        t = t.repeat_interleave(size)
        noise = self.randn((len(rollout) // size, *rollout.x0.shape[1:])).repeat_interleave(size, dim=0)
        rows = self.matched(rollout)
        if rows is None:
            direction, matching, norm = self.direction_at(rollout, t, noise)
        else:
            direction, matching = torch.zeros_like(rollout.x0), torch.zeros_like(rollout.x0)
            norm = torch.ones_like(direction[:, :1, :1, :1])
            if len(rows):
                direction[rows], matching[rows], norm[rows] = self.direction_at(rollout[rows], t[rows], noise[rows])
        if self.diagnosing:
            with self.diagnostics.extra():
                self.log_direction(rollout, direction, matching, norm)
        return direction, norm

    def direction_at(self, rollout: Rollout, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return H, its first part and the normaliser of matched rows at times (B,) with noise (B, C, h, w)."""
        options, x0 = self.run.distill, rollout.x0.detach()
        x_t = self.process.add_noise(x0, noise, t)
        uncond = None
        with self.autocast():
            x0_real = self.denoiser(self.net_teacher)(x_t, t, rollout.cond)
            x0_fake = self.denoiser(self.net_fake)(x_t, t, self.condition_of_fake(rollout))
            if options.guidance_scale != 1.0:
                uncond = self.denoiser(self.net_teacher)(x_t, t, None)
        alpha, beta = self.adaptation(rollout.advantage)
        direction = matching_direction(x0_real, x0_fake, uncond, options.guidance_scale, alpha, beta)
        if options.normalizer == "none":
            norm = x0.new_ones(x0.shape[0], 1, 1, 1)
        else:
            target = x0_real
            if options.normalizer == "guided" and uncond is not None:
                target = uncond + options.guidance_scale * (x0_real - uncond)
            norm = normalizer(x0, target)
        matching = matching_direction(x0_real, x0_fake, beta=beta) if self.diagnosing else direction
        return direction, matching, norm

    def log_direction(self, rollout: Rollout, direction: Tensor, matching: Tensor, norm: Tensor) -> None:
        """Log the size of the step and its parts, and its cosine to the ground truth inside and outside the zone.

        All processes log the same names, with NaN where no row is matched; means leave NaN out.
        """
        x0, advantage, rows = rollout.x0.detach(), rollout.advantage, self.matched(rollout)
        chosen = torch.ones(len(rollout), dtype=torch.bool, device=x0.device)
        if rows is not None:
            chosen = torch.zeros_like(chosen)
            chosen[rows] = True
        to_gt = self.codec.encode(rollout.gt, rollout.lq) - x0
        self.log_of_batch(sizes_of_step, x0, direction, matching, norm, chosen)
        values = {"amd__cosine_gt": gradient_cosine(direction, to_gt), "amd__distance_real": norm.flatten()}
        if advantage is not None:
            inside, outside = zone_cosine(direction, to_gt, advantage < 0)
            values |= {"amd__cosine_gt_inside": inside, "amd__cosine_gt_outside": outside}
        self.log(**{name: value.masked_fill(~chosen, torch.nan) for name, value in values.items()})
        self.log(amd__diversity=group_diversity(rollout.image.detach(), self.run.distill.group_size))

    # ---- 4. fake score ----------------------------------------------------------------------------------------

    def update_fake(self, rollout: Rollout) -> None:
        """Update the fake score on the matched samples only.

        Samples without a matching loss would move the fixed point of the matched ones away from the teacher.
        """
        batch, rows = self.fake_batch(rollout), self.matched(rollout)
        scale: Tensor | float = 1.0
        if rows is not None:
            share = mean_of_all(torch.tensor(len(rows) / len(batch), device=batch.t.device))
            if share == 0:
                return
            if batch.weight is not None:  # The weights of the used rows must have mean 1.
                total = mean_of_all(batch.weight[rows].sum() / batch.weight.numel())
                batch = batch.having(weight=batch.weight * share / total)
            # A process without such rows takes part in the average of gradients, with a weight of 0.
            scale = len(rows) / (len(batch) * share)
            batch = batch[rows if len(rows) else slice(0, 1)]
        errors: list[Tensor] = []

        def losses(part: Denoising) -> dict[str, Tensor]:
            found, error = self.fake_losses(part)
            errors.append(error)
            return found if rows is None else {name: loss * scale for name, loss in found.items()}

        self.descend(self.optimizer_fake, batch, losses)
        if rollout.advantage is not None and self.diagnosing and rows is None:
            with self.diagnostics.extra():
                self.log_of_batch(errors_by_zone, torch.cat(errors), rollout.advantage)

    def fake_batch(self, rollout: Rollout) -> Denoising:
        """Return all samples with fresh noise and times, weighted by :meth:`sharpening`."""
        options = self.run.distill
        return Denoising(
            x0=rollout.x0.detach(),
            t=options.t_min + (1.0 - options.t_min) * self.rand(len(rollout)),
            noise=self.randn(rollout.x0.shape),
            cond=self.condition_of_fake(rollout),
            weight=self.sharpening(rollout.advantage),
            gt=self.codec.decode(rollout.x0.detach(), rollout.lq) if self.losses_of_fake.names else None,
            lq=rollout.lq,
        )

    def fake_losses(self, batch: Denoising) -> tuple[dict[str, Tensor], Tensor]:
        """Return the losses of the fake score, and the weighted squared error (B, C, h, w).

        With ``fake_losses`` it learns its estimates of the student's images as a teacher with such ``losses`` learned
        those of photographs; otherwise teacher and fake score would differ even at equal distributions.
        """
        x_t = self.process.add_noise(batch.x0, batch.noise, batch.t)
        denoiser, weight_t = self.denoiser(self.net_fake), self.process.loss_weight(batch.t)
        with self.autocast():
            x0_pred = denoiser(x_t, batch.t, batch.cond)
        losses = {"l_fake": denoising_loss(x0_pred, batch.x0, weight_t, batch.weight)}
        if self.losses_of_fake.names:
            below = self.run.diffusion.losses_below
            found = self.losses_of_fake.of_late(batch, x0_pred, self.codec, below, self.host_generator)
            losses |= {f"{name}_of_fake": loss for name, loss in found.items()}
        return losses, (x0_pred.detach() - batch.x0).square() * weight_t.reshape(-1, 1, 1, 1)

    def save_other_networks(self, current_iter: int) -> None:
        """Save the fake score, too."""
        super().save_other_networks(current_iter)
        self.save_network(self.net_fake, "net_fake", current_iter)
