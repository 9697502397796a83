"""Means, intervals and tests of measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
Unit = Literal["runs", "images"]


@dataclass(frozen=True)
class Summary:
    """Mean over images and runs, and the standard deviation between runs of the mean over images (None for one run)."""

    mean: float
    spread: float | None


def summarise(values: NDArray[np.float64]) -> Summary:
    """Summarise (runs, images) without images for which a metric is undefined (NaN)."""
    defined = _defined(values)
    if defined.shape[1] == 0:
        return Summary(float("nan"), None)
    means = defined.mean(axis=1)
    return Summary(float(means.mean()), float(means.std(ddof=1)) if len(means) > 1 else None)


@dataclass(frozen=True)
class Interval:
    """Mean, 95% t interval, and two-sided p of a mean of 0.

    With one unit the interval is infinite and p is 1.
    """

    mean: float
    low: float
    high: float
    p: float
    units: int

    @property
    def decided(self) -> bool:
        """Return whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def interval(values: NDArray[np.float64], over: Unit) -> Interval:
    """Return the mean of (runs, images) with Student's t interval over ``over``; the other axis is averaged first.

    Over training runs it estimates the effect of another seed on these images; over images, that of other images for
    these weights. A bootstrap would be too narrow for few runs.

    Args:
        values: (runs, images); images with a NaN are left out.
        over: unit of sampling.
    """
    from scipy import stats

    defined = _defined(values)
    if defined.size == 0:
        return Interval(*(float("nan"),) * 4, 0)
    units = defined.mean(axis=1 if over == "runs" else 0)
    n, mean = len(units), float(units.mean())
    if n == 1:
        return Interval(mean, -np.inf, np.inf, 1.0, 1)
    error = float(units.std(ddof=1)) / n**0.5
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    return Interval(mean, mean - half, mean + half, p, n)


def paired_difference(a: NDArray[np.float64], b: NDArray[np.float64], over: Unit) -> Interval:
    """Return a - b, paired by image and run, with :func:`interval` over ``over``.

    With different numbers of runs, each is first averaged over its runs.

    Args:
        a: (runs, images).
        b: likewise, the same images.
        over: unit of sampling.
    """
    if a.shape[0] != b.shape[0]:
        a, b = a.mean(axis=0, keepdims=True), b.mean(axis=0, keepdims=True)
    return interval(a - b, over)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p values of a family of tests for the family-wise error rate (Holm 1979).

    NaN is kept and does not count as a test.
    """
    order = sorted((index for index, p in enumerate(p_values) if not np.isnan(p)), key=lambda index: p_values[index])
    adjusted, greatest = [float("nan")] * len(p_values), 0.0
    for rank, index in enumerate(order):
        greatest = max(greatest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = greatest
    return adjusted


def _defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[:, ~np.isnan(values).any(axis=0)]
