"""Base class of degradations."""

from __future__ import annotations

from torch import Tensor, nn

TIE = 2.0**-12  # below the 1/1000 by which lumas of 8-bit pixels differ, far above the rounding errors of float64


def round_half_up(values: Tensor) -> Tensor:
    """Round to whole numbers, halves up, also where a rounding error left them just below.

    Averages and transforms of 8-bit pixels are often exactly between two whole numbers. What a processor's order of
    summation decides there would change the picture, and all noise that is drawn from it afterwards.
    """
    return (values + (0.5 + TIE)).floor()


def to_levels(image: Tensor) -> Tensor:
    """Return an image in [0, 1] in 8-bit levels, whole numbers from 0 to 255; values outside are clamped."""
    return round_half_up(image.clamp(0, 1) * 255.0)


def to_8bit(image: Tensor) -> Tensor:
    """Round an image in [0, 1] to 8 bits."""
    return to_levels(image) / 255.0


class Degradation(nn.Module):
    """Degradation of a batch of clean images: (B, 3, H, W) -> (B, 3, H / scale, W / scale)."""

    def reseed(self, seed: int, before: int = 0) -> None:
        """Make the next batch a function of ``seed`` (at least 0); no effect without randomness.

        Args:
            before: number of images before it in the batch of this seed.
        """
