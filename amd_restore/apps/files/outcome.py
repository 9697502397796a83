"""What became of one picture."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from amd_restore.errors import AMDRestoreError

Status = Literal["restored", "skipped", "failed"]


class Task(Protocol):
    """What an outcome is about: two names, of files or of objects in a store."""

    @property
    def source(self) -> object:
        """The picture to read."""

    @property
    def target(self) -> object:
        """The picture to write."""


@dataclass(frozen=True)
class Outcome:
    """One line of the report.

    Args:
        job: what was to be done.
        status: what was done; ``skipped`` means that the output was there already.
        message: why it failed.
        seconds: of reading, work and writing together.
        size, restored_size: (height, width) of the input and of the output, in pixels.
        error: the exception behind a failure, for its traceback.
        lost: what the input held and the output does not, by kind.
        model: name of the model that restored it.
    """

    job: Task
    status: Status
    message: str = ""
    seconds: float = 0.0
    size: tuple[int, int] | None = None
    restored_size: tuple[int, int] | None = None
    error: BaseException | None = dataclasses.field(default=None, compare=False, repr=False)
    lost: tuple[str, ...] = ()
    model: str = ""

    def record(self) -> dict[str, Any]:
        """As a JSON object; what is not known is left out."""
        values: dict[str, Any] = {
            "source": str(self.job.source),
            "target": str(self.job.target),
            "status": self.status,
        }
        if self.message:
            values["message"] = self.message
        if self.status == "restored":
            values["seconds"] = round(self.seconds, 3)
            values["model"] = self.model
        if self.lost:
            values["lost"] = list(self.lost)
        for key, size in (("size", self.size), ("restored_size", self.restored_size)):
            if size is not None:
                values[key] = {"width": size[1], "height": size[0]}
        return values


def failed(job: Task, error: Exception) -> Outcome:
    """Outcome of a picture that failed, in one line that names it."""
    from amd_restore.inference.call_options import is_out_of_memory

    if isinstance(error, AMDRestoreError):
        message = str(error) if str(job.source) in str(error) else f"{job.source}: {error}"
    elif is_out_of_memory(error):
        message = f"{job.source}: out of memory; lower --workers, close other programs, or ask for a smaller output"
    else:
        message = f"{job.source}: unexpected {type(error).__name__} ({error}); run with --debug and report it"
    return Outcome(job, "failed", re.sub(r"\s*\n\s*", " ", message), error=error)
