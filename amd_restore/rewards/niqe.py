"""NIQE (Mittal, Soundararajan, Bovik: Making a "Completely Blind" Image Quality Analyzer, 2013) on batches.

The numbers are BasicSR's: same pristine model, blocks, colour conversion and rounding; a test compares the
two. This one treats a whole batch at once and looks the shape parameter up in a table made once, which makes
it fast enough for a reward. BasicSR itself is not imported, only its parameter file is read.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from amd_restore.errors import AMDRestoreError
from amd_restore.rewards.scene_statistics import filter_along, gamma, shape_table

BLOCK = 96  # pixels; the pristine model was fitted on such blocks
WORST = 100.0  # for images without any contrast, where NIQE is undefined, and as an upper bound
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # neighbours whose products are features, (rows, columns)


class Pristine(NamedTuple):
    """Model of good photographs and the tables used with it, float64 on one device."""

    mean: Tensor  # (36,)
    cov: Tensor  # (36, 36)
    window: Tensor  # (7,), Gaussian; the 7 x 7 window is its product with itself
    shapes: Tensor  # (9801,), candidates of the generalised Gaussian's shape
    ratios: Tensor  # (9801,), rising: E|x|^2 / E x^2 of each


def load_pristine(device: torch.device | str = "cpu") -> Pristine:
    """Read the parameters that BasicSR ships.

    Raises:
        AMDRestoreError: when BasicSR is not installed.
    """
    spec = importlib.util.find_spec("basicsr")
    places = spec.submodule_search_locations if spec else None
    path = Path(places[0]) / "metrics" / "niqe_pris_params.npz" if places else None
    if path is None or not path.is_file():
        raise AMDRestoreError(
            "NIQE needs the parameters that come with BasicSR; "
            'install it: pip install ".[train]" in the clone of this repository'
        )
    arrays = np.load(path)
    shapes, ratios = shape_table()
    return Pristine(
        *(
            tensor.to(device)
            for tensor in (
                torch.from_numpy(arrays["mu_pris_param"]).double().flatten(),
                torch.from_numpy(arrays["cov_pris_param"]).double(),
                torch.from_numpy(arrays["gaussian_window"]).double().sum(dim=0),
                shapes,
                ratios,
            )
        )
    )


@torch.no_grad()
def niqe(images: Tensor, pristine: Pristine, stride: int = BLOCK) -> Tensor:
    """NIQE of each image, (B,), lower is better, in (0, 100].

    Args:
        images: RGB (B, 3, H, W) in [0, 1].
        pristine: from :func:`load_pristine`, on the same device.
        stride: pixels between blocks, even; 96 is the published metric.

    Raises:
        AMDRestoreError: when an image holds fewer than one block, or one at the published stride (its
            covariance needs two).
    """
    rows, cols = ((side - BLOCK) // stride + 1 for side in images.shape[-2:])
    if rows < 1 or cols < 1 or (stride == BLOCK and rows * cols < 2):
        need = f"{2 * BLOCK}x{BLOCK} pixels (two blocks)" if stride == BLOCK else f"{BLOCK}x{BLOCK} pixels"
        raise AMDRestoreError(f"NIQE needs at least {need}, got {images.shape[-1]}x{images.shape[-2]}")
    y = _luma(images)[..., : BLOCK + (rows - 1) * stride, : BLOCK + (cols - 1) * stride]
    features = torch.cat(
        [_features(y, pristine, BLOCK, stride), _features(_halve(y), pristine, BLOCK // 2, stride // 2)], -1
    )
    return torch.stack([_distance(one, pristine) for one in features]).clamp_max(WORST)


def _luma(images: Tensor) -> Tensor:
    """Rounded Y of MATLAB's YCbCr, (B, 1, H, W) in 16 ... 235."""
    weight = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64, device=images.device)
    return ((images.double() * weight[:, None, None]).sum(dim=1, keepdim=True) + 16.0).round()


def _halve(y: Tensor) -> Tensor:
    """MATLAB's ``imresize(y, 0.5)``, bicubic with antialiasing and mirrored borders, for even sides."""
    x = (torch.arange(8, dtype=torch.float64, device=y.device) - 3.5).abs() / 2
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    kernel = torch.where(x <= 1, near, far)
    kernel = kernel / kernel.sum()
    for dim in (-2, -1):
        before, after = y.narrow(dim, 0, 3).flip(dim), y.narrow(dim, y.shape[dim] - 3, 3).flip(dim)
        y = filter_along(torch.cat([before, y, after], dim), kernel, dim, step=2)
    return y


def _blur(x: Tensor, window: Tensor) -> Tensor:
    """Local mean under the Gaussian window, of a padded image."""
    return filter_along(filter_along(x, window, -2), window, -1)


def _features(y: Tensor, pristine: Pristine, block: int, stride: int) -> Tensor:
    """The 18 features of each block, (B, blocks, 18)."""
    padded = F.pad(y, (3, 3, 3, 3), mode="replicate")
    # BasicSR keeps these sums as float32; its rounding shows in flat images (8.49 for 8.79). So do we.
    mu = _blur(padded, pristine.window).float()
    sigma = (_blur(padded.square(), pristine.window).float() - mu.square()).abs().sqrt()
    normal = ((y.float() - mu) / (sigma + 1.0)).double()
    blocks = normal[:, 0].unfold(1, block, stride).unfold(2, block, stride).flatten(1, 2)
    alpha, left, right = _fit(blocks, pristine)
    columns = [alpha, (left + right) / 2]
    for shift in _SHIFTS:
        alpha, left, right = _fit(blocks * blocks.roll(shift, dims=(-2, -1)), pristine)
        columns += [alpha, (right - left) * gamma(2 / alpha) / gamma(1 / alpha), left, right]
    return torch.stack(columns, dim=-1)


def _fit(blocks: Tensor, pristine: Pristine) -> tuple[Tensor, Tensor, Tensor]:
    """Shape and the two scales of an asymmetric generalised Gaussian fitted to each block, by moments."""
    x = blocks.flatten(-2)
    square = x.square()
    # An empty side gives 0 / 0: the block's features are then not a number, and it is left out below.
    left = ((square * (x < 0)).sum(-1) / (x < 0).sum(-1)).sqrt()
    right = ((square * (x > 0)).sum(-1) / (x > 0).sum(-1)).sqrt()
    asymmetry = left / right
    ratio = x.abs().mean(-1).square() / square.mean(-1)
    ratio = ratio * (asymmetry**3 + 1) * (asymmetry + 1) / (asymmetry**2 + 1).square()
    above = torch.searchsorted(pristine.ratios, ratio.contiguous()).clamp(1, len(pristine.ratios) - 1)
    below_is_nearer = ratio - pristine.ratios[above - 1] <= pristine.ratios[above] - ratio
    alpha = pristine.shapes[above - below_is_nearer.long()]
    scale = (gamma(1 / alpha) / gamma(3 / alpha)).sqrt()
    return alpha, left * scale, right * scale


def _distance(features: Tensor, pristine: Pristine) -> Tensor:
    """Distance between the model of one image's blocks (N, 36) and the pristine one."""
    mean = features.nanmean(dim=0)
    whole = features[~features.isnan().any(dim=1)]
    if mean.isnan().any() or len(whole) == 0:
        return features.new_tensor(WORST)
    # One block has no covariance; the pristine one then stands for both.
    cov = (pristine.cov + torch.cov(whole.T)) / 2 if len(whole) > 1 else pristine.cov
    difference = pristine.mean - mean
    return (difference @ torch.linalg.pinv(cov, rtol=1e-15, hermitian=True) @ difference).sqrt()
