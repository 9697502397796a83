"""Spreads and confidence intervals of the benchmark."""

from __future__ import annotations

import numpy as np
import pytest

from amd_restore.benchmark.statistics import holm, interval, paired_difference, summarise


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
    found = paired_difference(a, b, over="images")
    assert found.decided and found.low < 0.5 < found.high and found.high - found.low < 0.5
    assert not paired_difference(b, b, over="images").decided
    assert paired_difference(b, a, over="images").mean == pytest.approx(-found.mean)


def test_the_interval_is_the_textbook_one() -> None:
    """Student's sleep data (1908): mean difference 1.58, 95% interval 0.70 to 2.46, p .00283."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = paired_difference(np.array([second]).T, np.array([first]).T, over="runs")
    assert (found.mean, found.low, found.high) == pytest.approx((1.58, 0.7001142, 2.4598858), abs=1e-6)
    assert found.p == pytest.approx(0.002833, abs=1e-6) and found.units == 10


@pytest.mark.parametrize("runs", [2, 3, 5, 8])
def test_five_percent_of_true_zeros_are_called_differences(runs: int) -> None:
    """Arms that differ by their training seeds alone, on images that differ far more."""
    rng = np.random.default_rng(runs)
    difficulty = rng.normal(0, 5, (1, 12))
    trials = 2000
    a, b = (difficulty + rng.normal(0, 0.3, (trials, runs, 1)) + rng.normal(0, 0.1, (trials, runs, 12)) for _ in "ab")
    wrong = sum(paired_difference(one, other, over="runs").decided for one, other in zip(a, b, strict=True))
    assert 0.035 < wrong / trials < 0.065  # 3 standard errors


def test_holm_holds_the_rate_of_a_family() -> None:
    assert holm([0.01, 0.04, 0.03, float("nan")])[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert np.isnan(holm([0.01, float("nan")])[1])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
    families = np.random.default_rng(0).uniform(size=(4000, 20))
    assert np.mean([min(holm(list(family))) < 0.05 for family in families]) == pytest.approx(0.05, abs=0.012)


def test_one_unit_decides_nothing() -> None:
    found = interval(np.full((1, 5), 3.0), over="runs")
    assert (found.mean, found.p, found.decided) == (3.0, 1.0, False)
    assert np.isnan(interval(np.full((2, 2), np.nan), over="runs").mean)


def test_different_numbers_of_runs_are_averaged_first() -> None:
    a = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])
    assert paired_difference(a, np.zeros((1, 3)), over="images").mean == pytest.approx(3.0)
