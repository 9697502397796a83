"""LPIPS (1801.03924, version 0.1) with backbone weights from disk, without downloads."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from amd_restore import compat
from amd_restore.errors import AMDRestoreError
from amd_restore.rewards.maps import match_rows, sum_layers
from amd_restore.rewards.weight_files import assets_folder, find_file, hub_folder, read_tensors

MIN_SIZE = 32  # pixels per side; below it the backbones' last features are empty

# backbone -> (our file in the asset folder, torchvision's model, the checkpoint file torchvision caches)
BACKBONES = {
    "alex": ("alexnet_features.safetensors", "alexnet", "alexnet-owt-7be5be79.pth"),
    "squeeze": ("squeezenet1_1_features.safetensors", "squeezenet1_1", "squeezenet1_1-b8a52dc0.pth"),
    "vgg": ("vgg16_features.safetensors", "vgg16", "vgg16-397923af.pth"),
}


def backbone_file(net: str, user: str | None = None) -> Path:
    """Return the file of a backbone's ImageNet weights: in the asset folder, else in torchvision's cache.

    Args:
        net: key of :data:`BACKBONES`.
        user: metric that needs it, for the message; None for LPIPS.

    Raises:
        AMDRestoreError: an unknown backbone, or no file; the message says how to get it.
    """
    if net not in BACKBONES:
        raise AMDRestoreError(f"unknown LPIPS backbone '{net}'; use one of {', '.join(BACKBONES)}")
    ours, model, cached = BACKBONES[net]
    return find_file(
        f"{user or f'LPIPS-{net}'} needs the ImageNet weights of {model}",
        (assets_folder() / "weights" / ours, hub_folder() / "checkpoints" / cached),
        "set AMD_RESTORE_ASSETS to the folder that holds weights/, or let torchvision download the latter: "
        f"python -c \"import torchvision; torchvision.models.{model}(weights='DEFAULT')\"",
    )


def load_features(path: Path) -> dict[str, Tensor]:
    """Read the parameters of the feature layers by torchvision's names without ``features.``: ``3.squeeze.bias``."""
    prefix = "features."
    return {key.removeprefix(prefix): value for key, value in read_tensors(path).items() if key.startswith(prefix)}


class LPIPSDistance(nn.Module):
    """LPIPS between images in [0, 1]; frozen, always in evaluation mode, differentiable in its inputs.

    Args:
        net: backbone: ``alex`` (for reporting), ``squeeze`` (the cheapest) or ``vgg``.

    Raises:
        AMDRestoreError: missing lpips package or backbone weights.
    """

    def __init__(self, net: str = "alex") -> None:
        super().__init__()
        path = backbone_file(net)
        compat.patch()
        try:
            import lpips
        except ModuleNotFoundError as error:
            if error.name != "lpips":
                raise
            raise AMDRestoreError(
                'LPIPS needs the package lpips: pip install ".[train]" in the clone of this repository'
            ) from error
        # lpips initialises a random classifier first, which must not change the caller's random numbers.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's notes on the old `pretrained=` argument
            self.metric = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        self.net = net
        self._fill_backbone(path)
        self.requires_grad_(False)
        self.eval()

    def _fill_backbone(self, path: Path) -> None:
        """Copy the weights into lpips' slices, which keep torchvision's numbers: ``slice2.3.bias``."""
        features = load_features(path)
        backbone = self.metric.net
        renamed = {}
        for key in backbone.state_dict():
            name = key.split(".", 1)[1]
            if name not in features:
                raise AMDRestoreError(f"{path}: no 'features.{name}'; not the weights of LPIPS-{self.net}")
            renamed[key] = features[name]
        backbone.load_state_dict(renamed)

    def train(self, mode: bool = True) -> LPIPSDistance:
        """Stay in evaluation mode, because lpips' linear layers contain dropout."""
        return super().train(False)

    def forward(self, sr: Tensor, gt: Tensor) -> Tensor:
        """Return the distance of each pair, (B,), 0 for equal images.

        Runs in the precision of the surrounding autocast, if any.

        Args:
            sr: (B, 3, H, W) in [0, 1]; gradients flow to it.
            gt: same shape, or a divisor of B for groups of consecutive images.

        Raises:
            AMDRestoreError: an image below 32 pixels.
        """
        _check_size(sr)
        if len(gt) < len(sr):  # The package's own call has no groups.
            return self.forward_map(sr, gt)[0]
        return self.metric(2.0 * sr.float() - 1.0, 2.0 * gt.float() - 1.0).float().flatten()

    def forward_map(self, sr: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distances of :meth:`forward`, (B,), and their maps, (B, 1, h, w); same arguments and errors.

        The map is the sum of the layers' distances at the resolution of the first and finest layer; each layer
        keeps its mean, so the map's mean is the distance.
        """
        import lpips

        _check_size(sr)
        scaled = (self.metric.scaling_layer(2.0 * image.float() - 1.0) for image in (sr, gt))
        outputs = (self.metric.net(image) for image in scaled)
        return sum_layers(
            head((lpips.normalize_tensor(ours) - match_rows(lpips.normalize_tensor(theirs), len(sr))) ** 2).float()
            for ours, theirs, head in zip(*outputs, self.metric.lins, strict=True)
        )


def _check_size(image: Tensor) -> None:
    if min(image.shape[-2:]) < MIN_SIZE:
        size = f"{image.shape[-1]}x{image.shape[-2]}"
        raise AMDRestoreError(f"LPIPS needs at least {MIN_SIZE} pixels a side, got {size}")


def build_lpips(net: str = "alex", device: torch.device | str = "cpu") -> LPIPSDistance:
    """Return LPIPS on ``device``, one shared module, because it is frozen and stateless.

    Errors as :class:`LPIPSDistance`.
    """
    return _shared(net, str(device), backbone_file(net))


@functools.cache
def _shared(net: str, device: str, weights: Path) -> LPIPSDistance:
    # The path of the weights is part of the key, because another asset folder means another network.
    distance = LPIPSDistance(net)
    return distance.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
