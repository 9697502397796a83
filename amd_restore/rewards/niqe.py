"""NIQE (Mittal, Soundararajan, Bovik: Making a "Completely Blind" Image Quality Analyzer, 2013) on batches.

The values equal BasicSR's: same pristine model, blocks, colour conversion and rounding; a test compares the two. This
implementation is batched and looks up the shape parameter in a table, which makes it fast enough for a reward. It
reads BasicSR's parameter file without importing BasicSR.
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
WORST = 100.0  # upper bound, and value for images without contrast, where NIQE is undefined
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # neighbours whose products are features, (rows, columns)


class Pristine(NamedTuple):
    """Model of good photographs and the tables used with it, float64 on one device."""

    mean: Tensor  # (36,)
    cov: Tensor  # (36, 36)
    window: list[float]  # 7 values of a Gaussian; the 7 x 7 window is their outer product
    shapes: Tensor  # (9801,), candidates of the generalised Gaussian's shape
    ratios: Tensor  # (9801,), rising: E|x|^2 / E x^2 of each


def load_pristine(device: torch.device | str = "cpu") -> Pristine:
    """Read BasicSR's parameters.

    Raises:
        AMDRestoreError: BasicSR is not installed.
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
    mean, cov, window = (
        torch.from_numpy(arrays[name]).double() for name in ("mu_pris_param", "cov_pris_param", "gaussian_window")
    )
    shapes, ratios = (table.to(device) for table in shape_table())
    return Pristine(mean.flatten().to(device), cov.to(device), window.sum(dim=0).tolist(), shapes, ratios)


