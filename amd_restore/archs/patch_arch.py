"""A discriminator of images."""

from __future__ import annotations

from torch import Tensor, nn

from amd_restore.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class PatchDiscriminator(nn.Module):
    """Strided convolutions with spectral norm (1802.05957); one logit for every 8 x 8 pixels (1611.07004).

    Args:
        in_channels: of the images.
        num_feat: width of the first layer; the deepest has four times as many.
    """

    def __init__(self, in_channels: int = 3, num_feat: int = 48) -> None:
        super().__init__()
        norm, n = nn.utils.parametrizations.spectral_norm, num_feat
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, n, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(n, 2 * n, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(2 * n, 4 * n, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(4 * n, 4 * n, 3, padding=1)),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * n, 1, 3, padding=1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> logits (B, 1, H / 8, W / 8); positive says photograph."""
        logits: Tensor = self.layers(image)
        return logits
