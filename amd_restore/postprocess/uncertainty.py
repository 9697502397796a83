"""Uncertainty from several samples of one image: mean, standard deviation and a map.

Samples differ where the input does not determine the image, so their standard deviation shows where not to trust one.
"""

from __future__ import annotations

import math

import numpy as np

from amd_restore.arrays import Array, copied, correlate, like, pad_edges, where, zeros
from amd_restore.errors import AMDRestoreError

# Mean absolute difference of two draws of a standard normal distribution, the value for ideal samples.
IDEAL_ERROR_PER_STD = 2 / math.pi**0.5
FULL_SCALE = 0.15  # a mean error of 38 of 255
SMOOTHING = 2.0
_RAMP = (  # increasing lightness, readable in gray and by colour-blind people
    (0.00, (0.00, 0.00, 0.02)),
    (0.25, (0.28, 0.06, 0.45)),
    (0.50, (0.74, 0.21, 0.33)),
    (0.75, (0.98, 0.55, 0.04)),
    (1.00, (0.99, 1.00, 0.64)),
)


class SampleStatistics:
    """Running mean and standard deviation over samples (Welford 1962), with the memory of two images."""

    def __init__(self) -> None:
        self.count = 0
        self._mean: Array
        self._squares: Array

    def add(self, sr: Array) -> SampleStatistics:
        """Add one sample (B, 3, H, W); return itself."""
        self.count += 1
        if self.count == 1:
            self._mean, self._squares = copied(sr), zeros(sr.shape, sr)
            return self
        delta = sr - self._mean
        self._mean += delta / self.count
        self._squares += delta * (sr - self._mean)
        return self

    @property
    def mean(self) -> Array:
        """Return the mean (B, 3, H, W)."""
        return self._mean

    @property
    def std(self) -> Array:
        """Return the standard deviation (B, 3, H, W) of the population.

        Raises:
            AMDRestoreError: fewer than two samples.
        """
        if self.count < 2:
            raise AMDRestoreError(f"uncertainty needs at least 2 samples, got {self.count}; use --n-samples 8")
        return (self._squares / (self.count - 1)) ** 0.5


def _blur(image: Array, sigma: float) -> Array:
    """Gaussian blur of (B, 1, H, W), edges repeated."""
    radius = int(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1, dtype=np.float32) / np.float32(sigma)) ** 2)
    kernel /= kernel.sum()
    image = correlate(pad_edges(image, radius, radius, 0, 0), kernel, 2)
    return correlate(pad_edges(image, 0, 0, radius, radius), kernel, 3)


def expected_error(std: Array, error_per_std: float = 0.0, smoothing: float = SMOOTHING) -> Array:
    """Return the expected error of one sample at every pixel.

    ``error_per_std`` times the standard deviation, with the variance averaged over channels and a neighbourhood,
    because few samples are noisy at a single pixel. For samples at fidelity 0, since others differ less.

    Args:
        std: (B, 3, H, W) of :attr:`SampleStatistics.std`.
        error_per_std: value of the weights header, fitted by ``benchmarks/scripts/fit_uncertainty.py``; 0 for
            :data:`IDEAL_ERROR_PER_STD`. Distilled students need more, because their samples differ too little.
        smoothing: standard deviation of the neighbourhood in pixels of the output; 0 for none.

    Returns:
        (B, 1, H, W): mean absolute error over the channels, for images in [0, 1].
    """
    variance = (std**2).mean(1)[:, None]
    if smoothing > 0:
        variance = _blur(variance, smoothing)
    return (error_per_std or IDEAL_ERROR_PER_STD) * variance**0.5


def heat_map(values: Array, full_scale: float = FULL_SCALE, colour: bool = True) -> Array:
    """Render a map on a fixed scale, so that maps of different images are comparable.

    Args:
        values: (B, 1, H, W), at least 0.
        full_scale: value of the lightest colour; larger ones are clamped.
        colour: black through violet, red and orange to light yellow; else gray.

    Returns:
        (B, 3, H, W) or (B, 1, H, W) in [0, 1].

    Raises:
        AMDRestoreError: ``full_scale`` is not above 0.
    """
    if not full_scale > 0:
        raise AMDRestoreError(f"full_scale must be above 0, got {full_scale}")
    values = (values / full_scale).clip(0, 1)
    if not colour:
        return values
    out = zeros((values.shape[0], 3, *values.shape[2:]), values)
    for (low, first), (high, last) in zip(_RAMP[:-1], _RAMP[1:], strict=True):
        share = (values - low) / (high - low)
        inside = (values >= low) & ((values < high) | (high == 1.0))
        start, stop = (like(np.array(rgb, np.float32).reshape(1, 3, 1, 1), values) for rgb in (first, last))
        out = where(inside, start + share * (stop - start), out)
    return out
