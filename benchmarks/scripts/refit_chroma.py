"""Last layer of a model refitted so that its images have no grain in colour: 30 seconds in place of a training.

    python benchmarks/scripts/refit_chroma.py --model x4-real --photographs FOLDER --out FILE.safetensors

Losses on features draw grain in colour along with that in gray, several times as much as photographs have; see
``ChromaDetail``, which prevents it in training. Here the target is the model's own image with Cb and Cr smoothed by a
Gaussian. The estimate of x0 is linear in the last convolution, so the weights of this layer that come closest to the
target are a ridge regression on the features before it, over one-step images of crops of photographs. All other weights
stay as they are, bit for bit.

Prints the distance of the old and the new images from the target, on crops that were not fitted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amd_restore.archs.flat_arch import FlatDenoiser
from amd_restore.arrays import correlate, pad_edges
from amd_restore.benchmark.images import read_rgb
from amd_restore.data.base import Degradation
from amd_restore.data.degradations import build_degradation
from amd_restore.data.second_order.jpeg import TO_YCC
from amd_restore.diffusion import field_noise, restore_latent
from amd_restore.errors import AMDRestoreError, Parser, run_command, say
from amd_restore.image_io import SUFFIXES
from amd_restore.weights import (
    Header,
    build_denoiser,
    build_header_codec,
    build_network,
    load_checkpoint,
    resolve_weights,
    save_checkpoint,
)

LAYER = "conv_out"
RIDGE = 1e-6  # of each feature's own power
CROP = 256  # pixels of the photograph
HELD_OUT = 8  # of so many crops, one is not fitted
DEGRADATIONS: dict[str, dict[str, Any]] = {
    "bicubic": {"type": "bicubic"},
    "second_order": {"type": "second_order", "clean_prob": 0.25, "light_prob": 0.5},
}


def smooth_chroma(image: Tensor, sigma: float) -> Tensor:
    """Return RGB (B, 3, H, W) with Cb and Cr smoothed by a Gaussian of ``sigma`` pixels; luma stays as it is."""
    to_ycc = image.new_tensor(TO_YCC)
    luma, chroma = torch.einsum("oc,bchw->bohw", to_ycc, image).split([1, 2], dim=1)
    reach = int(3 * sigma + 0.5)
    kernel = np.exp(-(np.arange(-reach, reach + 1, dtype=np.float32) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    chroma = correlate(correlate(pad_edges(chroma, *(reach,) * 4), kernel, 2), kernel, 3)
    return torch.einsum("oc,bchw->bohw", torch.linalg.inv(to_ycc), torch.cat([luma, chroma], dim=1))


class OneStep:
    """One step of a model, and the equations that its last layer has to fulfil.

    Args:
        header, state: of a :class:`~amd_restore.archs.flat_arch.FlatDenoiser`.
        sigma: of the Gaussian, in pixels of the output.

    Raises:
        AMDRestoreError: the model has no such layer.
    """

    def __init__(self, header: Header, state: dict[str, Tensor], sigma: float) -> None:
        net, self.codec, self.sigma = build_network(header, state), build_header_codec(header), sigma
        if not isinstance(net, FlatDenoiser):
            raise AMDRestoreError(f"{header.network['type']} is not refitted; name a model of FlatDenoiser")
        self.layer, self.recipe, self.denoiser = net.conv_out, header.recipe(1), build_denoiser(header, net)
        one = torch.ones(1, 1, 1, 1)
        # The layer's output is multiplied by the gain of the first step afterwards.
        self.slope = net.first_gain * float(
            self.denoiser.process.to_x0(one, 0 * one, one[0, 0, 0], self.denoiser.prediction_type)
        )
        self.layer.register_forward_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self._hidden, self._output = inputs[0], output

    def __call__(self, lq: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Features, present and wanted outputs of the layer, one row per cell, for ``lq`` (1, 3, H, W).

        The features (cells, 9 C + 1) are what its kernel covers, and 1 for its bias.
        """
        _, channels, height, width = self.codec.latent_shape(lq)
        x0 = restore_latent(
            self.denoiser,
            self.codec,
            lq,
            lambda step: field_noise(seed, channels, 0, 0, height, width, step),
            self.recipe,
        )
        target = self.codec.encode(smooth_chroma(self.codec.decode(x0, lq), self.sigma), lq)
        features = F.unfold(self._hidden, 3, padding=1)
        features = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
        new = self._output + (target - x0) / self.slope
        return _rows(features), _rows(self._output), _rows(new)


