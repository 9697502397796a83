"""Blur, resize and noise of images (B, 3, H, W)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from amd_restore.data.base import to_8bit, to_levels

GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luminance


def _mirror(length: int, radius: int, device: torch.device) -> Tensor:
    """Return indices of an axis extended by ``radius`` at both ends, mirrored about the border pixels."""
    period = max(1, 2 * (length - 1))
    index = torch.arange(-radius, length + radius, device=device) % period
    return torch.minimum(index, period - index) if length > 1 else torch.zeros_like(index)


def _transform_length(length: int) -> int:
    """Return the smallest even number from ``length`` on without a prime factor above 5, for a fast FFT."""
    candidate = rest = length + length % 2
    while True:
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return candidate
        candidate = rest = candidate + 2


def filter_by_fourier(padded: Tensor, kernels: Tensor) -> Tensor:
    """Cross-correlation without padding of images (B, C, H, W) with kernels (B, k, k): sides shrink by k - 1."""
    side, size = kernels.shape[-1], padded.shape[2:]
    fit = [_transform_length(length) for length in size]
    product = torch.fft.rfft2(padded, s=fit) * torch.fft.rfft2(kernels.flip(1, 2), s=fit)[:, None]
    return torch.fft.irfft2(product, s=fit)[:, :, side - 1 : size[0], side - 1 : size[1]]


def filter_directly(padded: Tensor, kernels: Tensor) -> Tensor:
    """Compute the same by a direct convolution."""
    planes = padded.flatten(0, 1)[None]
    weight = kernels.repeat_interleave(padded.shape[1], dim=0)[:, None]
    return F.conv2d(planes, weight, groups=len(weight)).unflatten(1, padded.shape[:2])[0]


def blur(image: Tensor, kernels: Tensor) -> Tensor:
    """Filter images (B, C, H, W) with kernels (B, k, k), k odd; borders are mirrored, OpenCV's default.

    On a CPU by the FFT, which is faster at these varying sizes; elsewhere directly, because a GPU would plan a
    transform for each new size.
    """
    radius, kernels = kernels.shape[-1] // 2, kernels.to(image.device, image.dtype)
    if radius < min(image.shape[2:]):
        padded = F.pad(image, (radius,) * 4, mode="reflect")
    else:
        rows, columns = (_mirror(n, radius, image.device) for n in image.shape[2:])
        padded = image[:, :, rows][:, :, :, columns]
    return filter_by_fourier(padded, kernels) if image.device.type == "cpu" else filter_directly(padded, kernels)


def downscale(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Downscale to ``size`` by antialiased bicubic (a = -0.5, as MATLAB's ``imresize``)."""
    if size == tuple(image.shape[2:]):
        return image
    return F.interpolate(image, size=size, mode="bicubic", antialias=True)


def resize(image: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resize to ``size`` by ``area``, ``bilinear`` or ``bicubic`` (a = -0.75), without antialiasing in the last two."""
    if tuple(image.shape[2:]) == size:
        return image
    return F.interpolate(image, size=size, mode=mode, align_corners=None if mode == "area" else False)


def gray(image: Tensor) -> Tensor:
    """Return the luminance, (B, 1, H, W)."""
    weights = torch.tensor(GRAY, device=image.device, dtype=image.dtype).view(1, 3, 1, 1)
    return (image * weights).sum(dim=1, keepdim=True)


def add_gaussian(image: Tensor, sigma: float, is_gray: bool, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise of standard deviation ``sigma`` / 255, equal in all channels if ``is_gray``; clamped."""
    like = image[:, :1] if is_gray else image
    noise = torch.randn(like.shape, generator=generator, device=image.device, dtype=image.dtype)
    return (image + noise * (sigma / 255.0)).clamp(0, 1)


def photons(image: Tensor) -> Tensor:
    """Return the photon count of white for Poisson noise: the number of distinct 8-bit levels, up to a power of two.

    As in scikit-image's ``random_noise`` and the published training; the argument is one image in [0, 1].
    """
    # A count of each level would make the host wait for a GPU.
    levels = image.new_zeros(256).index_fill_(0, to_levels(image).long().flatten(), 1.0)
    return levels.sum().log2().ceil().exp2()


def add_poisson(image: Tensor, scale: float, is_gray: bool, generator: torch.Generator) -> Tensor:
    """Add ``scale`` times the Poisson noise of one image (1, 3, H, W), of its luminance if ``is_gray``; clamped."""
    image = image.clamp(0, 1)
    clean = to_8bit(gray(image) if is_gray else image)
    events = photons(clean)
    noise = torch.poisson(clean * events, generator=generator) / events - clean
    return (image + noise * scale).clamp(0, 1)
