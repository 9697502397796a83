"""A student that learns from the ground truth alone: regression, with or without perceptual losses."""

from __future__ import annotations

from amd_restore.models.student_model import StudentModel
from amd_restore.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class SupervisedModel(StudentModel):
    """The losses of ``losses`` on the student's samples; no teacher, no fake score, no rewards.

    With L1 alone and one step it fixes what the condition alone can determine: the warm start of a teacher, and a
    network that denoises badly at t = 1 but restores well. Its rollout is that of ``distill``, as a DMDModel's.
    """

    def train_step(self, current_iter: int) -> None:
        """One update of the student."""
        self.update_student(self.generate(self.draw_rollout(), with_gradient=True), current_iter)
