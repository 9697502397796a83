"""Map of the error to expect at each pixel of a restored image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from amd_restore.pipeline import RestorationPipeline
from amd_restore.postprocess import SampleStatistics, expected_error, heat_map

Pixels = np.ndarray[Any, Any]
UNCERTAINTY_SAMPLES = 8  # where no higher number is given


def uncertainty_map(
    pipeline: RestorationPipeline,
    pixels: Pixels,
    samples: int = UNCERTAINTY_SAMPLES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Pixels:
    """Restore several samples and draw the expected error of one.

    Always of the full noise: at a higher fidelity the samples agree more without being closer to the truth.

    Args:
        pipeline: restoration pipeline.
        pixels: image as for :meth:`RestorationPipeline.restore_image`.
        samples: number of samples, at least 2.
        seed: that of the first sample; the others have the following ones.
        progress: called as ``progress(done, total)`` after every tile of every sample.
        options: further ones of :meth:`RestorationPipeline.restore_image`.

    Returns:
        Heat map (scale H, scale W, 3), uint8.
    """
    statistics, floats = SampleStatistics(), floating(pixels)
    for number in range(samples):

        def advance(done: int, total: int, number: int = number) -> None:
            if progress:
                progress(number * total + done, samples * total)

        chosen = options | {"fidelity": 0.0, "seed": seed + number, "progress": advance}
        statistics.add(colour(pipeline.restore_image(floats, **chosen)))
    error = expected_error(statistics.std, pipeline.header.error_per_std)
    drawn: Pixels = np.rint(255 * heat_map(error)[0]).astype(np.uint8).transpose(1, 2, 0)
    return drawn


def floating(pixels: Pixels) -> Pixels:
    """Return an image as float32 in [0, 1]."""
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32)
    return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)


def colour(pixels: Pixels) -> Pixels:
    """Return (1, C, H, W) of (H, W, C) without alpha."""
    channels = pixels.shape[2] - (pixels.shape[2] in (2, 4))
    return np.ascontiguousarray(pixels[..., :channels]).transpose(2, 0, 1)[None]
