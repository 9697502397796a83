"""Student trained by losses to the ground truth only: regression, with or without perceptual losses."""

from __future__ import annotations

from amd_restore.models.student_model import StudentModel
from amd_restore.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class SupervisedModel(StudentModel):
    """Training by ``losses`` on the student's samples, without teacher, fake score and rewards.

    With L1 alone and one step it learns the conditional median, the warm start of a teacher. Its rollout is that of
    ``distill``.
    """

    def train_step(self, current_iter: int) -> None:
        """Update the student once."""
        self.update_student(self.generate(self.draw_rollout(), with_gradient=True), current_iter)
