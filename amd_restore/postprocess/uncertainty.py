"""Several samples of one picture: their mean, where they disagree, and how that looks.

Where the input leaves open what was there, samples differ; where it does not, they agree. So their deviation says
where not to trust a sample, which no network that gives one answer can say of itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from amd_restore.errors import AMDRestoreError

# Mean difference of two draws of a normal distribution of deviation 1: of samples that differ as they should.
IDEAL_ERROR_PER_STD = 2 / math.pi**0.5
FULL_SCALE = 0.15  # a mean error of 38 of 255
SMOOTHING = 2.0
_RAMP = (  # dark to light, lightness rising all the way; readable in gray and by the colour-blind
    (0.00, (0.00, 0.00, 0.02)),
    (0.25, (0.28, 0.06, 0.45)),
    (0.50, (0.74, 0.21, 0.33)),
    (0.75, (0.98, 0.55, 0.04)),
    (1.00, (0.99, 1.00, 0.64)),
)


class SampleStatistics:
    """Mean and deviation over samples that come one at a time (Welford 1962); memory of two pictures."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = self._squares = torch.zeros((), dtype=torch.float32, device="cpu")

    def add(self, sr: Tensor) -> SampleStatistics:
        """Take in one sample (B, 3, H, W); returns itself."""
        self.count += 1
        if self.count == 1:
            self._mean, self._squares = sr.clone(), torch.zeros_like(sr)
            return self
        delta = sr - self._mean
        self._mean += delta / self.count
        self._squares += delta * (sr - self._mean)
        return self

    @property
    def mean(self) -> Tensor:
        """(B, 3, H, W)."""
        return self._mean

    @property
    def std(self) -> Tensor:
        """(B, 3, H, W), of the population that the samples are drawn from.

        Raises:
            AMDRestoreError: fewer than two samples.
        """
        if self.count < 2:
            raise AMDRestoreError(f"uncertainty needs at least 2 samples, got {self.count}; use --n-samples 8")
        return (self._squares / (self.count - 1)).sqrt()


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (B, 1, H, W), edges repeated."""
    radius = int(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float32, device="cpu") / sigma) ** 2).to(
        image
    )
    kernel = kernel / kernel.sum()
    image = F.conv2d(F.pad(image, (0, 0, radius, radius), "replicate"), kernel[None, None, :, None])
    return F.conv2d(F.pad(image, (radius, radius, 0, 0), "replicate"), kernel[None, None, None, :])


def expected_error(std: Tensor, error_per_std: float = 0.0, smoothing: float = SMOOTHING) -> Tensor:
    """How far from the truth one sample is to be expected, at every pixel.

    ``error_per_std`` times the deviation, the variance averaged over channels and a neighbourhood: a few samples say
    little about a single pixel. For samples at fidelity 0 (less noise would only feign agreement).

    Args:
        std: (B, 3, H, W) of :attr:`SampleStatistics.std`.
        error_per_std: of the header of the weights, fitted by ``benchmarks/scripts/fit_uncertainty.py``; 0 is
            :data:`IDEAL_ERROR_PER_STD`. Distilled students need more: their samples differ less than they should.
        smoothing: deviation of the neighbourhood in pixels of the output; 0 for none.

    Returns:
        (B, 1, H, W): mean absolute error over the channels, in units of the picture's range [0, 1].
    """
    variance = std.square().mean(dim=1, keepdim=True)
    if smoothing > 0:
        variance = _blur(variance, smoothing)
    return (error_per_std or IDEAL_ERROR_PER_STD) * variance.sqrt()


def heat_map(values: Tensor, full_scale: float = FULL_SCALE, colour: bool = True) -> Tensor:
    """A picture of a map, on a fixed scale, so that maps of different pictures compare.

    Args:
        values: (B, 1, H, W), at least 0.
        full_scale: the value shown lightest; larger ones look the same.
        colour: black through violet, red and orange to light yellow; else gray.

    Returns:
        (B, 3, H, W) or (B, 1, H, W) in [0, 1].

    Raises:
        AMDRestoreError: ``full_scale`` is not above 0.
    """
    if not full_scale > 0:
        raise AMDRestoreError(f"full_scale must be above 0, got {full_scale}")
    values = (values / full_scale).clamp(0, 1)
    if not colour:
        return values
    out = values.new_zeros(values.shape[0], 3, *values.shape[2:])
    for (low, first), (high, last) in zip(_RAMP[:-1], _RAMP[1:], strict=True):
        share = (values - low) / (high - low)
        inside = (values >= low) & ((values < high) | (high == 1.0))
        start, stop = (values.new_tensor(colours).view(1, 3, 1, 1) for colours in (first, last))
        out = torch.where(inside, start + share * (stop - start), out)
    return out
