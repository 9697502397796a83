"""BRISQUE (Mittal, Moorthy, Bovik: No-Reference Image Quality Assessment in the Spatial Domain, 2012) on batches.

Released support vector machines of BRISQUE were trained on slightly different features. This is that of the package
brisque 0.2.0 (Apache-2.0, 770 support vectors, in this folder): gray by BT.709, windows with zeros outside the image,
the second scale by bicubic halving without antialiasing. A test compares with the package. pyiqa's ``brisque`` has
another machine and other borders; its values differ by several points.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from amd_restore.errors import AMDRestoreError
from amd_restore.rewards.scene_statistics import filter_along, gamma, shape_table

MIN_SIZE = 32  # pixels per side; smaller images have no meaningful statistics
_GRAY = (0.2125, 0.7154, 0.0721)
_WINDOW, _WINDOW_SIGMA, _CONTRAST_FLOOR = 7, 7 / 6, 1 / 255
_FLAT = 1e-14  # variance due to rounding only
_HALVING = (-0.09375, 0.59375, 0.59375, -0.09375)  # OpenCV's bicubic (a = -0.75) midway between pixels


class Machine(NamedTuple):
    """Support vector regression from 36 features to a score, float64 on one device."""

    vectors: Tensor  # (770, 36)
    coefficients: Tensor  # (770,)
    gamma: float  # width parameter of the radial kernel
    rho: float  # minus the score far from all vectors
    low: Tensor  # (36,), feature that becomes -1
    high: Tensor  # (36,), feature that becomes 1
    shapes: Tensor  # (9801,), see shape_table
    ratios: Tensor  # (9801,)


def load_machine(device: torch.device | str = "cpu") -> Machine:
    """Read the machine from this folder."""
    with np.load(Path(__file__).with_name("brisque_svm.npz")) as arrays:
        vectors, coefficients, low, high = (
            torch.from_numpy(arrays[name]).double().to(device) for name in ("vectors", "coefficients", "low", "high")
        )
        return Machine(
            vectors, coefficients, float(arrays["gamma"]), float(arrays["rho"]), low, high, *shape_table(device)
        )


def brisque(images: Tensor, machine: Machine) -> Tensor:
    """Return BRISQUE of each image, (B,), lower is better: about 0 for a good photograph, 100 for a bad one, unbounded.

    Differentiable in the images; as a loss it creates unnatural textures. An image without contrast has no statistics
    and gets the score far from all support vectors.

    Args:
        images: RGB (B, 3, H, W) in [0, 1].
        machine: from :func:`load_machine`, on the same device.

    Raises:
        AMDRestoreError: an image below 32 pixels.
    """
    if min(images.shape[-2:]) < MIN_SIZE:
        size = f"{images.shape[-1]}x{images.shape[-2]}"
        raise AMDRestoreError(f"BRISQUE needs at least {MIN_SIZE} pixels a side, got {size}")
    features = brisque_features(images, machine)
    scaled = 2.0 * (features - machine.low) / (machine.high - machine.low) - 1.0
    distance = (scaled[:, None] - machine.vectors).square().sum(dim=-1)
    kernel = torch.exp(-machine.gamma * distance).nan_to_num(nan=0.0)
    return kernel @ machine.coefficients - machine.rho


def brisque_features(images: Tensor, machine: Machine) -> Tensor:
    """Return 18 statistics of each of two scales, (B, 36); NaN for an image without contrast."""
    weight = torch.tensor(_GRAY, dtype=torch.float64, device=images.device)
    gray = (images.double() * weight[:, None, None]).sum(dim=1)
    return torch.cat([_features(gray, machine), _features(_halve(gray), machine)], dim=-1)


def _halve(gray: Tensor) -> Tensor:
    """Halve the size by sampling midway between pixels, (B, H/2, W/2); half sizes are rounded to the even side."""
    for dim in (-2, -1):
        # Repeat one pixel on the left, and as many on the right as the last position needs.
        length = round(gray.shape[dim] / 2)
        index = torch.arange(-1, 2 * length + 1, device=gray.device).clamp(0, gray.shape[dim] - 1)
        gray = filter_along(gray.index_select(dim, index), _HALVING, dim, step=2)
    return gray


def _features(gray: Tensor, machine: Machine) -> Tensor:
    """Return shape and spread of the normalised brightness and of products of neighbours, (B, 18)."""
    offsets = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / _WINDOW_SIGMA) ** 2)
    window = (weights / weights.sum()).tolist()
    padded = F.pad(gray, (_WINDOW // 2,) * 4)
    mean = filter_along(filter_along(padded, window, -2), window, -1)
    power = filter_along(filter_along(padded.square(), window, -2), window, -1)
    variance = (mean.square() - power).abs()
    flat = variance < _FLAT  # The root has no gradient there.
    deviation = variance.masked_fill(flat, 1.0).sqrt().masked_fill(flat, 0.0)
    normal = (gray - mean) / (deviation + _CONTRAST_FLOOR)

    alpha, left, right = _fit(normal, machine)
    columns = [alpha, (left.square() + right.square()) / 2]
    for product in (
        normal[:, :, :-1] * normal[:, :, 1:],
        normal[:, :-1] * normal[:, 1:],
        normal[:, :-1, :-1] * normal[:, 1:, 1:],
        normal[:, 1:, :-1] * normal[:, :-1, 1:],
    ):
        alpha, left, right = _fit(product, machine)
        centre = (right - left) * gamma(2 / alpha) / (gamma(1 / alpha) * gamma(3 / alpha)).sqrt()
        columns += [alpha, centre, left.square(), right.square()]
    return torch.stack(columns, dim=-1)


def _fit(x: Tensor, machine: Machine) -> tuple[Tensor, Tensor, Tensor]:
    """Fit shape and both standard deviations of an asymmetric generalised Gaussian by moments, each (B,)."""
    x = x.flatten(1)
    square, negative = x.square(), x < 0
    # An empty side gives 0 / 0 if the image has no contrast, which the score handles.
    left = ((square * negative).sum(-1) / negative.sum(-1)).sqrt()
    right = ((square * ~negative).sum(-1) / (~negative).sum(-1)).sqrt()
    asymmetry = left / right
    ratio = x.abs().mean(-1).square() / square.mean(-1)
    ratio = ratio * (asymmetry**3 + 1) * (asymmetry + 1) / (asymmetry**2 + 1).square()
    above = torch.searchsorted(machine.ratios, ratio).clamp(1, len(machine.ratios) - 1)
    low, high = machine.ratios[above - 1], machine.ratios[above]
    share = ((ratio - low) / (high - low)).clamp(0.0, 1.0)
    alpha = machine.shapes[above - 1].lerp(machine.shapes[above], share)
    return alpha, left, right
