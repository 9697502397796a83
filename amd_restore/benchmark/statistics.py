"""From measurements to numbers with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
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
class Interval:
    """A mean and its 95% bootstrap interval."""

    mean: float
    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        """Whether the two have a value in common."""
        return self.low <= other.high and other.low <= self.high


def interval(values: NDArray[np.float64], num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> Interval:
    """Mean of (runs, images) with a percentile bootstrap over both, as in :func:`paired_difference`."""
    return Interval(*_mean_and_interval(values, num_resamples, seed))


def within_images(groups: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Values of M groups on the same images without what images differ by, for intervals that can be compared.

    An image's mean over groups is replaced by the mean of all (Cousineau 2005), and deviations from a group's mean
    grow by sqrt(M / (M - 1)), which that step took from them (Morey 2008). Group means stay.

    Args:
        groups: (runs, images) each; the number of runs may differ.

    Returns:
        Arrays of the same shapes; all NaN at an image where any group has one.
    """
    of_image = np.mean([group.mean(axis=0) for group in groups], axis=0)
    result = []
    for group in groups:
        centred = group - of_image
        defined = ~np.isnan(of_image)
        mean = centred[:, defined].mean() if defined.any() else np.nan
        growth = (len(groups) / (len(groups) - 1)) ** 0.5 if len(groups) > 1 else 1.0
        result.append(mean + (centred - mean) * growth + (of_image[defined].mean() if defined.any() else np.nan))
    return result


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
    return Difference(*_mean_and_interval(a - b, num_resamples, seed))


def _mean_and_interval(values: NDArray[np.float64], num_resamples: int, seed: int) -> tuple[float, float, float]:
    """Mean of (runs, images), and 2.5% and 97.5% of its bootstrap distribution; NaN images are left out."""
    values = values[:, ~np.isnan(values).any(axis=0)]
    runs, images = values.shape
    if images == 0:
        return (float("nan"),) * 3
    generator = np.random.default_rng(seed)
    of_images = _shares(generator.integers(0, images, (num_resamples, images)), images)
    of_runs = _shares(generator.integers(0, runs, (num_resamples, runs)), runs)
    samples = ((of_runs @ values) * of_images).sum(axis=1)
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def _shares(picked: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """How often each of ``count`` things was picked, as a share: (resamples, picks) -> (resamples, count)."""
    rows = np.arange(len(picked))[:, None] * count
    counts = np.bincount((picked + rows).ravel(), minlength=len(picked) * count)
    return counts.reshape(len(picked), count) / picked.shape[1]
