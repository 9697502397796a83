"""Spreads and confidence intervals of the benchmark."""

from __future__ import annotations

import numpy as np
import pytest

from amd_restore.benchmark.statistics import paired_difference, summarise


def test_summary_is_the_spread_of_means_not_of_images() -> None:
    values = np.array([[1.0, 100.0, np.nan], [3.0, 102.0, 5.0]])
    summary = summarise(values)
    assert summary.mean == pytest.approx(51.5) and summary.spread == pytest.approx(2.0**0.5)
    assert summarise(values[:1]).spread is None
    assert np.isnan(summarise(np.full((2, 2), np.nan)).mean)


def test_paired_difference_finds_a_small_shift_under_large_image_variance() -> None:
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 10, (1, 30))
    a = difficulty + 0.5 + rng.normal(0, 0.3, (3, 30))
    b = difficulty + rng.normal(0, 0.3, (3, 30))
    found = paired_difference(a, b, num_resamples=2000)
    assert found.decided and found.low < 0.5 < found.high and found.high - found.low < 0.5
    assert not paired_difference(b, b, num_resamples=200).decided
    swapped = paired_difference(b, a, num_resamples=2000)
    assert swapped.mean == pytest.approx(-found.mean)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        a, b = rng.normal(0.2, 1, (1, 25)), np.zeros((1, 25))
        found = paired_difference(a, b, num_resamples=400, seed=trial)
        hits += found.low < 0.2 < found.high
    assert 0.88 < hits / 200 < 0.99


def test_different_numbers_of_runs_are_averaged_first() -> None:
    a = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])
    assert paired_difference(a, np.zeros((1, 3)), num_resamples=100).mean == pytest.approx(3.0)
