"""Colours behind and below what is transparent."""

from __future__ import annotations

import numpy as np

from amd_restore.image_io.picture import Pixels


def unmultiplied(pixels: Pixels) -> Pixels:
    """(H, W, C) with the colours divided by the alpha in the last channel, which they were multiplied by."""
    floating = pixels.dtype.kind == "f"
    highest = 1.0 if floating else float(np.iinfo(pixels.dtype).max)
    alpha = np.maximum(pixels[..., -1:].astype(np.float32), highest / 65535 if floating else 1)
    colours = (pixels[..., :-1] * (highest / alpha)).clip(0, highest) + (0 if floating else 0.5)
    return np.concatenate([colours.astype(pixels.dtype), pixels[..., -1:]], axis=2)


def fill_transparent(colour: Pixels, alpha: Pixels) -> Pixels:
    """Give fully transparent pixels the colour of their visible surroundings.

    What is stored there is often black or leftover, and would bleed into the visible edge when enlarged.

    Args:
        colour: (H, W, C) float32 in [0, 1].
        alpha: (H, W, 1) float32 in [0, 1].

    Returns:
        (H, W, C); unchanged where alpha is above zero, or when nothing is visible at all.
    """
    if not alpha.any() or alpha.all():
        return colour
    filled = _pull_push(colour * alpha, alpha)
    return np.where(alpha > 0, colour, filled)


def _pull_push(premultiplied: Pixels, weight: Pixels) -> Pixels:
    # Average what is visible at half the size, fill what is still unknown from there (Gortler et al. 1996).
    import cv2

    height, width, channels = premultiplied.shape
    mean = premultiplied / np.maximum(weight, 1e-6)
    if weight.all() or max(height, width) == 1:
        return mean
    half = ((width + 1) // 2, (height + 1) // 2)
    pulled = cv2.resize(np.dstack([premultiplied, weight]), half, interpolation=cv2.INTER_AREA)
    pulled = pulled.reshape(half[1], half[0], channels + 1)
    pushed = cv2.resize(_pull_push(pulled[..., :-1], pulled[..., -1:]), (width, height))
    return np.where(weight > 0, mean, pushed.reshape(height, width, channels))
