"""From measurements to numbers with their uncertainty."""

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
    """Summary of (runs, images); images for which a metric is not defined (NaN) are left out."""
    defined = _defined(values)
    if defined.shape[1] == 0:
        return Summary(float("nan"), None)
    means = defined.mean(axis=1)
    return Summary(float(means.mean()), float(means.std(ddof=1)) if len(means) > 1 else None)


@dataclass(frozen=True)
class Interval:
    """A mean, its 95% t interval, and the two-sided p of the mean being 0.

    With one unit nothing is known about the spread: the interval is infinite and p is 1.
    """

    mean: float
    low: float
    high: float
    p: float
    units: int

    @property
    def decided(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def interval(values: NDArray[np.float64], over: Unit) -> Interval:
    """Mean of (runs, images) with Student's t interval over ``over``, the other axis averaged first.

    Over runs of training with different seeds it says what another seed would change on these images; over images, what
    other images would change for these weights. Neither says both. A bootstrap would be too narrow for the few runs
    that one can afford: of three it leaves a true zero out a quarter of the time.

    Args:
        values: (runs, images); images with a NaN are left out.
        over: the unit of sampling.
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
    """Difference a - b, paired by image and by run, with :func:`interval` over ``over``.

    Where the two have different numbers of runs, each is first averaged over its own, which leaves images only.

    Args:
        a: (runs, images).
        b: likewise, the same images.
        over: the unit of sampling.
    """
    if a.shape[0] != b.shape[0]:
        a, b = a.mean(axis=0, keepdims=True), b.mean(axis=0, keepdims=True)
    return interval(a - b, over)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values of a family of tests, adjusted so that any false positive among them has the stated chance (Holm 1979).

    A NaN stays, and does not count as a test.
    """
    order = sorted((index for index, p in enumerate(p_values) if not np.isnan(p)), key=lambda index: p_values[index])
    adjusted, greatest = [float("nan")] * len(p_values), 0.0
    for rank, index in enumerate(order):
        greatest = max(greatest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = greatest
    return adjusted


def _defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[:, ~np.isnan(values).any(axis=0)]
