"""Batched blur kernels of Real-ESRGAN (2107.10833, sections 3.1 and 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amd_restore.data.second_order.parameters import KernelParameters


def grid(radius: int) -> tuple[Tensor, Tensor]:
    """Return x and y of a kernel's pixels, each (2r + 1, 2r + 1), 0 in the middle."""
    axis = torch.arange(-radius, radius + 1, dtype=torch.float64)
    return axis.expand(len(axis), -1), axis[:, None].expand(-1, len(axis))


def mahalanobis(radius: int, sigma_x: Tensor, sigma_y: Tensor, angle: Tensor) -> Tensor:
    """C^T Sigma^-1 C at every pixel C: (N, 2r + 1, 2r + 1); the other arguments are (N,)."""
    x, y = grid(radius)
    sigma_x, sigma_y, angle = (v[:, None, None] for v in (sigma_x, sigma_y, angle))
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    return (along / sigma_x).square() + (across / sigma_y).square()


def gaussian(distance: Tensor, beta: Tensor) -> Tensor:
    """Generalised Gaussian, exp(-d^beta / 2), of squared distances (N, k, k); beta = 1 is the Gaussian."""
    return torch.exp(-0.5 * distance.pow(beta[:, None, None]))


def plateau(distance: Tensor, beta: Tensor) -> Tensor:
    """Plateau-shaped kernel, 1 / (1 + d^beta)."""
    return 1.0 / (1.0 + distance.pow(beta[:, None, None]))


def sinc(radius: int, cutoff: Tensor) -> Tensor:
    """Impulse response of the ideal circular low-pass filter (section 3.3): (N, 2r + 1, 2r + 1) of cutoffs (N,)."""
    x, y = grid(radius)
    distance, cutoff = torch.hypot(x, y), cutoff[:, None, None]
    response = cutoff * torch.special.bessel_j1(cutoff * distance) / (2 * torch.pi * distance)
    middle = cutoff.square() / (4 * torch.pi)  # the limit: J1(z) -> z / 2
    return torch.where(distance == 0, middle, response)


def build_kernels(parameters: Sequence[KernelParameters]) -> list[Tensor]:
    """Kernels (2r + 1, 2r + 1) of sum 1, float32, on the CPU."""
    if not parameters:
        return []
    radius = max(p.radius for p in parameters)

    def column(name: str) -> Tensor:
        return torch.tensor([getattr(p, name) for p in parameters], dtype=torch.float64)

    def those(prefix: str) -> Tensor:
        return torch.tensor([p.family.startswith(prefix) for p in parameters])[:, None, None]

    distance, beta = mahalanobis(radius, column("sigma_x"), column("sigma_y"), column("angle")), column("beta")
    kernels = torch.where(those("plateau"), plateau(distance, beta), gaussian(distance, beta))
    kernels = torch.where(those("sinc"), sinc(radius, column("cutoff")), kernels)
    cut = [kernel[radius - p.radius :, radius - p.radius :] for kernel, p in zip(kernels, parameters, strict=True)]
    cut = [kernel[: 2 * p.radius + 1, : 2 * p.radius + 1] for kernel, p in zip(cut, parameters, strict=True)]
    return [(kernel / kernel.sum()).float() for kernel in cut]
