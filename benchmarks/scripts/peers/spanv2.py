"""SPANV2, the fastest network of the NTIRE 2026 challenge on efficient super-resolution, from its published weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from downloaded import check_file
from peer import Package
from torch_peer import TorchPeer

if TYPE_CHECKING:
    from torch import Tensor

CHALLENGE = Package("GitHub", "Amazingren/NTIRE2026_ESR", "4592ce6db68b395699f13e7e2a4e3baf317ef1c6", "MIT")
FILE = "team22_spanv2_c2.pth"
SHA256 = "fca2743272b8a7fb32931ed3287454173c7d209f204cb2f58084ee868414d371"
BLOCKS = 5


def apply_spanv2(weights: dict[str, Tensor], image: Tensor) -> Tensor:
    """Enlarge (B, 3, H, W) to (B, 3, 4H, 4W).

    Five blocks of three convolutions; from the second on a block gates its output by a map of its own
    (a convolution of 1x1; after SPAN, 2311.12770). The image itself, repeated, joins the features
    before the last two convolutions.
    """
    from torch import cat
    from torch.nn import functional as F

    features = image
    for number in range(1, BLOCKS + 1):
        block = f"block_{number}"
        inner = F.conv2d(features, weights[f"{block}.c1.conv.weight"], padding=1).relu()
        inner = F.conv2d(inner, weights[f"{block}.c2.conv.weight"], padding=1).relu()
        inner = F.conv2d(inner, weights[f"{block}.c3.conv.weight"], padding=1)
        gate = f"{block}.guidance_map_conv"
        if f"{gate}.weight" in weights:
            features = (features + inner) * F.conv2d(inner, weights[f"{gate}.weight"], weights[f"{gate}.bias"])
        else:
            features = inner.relu()
    repeated = F.conv2d(image, weights["conv_near.weight"], padding=1, groups=image.shape[1])
    joined = cat([repeated, features], dim=1)
    joined = F.conv2d(joined, weights["depthwise_conv.weight"], padding=1, groups=joined.shape[1])
    return F.pixel_shuffle(F.conv2d(joined, weights["pointwise_conv.weight"]), 4)


class SpanV2(TorchPeer):
    """Trained for fidelity on bicubic inputs; the network is written here, only the weights are a download."""

    name = "spanv2"
    about = "SPANV2 x4 (0.14 M), torch on the CPU"
    licence = "MIT"
    packages = (CHALLENGE,)

    def install(self) -> None:
        check_file(self.downloads / FILE, SHA256, f"{CHALLENGE}, model_zoo/")

    def build(self) -> Any:
        import torch

        return torch.load(self.downloads / FILE, map_location="cpu", weights_only=True)

    def enlarge(self, model: Any, image: Tensor) -> Tensor:
        return apply_spanv2(model, image)
