"""From one file to another: read, restore, write."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from amd_restore.batch.outcome import Outcome, failed
from amd_restore.batch.plan import Job
from amd_restore.batch.settings import Settings
from amd_restore.checkpoint import DEFAULT_MODEL
from amd_restore.image_io import Picture, read_image, write_image
from amd_restore.pipeline import DEFAULT_HALO, RestorationPipeline


@dataclass(frozen=True)
class Source:
    """A picture that was read, or why it could not be.

    Args:
        job: where from and where to.
        picture: None after a failure.
        seconds: that reading took.
        failure: None if all went well.
    """

    job: Job
    picture: Picture | None
    seconds: float
    failure: Outcome | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the input."""
        return None if self.picture is None else self.picture.pixels.shape[:2]


Finish = Callable[[], tuple[int, int]]  # writes what was restored, answers with its (height, width)


class Restorer:
    """Restores pictures as ``settings`` say; the network is loaded once.

    Raises:
        AMDRestoreError: no such weights, device or backend.
    """

    def __init__(self, settings: Settings) -> None:
        import torch

        self.settings = settings
        if settings.threads:
            torch.set_num_threads(settings.threads)
        dtype: str | torch.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(settings.dtype, "auto")
        self.pipeline = RestorationPipeline.from_pretrained(settings.model or DEFAULT_MODEL, settings.device, dtype)

    @property
    def advice(self) -> str | None:
        """What the user should know about the settings, if anything."""
        header, steps = self.pipeline.header, self.settings.steps
        if steps and steps not in header.steps:
            trained = ", ".join(map(str, header.steps))
            return f"{header.name} was made for {trained} steps, not {steps}; expect lesser quality"
        return None

    def read(self, job: Job) -> Source:
        """Read the picture of ``job``; never raises, for it runs ahead in another thread."""
        start = time.perf_counter()
        try:
            picture = read_image(job.source)
        except Exception as error:  # reported and counted; a bug of ours must not cost the other pictures
            return Source(job, None, 0.0, failed(job, error))
        return Source(job, picture, time.perf_counter() - start)

    def groups(self, sources: Sequence[Source]) -> list[list[Source]]:
        """Neighbours that can pass through the network together."""
        return [list(group) for _, group in groupby(sources, key=lambda source: source.size)]

    def restore(self, group: Sequence[Source], progress: Callable[[int, int], None] | None = None) -> list[Finish]:
        """Restore pictures of one size; what comes back writes them, and may run in another thread.

        Raises:
            AMDRestoreError: see :meth:`RestorationPipeline.restore_image`.
        """
        settings = self.settings
        finishes: list[Finish] = []
        for source in group:
            assert source.picture is not None
            pixels = self.pipeline.restore_image(
                source.picture.pixels,
                num_steps=settings.steps,
                seed=settings.seed,
                tile=settings.tile,
                halo=DEFAULT_HALO if settings.halo is None else settings.halo,
                progress=progress,
            )
            finishes.append(_writer(source.job, Picture(pixels, source.picture.icc, source.picture.exif)))
        return finishes


def _writer(job: Job, picture: Picture) -> Finish:
    def write() -> tuple[int, int]:
        write_image(job.target, picture)
        height, width = picture.pixels.shape[:2]
        return height, width

    return write
