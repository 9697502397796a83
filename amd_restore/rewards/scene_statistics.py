"""Natural scene statistics of NIQE and BRISQUE: filters in double precision, and the generalised Gaussian.

Locally normalised brightness follows a generalised Gaussian in photographs; degradation changes its shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gamma(x: Tensor) -> Tensor:
    """Gamma function of positive arguments."""
    return torch.lgamma(x).exp()


def shape_table(device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return shapes 0.2 ... 10 in steps of 0.001, and (E|x|)^2 / E x^2 of a generalised Gaussian of each, rising.

    Returns:
        Two (9801,) float64.
    """
    shapes = torch.arange(200, 10001, dtype=torch.float64, device=device) / 1000.0
    return shapes, gamma(2 / shapes).square() / (gamma(1 / shapes) * gamma(3 / shapes))


def filter_along(x: Tensor, kernel: Sequence[float], dim: int, step: int = 1) -> Tensor:
    """Correlate along ``dim`` (-2 or -1), without padding; in double precision far faster than ``conv2d``."""
    length = (x.shape[dim] - len(kernel)) // step + 1

    def part(offset: int) -> Tensor:
        inside = slice(offset, offset + (length - 1) * step + 1, step)
        return x[..., inside, :] if dim == -2 else x[..., inside]

    total = part(0) * kernel[0]
    for offset, weight in enumerate(kernel[1:], 1):
        total.add_(part(offset), alpha=weight)
    return total
