"""Base class of degradations."""

from __future__ import annotations

from torch import Tensor, nn


def to_8bit(image: Tensor) -> Tensor:
    """Round an image in [0, 1] to 8 bits."""
    return (image.clamp(0, 1) * 255.0).round() / 255.0


class Degradation(nn.Module):
    """Degradation of a batch of clean images: (B, 3, H, W) -> (B, 3, H / scale, W / scale)."""

    def reseed(self, seed: int, before: int = 0) -> None:
        """Make the next batch a function of ``seed`` (at least 0); no effect without randomness.

        Args:
            before: number of images before it in the batch of this seed.
        """
