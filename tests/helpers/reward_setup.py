"""Stand-ins for what rewards need and a test machine lacks: VGG16, DISTS' weights, pyiqa; and damaged pictures."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from amd_restore.losses.pixel_loss import ChromaDetail

VGG_LAYERS = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)}
VGG_LAYERS |= {17: (256, 512), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512)}


def blurred(image: Tensor, times: int) -> Tensor:
    """A 3 x 3 binomial blur, repeated."""
    kernel = torch.tensor([1.0, 2.0, 1.0])
    kernel = (kernel[:, None] * kernel / 16.0).expand(3, 1, 3, 3)
    for _ in range(times):
        image = F.conv2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), kernel, groups=3)
    return image


def save_random_vgg(folder: Path) -> None:
    """``vgg16_features.safetensors`` and ``dists_weights.safetensors`` with random values that keep activations up."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for number, (inputs, outputs) in VGG_LAYERS.items():
        scale = math.sqrt(2.0 / (9 * inputs))
        state[f"features.{number}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) * scale
        state[f"features.{number}.bias"] = torch.randn(outputs, generator=generator) * 0.05
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "vgg16_features.safetensors")
    learned = {name: torch.rand(1, 1475, 1, 1, generator=generator) for name in ("alpha", "beta")}
    save_file(learned, folder / "dists_weights.safetensors")


def stub_pyiqa(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pyiqa whose one metric, ``stub``, is the mean absolute error; lower is better, as its metadata say."""

    class Metric(torch.nn.Module):
        metric_mode, lower_better, score_range, as_loss = "FR", True, "0, ~1", False

        def forward(self, target: Tensor, reference: Tensor) -> Tensor:
            with torch.set_grad_enabled(self.as_loss):
                return (target - reference).abs().mean(dim=(1, 2, 3))[:, None]

    module = types.ModuleType("pyiqa")
    module.list_models = lambda: ["stub", "fid"]  # type: ignore[attr-defined]
    module.create_metric = lambda name, **options: Metric()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyiqa", module)


def chroma_grain(image: Tensor) -> float:
    """Mean fine detail of the colours of (B, 3, H, W)."""
    return float(ChromaDetail().measure(image, torch.zeros_like(image), image))
