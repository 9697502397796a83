"""All settings of one restoration: plain values, fit for other processes and for reports."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from amd_restore.errors import AMDRestoreError


@dataclass(frozen=True)
class Settings:
    """What is done to each picture.

    Args:
        model: ``auto``, released name, weights file or folder; None is ``auto``.
        device, dtype, backend: see :meth:`RestorationPipeline.from_pretrained`.
        threads: processor threads; None leaves them to the backend.
        steps, seed, tile, halo, max_memory: see :meth:`RestorationPipeline.__call__`; ``max_memory`` in bytes.
        outscale, max_side, width: size of the output, see :func:`amd_restore.image_io.sizing.output_size`.
        fidelity, tta: see :meth:`RestorationPipeline.__call__`.
        consistency, color_fix: see :mod:`amd_restore.postprocess`.
        n_samples: versions of each picture, with the seeds from ``seed`` on.
        uncertainty: also write a map of the error to expect, from where samples disagree.
        compare: also write input and output side by side.
        quality: of lossy formats, 1 to 100.
        frames: restore animations frame by frame instead of refusing them.
        max_pixels: largest input.
    """

    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    backend: str | None = None
    threads: int | None = None
    steps: int | None = None
    seed: int = 0
    tile: int | None = None
    halo: int | None = None
    max_memory: int | None = None
    outscale: float | None = None
    max_side: int | None = None
    width: int | None = None
    fidelity: float = 0.0
    consistency: bool = False
    color_fix: str = "none"
    n_samples: int = 1
    tta: bool = False
    uncertainty: bool = False
    compare: bool = False
    quality: int | None = None
    frames: bool = False
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.outscale is not None and self.width is not None:
            raise AMDRestoreError("--outscale and --width contradict each other; give one")

    @property
    def extras(self) -> list[str]:
        """Further outputs of each picture, by what is added to its name."""
        names = [f"sample{number}" for number in range(2, self.n_samples + 1)]
        return names + [name for name in ("uncertainty", "compare") if getattr(self, name)]

    def record(self) -> dict[str, Any]:
        """As a JSON object, without what was left at its default."""
        return {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        }
