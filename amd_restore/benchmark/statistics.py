"""From measurements to numbers with their uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 10_000


@dataclass(frozen=True)
class Summary:
    """Mean over images and runs, and the deviation between runs of the mean over images (None for one run)."""

    mean: float
    spread: float | None


def summarise(values: NDArray[np.float64]) -> Summary:
    """Summary of (runs, images); images for which a metric is not defined (NaN) are left out."""
    defined = values[:, ~np.isnan(values).any(axis=0)]
    if defined.shape[1] == 0:
        return Summary(float("nan"), None)
    means = defined.mean(axis=1)
    return Summary(float(means.mean()), float(means.std(ddof=1)) if len(means) > 1 else None)


@dataclass(frozen=True)
class Difference:
    """Mean of a - b and its 95% bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def paired_difference(
    a: NDArray[np.float64], b: NDArray[np.float64], num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Difference:
    """Difference a - b, paired by image and by run, with a percentile bootstrap over both.

    Images and runs are drawn with replacement independently of each other (runs of one noise seed share it over all
    images). Where the two have different numbers of runs, each is first averaged over its own, and only images are
    drawn.

    Args:
        a: (runs, images).
        b: likewise, the same images.
        num_resamples: bootstrap samples.
        seed: of the bootstrap.
    """
    if a.shape[0] != b.shape[0]:
        a, b = a.mean(axis=0, keepdims=True), b.mean(axis=0, keepdims=True)
    differences = a - b
    differences = differences[:, ~np.isnan(differences).any(axis=0)]
    runs, images = differences.shape
    if images == 0:
        return Difference(*(float("nan"),) * 3)
    generator = np.random.default_rng(seed)
    picked_images = generator.integers(0, images, (num_resamples, images))
    picked_runs = generator.integers(0, runs, (num_resamples, runs))
    samples = np.array([differences[r].mean(axis=0)[i].mean() for r, i in zip(picked_runs, picked_images, strict=True)])
    low, high = np.percentile(samples, [2.5, 97.5])
    return Difference(float(differences.mean()), float(low), float(high))
