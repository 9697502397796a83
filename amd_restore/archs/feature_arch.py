"""A discriminator of the features of a frozen network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from amd_restore.registry import ARCH_REGISTRY

_EPSILON = 1e-3


@ARCH_REGISTRY.register()
class FeatureDiscriminator(nn.Module):
    """A small head with spectral norm (1802.05957) on each of several layers of features (2111.01007).

    What classifiers have learned need not be learned again, so that some hundred iterations are enough to begin with.
    Features are scaled to a mean length of 1 over channels in each image.

    Args:
        loss: name of the loss whose network gives the features.
        levels: how many of its layers are judged, the finest first.
        num_feat: width of the heads.
        channels: of the layers; training fills them in.
    """

    def __init__(
        self, loss: str = "effnet_lite1", levels: int = 4, num_feat: int = 64, channels: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.loss = loss
        self.heads = nn.ModuleList(
            _head(width, num_feat, stride=1 if level else 2) for level, width in enumerate(channels[:levels])
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features (B, C, h, w) of each layer -> logits (B, 1, h, w) of each, half the size for the first."""
        return [head(_scaled(layer)) for head, layer in zip(self.heads, features, strict=False)]


def _head(channels: int, num_feat: int, stride: int) -> nn.Sequential:
    norm = nn.utils.parametrizations.spectral_norm
    return nn.Sequential(
        norm(nn.Conv2d(channels, num_feat, 3, stride=stride, padding=1)),
        nn.LeakyReLU(0.2),
        norm(nn.Conv2d(num_feat, num_feat, 3, padding=1)),
        nn.LeakyReLU(0.2),
        norm(nn.Conv2d(num_feat, 1, 1)),
    )


def _scaled(features: Tensor) -> Tensor:
    length = features.square().mean(dim=1, keepdim=True).sqrt().mean(dim=(2, 3), keepdim=True)
    return features / (length + _EPSILON)
