"""Made-up pictures that shrink and enlarge like photographs."""

from __future__ import annotations

import numpy as np

from amd_restore.benchmark.images import Image, resize_to_height, to_uint8


def smooth_image(seed: int, height: int = 64, width: int = 96) -> Image:
    """Random colours, enlarged, with some grain: shrinks and enlarges like a photograph."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 220, (height // 8, width // 8, 3), dtype=np.uint8)
    image = resize_to_height(coarse, height) + rng.normal(0, 0.01, (height, width, 3))
    return to_uint8(image)
