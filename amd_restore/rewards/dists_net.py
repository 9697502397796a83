"""DISTS (Ding, Ma, Wang, Simoncelli: Image Quality Assessment: Unifying Structure and Texture Similarity, 2020).

Written from the paper (2004.07728), with the values of its authors' release: VGG16 with blurred pooling; similarity of
means (texture) and of standard deviations (structure) of the image and five stages, weighted per channel with learned
weights.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amd_restore.atomic import expanded
from amd_restore.errors import AMDRestoreError
from amd_restore.rewards.lpips_net import backbone_file, load_features
from amd_restore.rewards.weight_files import assets_folder, find_file, hub_folder, read_tensors

MIN_SIZE = 32  # pixels per side; the last stage has 1/16 of the resolution
WEIGHTS = "dists_weights.safetensors"
_CACHED = "DISTS_weights-f5e65c96.pth"  # name in pyiqa's cache
# torchvision's numbers of the convolutions of each stage; blurred pooling stands before all but the first
STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
CHANNELS = (3, 64, 128, 256, 512, 512)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_STABILISER = 1e-6  # c1 and c2 of eqs. 6 and 7


def weights_file(path: str | None = None) -> Path:
    """Return the file with DISTS' learned weights: the given one, else in the asset folder, else in pyiqa's cache.

    Raises:
        AMDRestoreError: no such file; the message says how to get it.
    """
    default = (assets_folder() / "weights" / WEIGHTS, hub_folder() / "pyiqa" / _CACHED)
    return find_file(
        "DISTS needs its learned weights (tensors alpha and beta of 1475 values)",
        (expanded(path),) if path else default,
        "get weights.pt from its authors' repository on GitHub, dingkeyan93/DISTS, folder DISTS_pytorch, and name "
        "it as `weights: PATH`; or let pyiqa download it: python -c \"import pyiqa; pyiqa.create_metric('dists')\"",
    )


class DISTSDistance(nn.Module):
    """DISTS between images in [0, 1]; frozen, differentiable in its inputs.

    The authors first scale images to 256 pixels on the short side; here, as in pyiqa, images are not scaled.

    Args:
        weights: file with the learned weights; None for the asset folder or pyiqa's cache.

    Raises:
        AMDRestoreError: missing weights of DISTS or VGG16, or files with other content.
    """

    mean: Tensor
    std: Tensor
    blur: Tensor
    alpha: Tensor
    beta: Tensor

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        file, backbone = weights_file(weights), backbone_file("vgg", "DISTS")
        learned, features = read_tensors(file), load_features(backbone)
        for name in ("alpha", "beta"):
            if name not in learned or learned[name].numel() != sum(CHANNELS):
                raise AMDRestoreError(f"{file}: no '{name}' of {sum(CHANNELS)} values; not the weights of DISTS")
        total = learned["alpha"].sum() + learned["beta"].sum()
        for name in ("alpha", "beta"):
            self.register_buffer(name, (learned[name] / total).flatten().float())
        self.register_buffer("mean", torch.tensor(_MEAN, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD, dtype=torch.float32).view(1, 3, 1, 1))
        window = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float32)  # Hann
        self.register_buffer("blur", window[:, None] * window)
        self.stages = nn.ModuleList()
        for stage, channels in zip(STAGES, CHANNELS, strict=False):
            convolutions = nn.ModuleList()
            for number in stage:
                weight, bias = (features.get(f"{number}.{part}") for part in ("weight", "bias"))
                if weight is None or bias is None or weight.shape[1] != channels:
                    raise AMDRestoreError(f"{backbone}: 'features.{number}' is not that of VGG16")
                channels = weight.shape[0]
                convolution = nn.Conv2d(weight.shape[1], channels, 3, padding=1)
                convolution.load_state_dict({"weight": weight, "bias": bias})
                convolutions.append(convolution)
            self.stages.append(convolutions)
        self.requires_grad_(False)

    def features(self, image: Tensor) -> Iterator[Tensor]:
        """Return the image and the activations of five stages."""
        yield image
        x = (image - self.mean) / self.std
        for index, stage in enumerate(self.stages):
            if index:
                x = self._pool(x)
            for convolution in stage:  # type: ignore[attr-defined]
                x = convolution(x).relu()
            yield x

    def _pool(self, x: Tensor) -> Tensor:
        """Halve by the root of blurred squares (eq. 2)."""
        channels = x.shape[1]
        kernel = self.blur.expand(channels, 1, 3, 3)
        return (F.conv2d(x.square(), kernel, stride=2, padding=1, groups=channels) + 1e-12).sqrt()

    def forward(self, sr: Tensor, gt: Tensor) -> Tensor:
        """Return the distance of each pair, (B,), 0 for equal images.

        Args:
            sr: (B, 3, H, W) in [0, 1]; gradients flow to it.
            gt: same shape.

        Raises:
            AMDRestoreError: an image below 32 pixels.
        """
        if min(sr.shape[-2:]) < MIN_SIZE:
            size = f"{sr.shape[-1]}x{sr.shape[-2]}"
            raise AMDRestoreError(f"DISTS needs at least {MIN_SIZE} pixels a side, got {size}")
        similarity = sr.new_zeros(sr.shape[0])
        weights = zip(self.alpha.split(CHANNELS), self.beta.split(CHANNELS), strict=True)
        for x, y, (alpha, beta) in zip(self.features(sr), self.features(gt), weights, strict=True):
            mean_x, mean_y = x.mean(dim=(2, 3)), y.mean(dim=(2, 3))
            centred_x, centred_y = x - mean_x[..., None, None], y - mean_y[..., None, None]
            power = centred_x.square().mean(dim=(2, 3)) + centred_y.square().mean(dim=(2, 3))
            shared = (centred_x * centred_y).mean(dim=(2, 3))
            texture = (2 * mean_x * mean_y + _STABILISER) / (mean_x.square() + mean_y.square() + _STABILISER)
            structure = (2 * shared + _STABILISER) / (power + _STABILISER)
            similarity = similarity + (alpha * texture).sum(dim=1) + (beta * structure).sum(dim=1)
        return 1.0 - similarity


def build_dists(weights: str | None = None, device: torch.device | str = "cpu") -> DISTSDistance:
    """Return DISTS on ``device``, one shared module, because it is frozen and stateless."""
    return _shared(weights_file(weights), str(device), backbone_file("vgg", "DISTS"))


@functools.cache
def _shared(weights: Path, device: str, backbone: Path) -> DISTSDistance:
    # The path of the backbone is part of the key, because another asset folder means another network.
    return DISTSDistance(str(weights)).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
