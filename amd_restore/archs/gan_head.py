"""The critic of DMD2: a small head on the features of a denoiser."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


class GANHead(nn.Module):
    """Patch critic: features of a denoiser in, one logit per patch of 4 x 4 cells out.

    Args:
        channels: channels of the features.
        width: of the hidden layers.
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 1, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) -> logits (B, 1, h / 4, w / 4); positive says photograph."""
        logits: Tensor = self.layers(features)
        return logits


class FeatureTap:
    """Catches the output of ``net.feature_layer`` while it is entered, whoever calls the network.

    Args:
        net: an architecture with the attributes ``feature_layer`` (name of a sub-module) and
            ``feature_channels``.
    """

    features: Tensor

    def __init__(self, net: Any) -> None:
        self._module: nn.Module = net.get_submodule(net.feature_layer)

    def __enter__(self) -> FeatureTap:
        self._handle = self._module.register_forward_hook(self._catch)
        return self

    def __exit__(self, *exception: object) -> None:
        self._handle.remove()

    def _catch(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.features = output


@contextlib.contextmanager
def frozen(*nets: nn.Module) -> Iterator[None]:
    """Context in which the parameters of ``nets`` get no gradient."""
    parameters = [p for net in nets for p in net.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