def _rows(x: Tensor) -> Tensor:
    return x[0].flatten(1).T.double()


def crops(folder: Path, count: int) -> Iterator[Tensor]:
    """Yield ``count`` crops (1, 3, CROP, CROP) of the photographs below ``folder``, spread evenly over these.

    Raises:
        AMDRestoreError: no photograph there is large enough.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    random, found = np.random.default_rng(0), 0
    for number in range(count if files else 0):
        image = read_rgb(files[number * max(1, len(files) // count) % len(files)])
        height, width = image.shape[:2]
        if min(height, width) >= CROP:
            found += 1
            top, left = int(random.integers(height - CROP + 1)), int(random.integers(width - CROP + 1))
            crop = image[top : top + CROP, left : left + CROP]
            yield torch.tensor(crop).permute(2, 0, 1)[None].float() / 255
    if not found:
        raise AMDRestoreError(f"{folder}: no photograph of at least {CROP}x{CROP} pixels; name another folder")


@torch.no_grad()
def refit(
    step: OneStep, photographs: Iterator[Tensor], degradation: Degradation
) -> tuple[dict[str, Tensor], tuple[float, float]]:
    """Refit the last layer.

    Args:
        step: of the model.
        photographs: see :func:`crops`.
        degradation: makes the inputs.

    Returns:
        The layer's tensors, and the root mean square distance of the old and the new image from the target on crops
        that were not fitted, as a part of the image's range; nan with less than ``HELD_OUT`` crops.
    """
    layer = step.layer
    size = layer.in_channels * 9 + 1
    left = torch.zeros(size, size, dtype=torch.float64)
    right = torch.zeros(size, layer.out_channels, dtype=torch.float64)
    held = []
    for number, gt in enumerate(photographs, start=1):
        degradation.reseed(number)
        features, old, new = step(degradation(gt), number)
        if number % HELD_OUT == 0:
            held.append((features, old, new))
        else:
            left += features.T @ features
            right += features.T @ new
    solved = torch.linalg.solve(left + RIDGE * left.diagonal().diag(), right)
    unit = abs(step.slope) * getattr(step.codec, "std", 1.0)
    errors = [[(x - new).square().mean() for x in (old, features @ solved)] for features, old, new in held]
    before, after = unit * torch.tensor(errors or [[float("nan")] * 2]).mean(0).sqrt()
    state = {"weight": solved[:-1].T.reshape(layer.weight.shape), "bias": solved[-1]}
    return {f"{LAYER}.{key}": value.float() for key, value in state.items()}, (float(before), float(after))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="released name or weights file")
    parser.add_argument("--photographs", type=Path, required=True, help="folder of clean photographs")
    parser.add_argument("--out", type=Path, required=True, help="weights file to write")
    parser.add_argument(
        "--sigma", type=float, default=0.8, help="of the Gaussian, output pixels (default: %(default)s)"
    )
    parser.add_argument("--crops", type=int, default=64, help="number of crops (default: %(default)s)")
    parser.add_argument("--degradation", choices=DEGRADATIONS, default="second_order", help="makes the inputs")
    args = parser.parse_args(arguments)

    def command() -> None:
        if not args.sigma > 0 or args.crops < HELD_OUT:
            raise AMDRestoreError(f"--sigma must be positive and --crops at least {HELD_OUT}")
        header, state = load_checkpoint(resolve_weights(args.model))
        degradation = build_degradation(DEGRADATIONS[args.degradation], header.scale)
        layer, (before, after) = refit(
            OneStep(header, state, args.sigma), crops(args.photographs, args.crops), degradation
        )
        save_checkpoint(args.out, {**state, **layer}, header)
        say(f"{255 * before:.2f} levels from the target before, {255 * after:.2f} after, on crops that were not fitted")

    return run_command(command, args.debug)


if __name__ == "__main__":
    sys.exit(main())
