"""What is done to the pixels of one picture, as the settings say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amd_restore.apps.files.needs import Need, need_of
from amd_restore.apps.files.settings import Settings
from amd_restore.apps.files.uncertainty import UNCERTAINTY_SAMPLES, colour, floating, uncertainty_map
from amd_restore.arrays import Array, host
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import Picture
from amd_restore.image_io.sizing import output_size, resize
from amd_restore.inference import memory
from amd_restore.inference.post import Chain
from amd_restore.pipeline import AUTO, RestorationPipeline, load_pipeline, suited
from amd_restore.postprocess import (
    AdainFix,
    Consistency,
    WaveletFix,
    knows_downscaling,
)

Pixels = np.ndarray[Any, Any]
Progress = Callable[[int, int], None] | None


class Work:
    """The pipeline with the controls around it.

    Args:
        settings: what is done.

    Raises:
        AMDRestoreError: no such weights, device or backend, settings that do not fit the weights, or a memory limit
            below what the process takes.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pipeline = load_pipeline(
            settings.model or AUTO, settings.device, settings.dtype, settings.backend, settings.threads
        )
        scale, degradation = self.pipeline.scale, self.pipeline.header.degradation
        if settings.consistency and not (scale > 1 and knows_downscaling(degradation)):
            name = AUTO if settings.model in (None, AUTO) else self.pipeline.header.name
            raise AMDRestoreError(
                f"--consistency: {name} was not trained on inputs that were only scaled down, so its outputs need not "
                "scale down to them; use --model x4-classical, or --color-fix or --fidelity"
            )
        self._resident = self.pipeline.restorer.resident
        if self._limit is not None and self._limit < self._resident:
            limit, least = self._limit / memory.MIB, self._resident / memory.MIB
            raise AMDRestoreError(
                f"--max-memory: {limit:.3g} MiB are less than the {least:.0f} MiB that the process takes before any "
                "image; raise the limit"
            )
        colour = [WaveletFix(scale)] if settings.color_fix == "wavelet" else []
        self._consistency = [Consistency(scale)] if settings.consistency else []
        self._post = Chain([*colour, *self._consistency]) if colour or self._consistency else None

    @property
    def advice(self) -> str | None:
        """What the user should know about the settings, if anything."""
        header, steps = self.pipeline.header, self.settings.steps
        if steps and steps not in header.steps:
            trained = ", ".join(map(str, header.steps))
            return f"{header.name} was made for {trained} steps, not {steps}; expect lesser quality"
        return None

    @property
    def plain(self) -> bool:
        """Whether a picture is restored once, tile by tile, and not looked at as a whole."""
        wanted = self.settings
        resized = wanted.outscale is not None or wanted.width is not None or wanted.max_side is not None
        return wanted.n_samples == 1 and not (wanted.uncertainty or resized or wanted.color_fix == "adain")

    @property
    def room(self) -> float:
        """Bytes for pictures and tiles, beside what the process has without them."""
        return memory.free_share(None) if self._limit is None else self._limit - self._resident

    @property
    def _limit(self) -> int | None:
        """Limit of the process; one for a device with memory of its own is no affair of pictures."""
        return None if memory.has_own_memory(self.pipeline.restorer.device) else self.settings.max_memory

    def check_memory(self, need: Need, size: tuple[int, int], may_stream: bool = False) -> None:
        """Refuse a picture of this (height, width) that cannot fit, before any work; arguments as for the check.

        Raises:
            AMDRestoreError: says how much it needs.
        """
        if self._limit is not None:
            memory.check_limit(self._limit, self._resident + need.most, size, may_stream)
        else:
            memory.check_limit(memory.available_memory(None), need.most, size, may_stream, free=True)

    def reserve(self, held: float) -> None:
        """Let the pipeline plan its tiles within what ``held`` bytes leave."""
        self.pipeline.restorer.resident = self._resident + round(held)

    def need(
        self, shape: tuple[int, int, int, int], streamed: bool = False, suffixes: tuple[str, str] = ("", "")
    ) -> Need:
        """Memory that a picture of this height, width, channels and bytes of a value takes, see :func:`need_of`."""
        return need_of(shape, streamed, suffixes, self.pipeline.scale, self.settings)

    def model_of(self, pixels: Pixels) -> str:
        """Name of the model that restores a picture."""
        return suited(self.pipeline, pixels).header.name

    def one(self, pixels: Pixels, number: int, progress: Progress, judged: Pixels | None = None) -> Pixels:
        """Sample ``number`` of a picture, (H, W, C) -> (scale H, scale W, C) of the same dtype.

        ``judged`` is the picture by which the model is chosen, where several pictures need the same; None is this one.
        """
        options = self._options(progress) | {"seed": self.settings.seed + number}
        pipeline = suited(self.pipeline, pixels if judged is None else judged)
        if self.settings.color_fix != "adain":
            return pipeline.restore_image(pixels, **options)
        return self._with_statistics(pipeline, pixels, options)

    def batch(self, pictures: Sequence[Pixels], progress: Progress) -> list[Pixels]:
        """Restore 8-bit RGB pictures of one size together, each with the seed it would have alone.

        Numbers round differently in a batch than alone; pixels may differ by one step of 255.
        """
        lq = np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32) / 255
        options = self._options(progress) | {"seed": [self.settings.seed] * len(pictures)}
        sr = np.rint(255 * self.pipeline(lq, **options))
        return list(sr.transpose(0, 2, 3, 1).astype(np.uint8))

    def stream(self, target: Path, picture: Picture, progress: Progress) -> tuple[int, int]:
        """Restore into a file while rows come; returns the (height, width) of the output."""
        self.pipeline.restore_to(target, picture, quality=self.settings.quality, **self._options(progress))
        height, width = picture.pixels.shape[:2]
        return height * self.pipeline.scale, width * self.pipeline.scale

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the output that the settings say."""
        wanted = self.settings
        return output_size(height, width, self.pipeline.scale, wanted.outscale, wanted.max_side, wanted.width)

    def resized(self, restored: Pixels, source: Pixels) -> Pixels:
        """``restored`` at the size that the settings say."""
        size = self.output_size(*source.shape[:2])
        return restored if size == restored.shape[:2] else resize(restored, size)

    def uncertainty(self, pixels: Pixels) -> Pixels:
        """Heat map (H', W', 3), uint8, of the error to expect at each pixel of the output."""
        drawn = uncertainty_map(
            suited(self.pipeline, pixels),
            pixels,
            max(self.settings.n_samples, UNCERTAINTY_SAMPLES),
            **self._options(None),
        )
        return self.resized(drawn, pixels)

    def _with_statistics(self, pipeline: RestorationPipeline, pixels: Pixels, options: dict[str, Any]) -> Pixels:
        """With colours matched over the whole picture, which therefore has to be in memory."""
        floats = floating(pixels)
        restored = pipeline.restore_image(floats, **{**options, "post": None})
        lq = colour(floats)
        sr: Array = colour(restored)
        sr = AdainFix.of(sr, lq, self.pipeline.scale)(sr, lq)
        for step in self._consistency:
            sr = step(sr, lq)
        channels = sr.shape[1]
        restored[..., :channels] = host(sr)[0].clip(0, 1).transpose(1, 2, 0)
        if pixels.dtype.kind == "f":
            return restored
        return np.rint(restored * np.iinfo(pixels.dtype).max).astype(pixels.dtype)

    def _options(self, progress: Progress) -> dict[str, Any]:
        wanted = self.settings
        return {
            "num_steps": wanted.steps,
            "seed": wanted.seed,
            "tile": wanted.tile,
            "halo": wanted.halo,
            "max_memory": wanted.max_memory,
            "fidelity": wanted.fidelity,
            "tta": wanted.tta,
            "post": self._post,
            "progress": progress,
        }


def shape_of(pixels: Pixels) -> tuple[int, int, int, int]:
    """Height, width, channels, and bytes of a value."""
    height, width, channels = np.atleast_3d(pixels).shape
    return height, width, channels, pixels.itemsize
