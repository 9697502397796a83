"""Damage of images in 8 bits, as tests of the choice of a model need it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image

Pixels = np.ndarray[Any, Any]


def jpeg(image: Pixels, quality: int) -> Pixels:
    """Return the image after a JPEG of this quality."""
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(PIL.Image.open(file))


def noisy(image: Pixels, strength: float) -> Pixels:
    """Return the image with Gaussian noise of this standard deviation, in levels of 255; always the same noise."""
    noise = np.random.default_rng(0).normal(0, strength, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