@torch.no_grad()
def niqe(images: Tensor, pristine: Pristine, stride: int = BLOCK) -> Tensor:
    """Return NIQE of each image, (B,), lower is better, in (0, 100].

    Args:
        images: RGB (B, 3, H, W) in [0, 1].
        pristine: from :func:`load_pristine`, on the same device.
        stride: pixels between blocks, even; 96 is the published metric.

    Raises:
        AMDRestoreError: an image has no block, or only one at the published stride (its covariance needs two).
    """
    rows, cols = ((side - BLOCK) // stride + 1 for side in images.shape[-2:])
    if rows < 1 or cols < 1 or (stride == BLOCK and rows * cols < 2):
        need = f"{2 * BLOCK}x{BLOCK} pixels (two blocks)" if stride == BLOCK else f"{BLOCK}x{BLOCK} pixels"
        raise AMDRestoreError(f"NIQE needs at least {need}, got {images.shape[-1]}x{images.shape[-2]}")
    y = _luma(images)[..., : BLOCK + (rows - 1) * stride, : BLOCK + (cols - 1) * stride]
    moments = [_moments(y, pristine, BLOCK, stride), _moments(_halve(y), pristine, BLOCK // 2, stride // 2)]
    return _distances(_features(torch.stack(moments, dim=2), pristine), pristine).clamp_max(WORST)


def _luma(images: Tensor) -> Tensor:
    """Return the rounded Y of MATLAB's YCbCr, (B, 1, H, W) in 16 ... 235."""
    red, green, blue = images.double().split(1, dim=1)
    return (65.481 * red + 128.553 * green + 24.966 * blue + 16.0).round()


def _halve(y: Tensor) -> Tensor:
    """MATLAB's ``imresize(y, 0.5)``, bicubic with antialiasing and mirrored borders, for even sides."""
    x = (torch.arange(8, dtype=torch.float64) - 3.5).abs() / 2
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    cubic = torch.where(x <= 1, near, far)
    kernel = (cubic / cubic.sum()).tolist()
    for dim in (-2, -1):
        before, after = y.narrow(dim, 0, 3).flip(dim), y.narrow(dim, y.shape[dim] - 3, 3).flip(dim)
        y = filter_along(torch.cat([before, y, after], dim), kernel, dim, step=2)
    return y


def _blur(x: Tensor, window: list[float]) -> Tensor:
    """Return the local mean of a padded image under the Gaussian window."""
    return filter_along(filter_along(x, window, -2), window, -1)


def _moments(y: Tensor, pristine: Pristine, block: int, stride: int) -> Tensor:
    """:func:`_sums` of each block's normalised brightness and of its products with four neighbours, (B, N, 5, 5)."""
    padded = F.pad(y, (3, 3, 3, 3), mode="replicate")
    # BasicSR keeps these sums as float32, whose rounding matters in flat images.
    mu = _blur(padded, pristine.window).float()
    sigma = (_blur(padded.square(), pristine.window).float() - mu.square()).abs().sqrt()
    normal = ((y.float() - mu) / (sigma + 1.0)).double()
    blocks = normal[:, 0].unfold(1, block, stride).unfold(2, block, stride).flatten(1, 2)
    products = (blocks * blocks.roll(shift, dims=(-2, -1)) for shift in _SHIFTS)
    return torch.stack([_sums(blocks), *map(_sums, products)], dim=2)


def _sums(blocks: Tensor) -> Tensor:
    """Return means over h, w, (B, N, 5): squares of values below and above 0, shares of both, absolute values."""
    x = blocks.flatten(-2)
    below, above = x.clamp_max(0), x.clamp_min(0)
    shares = (x < 0).sum(-1), (x > 0).sum(-1)
    sums = torch.linalg.vecdot(below, below), torch.linalg.vecdot(above, above), *shares, (above - below).sum(-1)
    return torch.stack(sums, dim=-1) / x.shape[-1]


def _features(moments: Tensor, pristine: Pristine) -> Tensor:
    """Return 36 features of each block, (B, N, 36): shapes and scales fitted to moments (B, N, 2, 5, 5), two sizes."""
    below, above, share_below, share_above, absolute = moments.unbind(-1)
    # An empty side gives 0 / 0: the block's features are then NaN, and it is left out below.
    left, right = (below / share_below).sqrt(), (above / share_above).sqrt()
    asymmetry = left / right
    ratio = absolute.square() / (below + above)
    ratio = ratio * (asymmetry**3 + 1) * (asymmetry + 1) / (asymmetry**2 + 1).square()
    index = torch.searchsorted(pristine.ratios, ratio).clamp(1, len(pristine.ratios) - 1)
    below_is_nearer = ratio - pristine.ratios[index - 1] <= pristine.ratios[index] - ratio
    alpha = pristine.shapes[index - below_is_nearer.long()]
    once, twice = gamma(1 / alpha), gamma(2 / alpha)
    scale = (once / gamma(3 / alpha)).sqrt()
    left, right = left * scale, right * scale
    own = torch.stack([alpha, (left + right) / 2], dim=-1)[..., 0, :]
    products = torch.stack([alpha, (right - left) * twice / once, left, right], dim=-1)[..., 1:, :]
    return torch.cat([own, products.flatten(-2)], dim=-1).flatten(-2)


def _distances(features: Tensor, pristine: Pristine) -> Tensor:
    """Return the distance between the model of each image's blocks (B, N, 36) and the pristine one, (B,)."""
    mean = features.nanmean(dim=1)
    whole = ~features.isnan().any(dim=2, keepdim=True)
    count = whole.sum(dim=1, keepdim=True)
    known = torch.where(whole, features, 0)
    spread = torch.where(whole, known - known.sum(dim=1, keepdim=True) / count, 0)
    own = spread.mT @ spread / (count - 1)
    # One block has no covariance, so the pristine one is used for both.
    cov = torch.where(count > 1, (pristine.cov + own) / 2, pristine.cov)
    difference = (pristine.mean - mean)[:, None]
    squared = difference @ torch.linalg.pinv(cov, rtol=1e-15, hermitian=True) @ difference.mT
    undefined = mean.isnan().any(dim=1) | (count[:, 0, 0] == 0)
    return torch.where(undefined, WORST, squared[:, 0, 0].sqrt())
