"""What every degradation is."""

from __future__ import annotations

from torch import Tensor, nn


def to_8bit(image: Tensor) -> Tensor:
    """Round an image in [0, 1] to 8 bits, as a file on disk would."""
    return (image.clamp(0, 1) * 255.0).round() / 255.0


class Degradation(nn.Module):
    """A batch of clean images in, a batch of low-quality images out: (B, 3, H, W) -> (B, 3, H / scale, W / scale)."""

    def reseed(self, seed: int, before: int = 0) -> None:
        """Make the next batch a function of ``seed`` (at least 0); without effect where nothing is random.

        Args:
            before: images that come before it in the batch of which ``seed`` is the seed.
        """
