"""The toy of two modes in miniature: exact special cases, and the two directions that hold in every seed."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from places import REPOSITORY

FOLDER = REPOSITORY / "benchmarks" / "scripts" / "toys"
sys.path.insert(0, str(FOLDER))
two_modes = importlib.import_module("two_modes")
report = importlib.import_module("two_modes_report")

SEEDS = [0, 1]


@pytest.fixture(scope="module")
def learnt() -> Any:
    return two_modes.train_on_data(SEEDS, updates=300)


def distil(learnt: Any, setting: Any, strengths: tuple[float, float] | None, updates: int) -> Any:
    """Run with strengths of adaptation and sharpening; None is plain DMD."""
    method = two_modes.Method("any", *strengths) if strengths else two_modes.DMD
    return two_modes.distil(setting, method, learnt, SEEDS, updates)


def test_the_teacher_is_the_posterior_mean() -> None:
    """Against the integral, on a grid; and log p_t is normalised."""
    grid = torch.linspace(-8.0, 8.0, 4001, dtype=torch.float64)
    x_t, t = torch.tensor([-1.2, 0.1, 0.7], dtype=torch.float64), torch.tensor([0.3, 0.5, 0.8], dtype=torch.float64)
    likelihood = torch.exp(-0.5 * ((x_t[:, None] - (1 - t)[:, None] * grid) / t[:, None]) ** 2)
    weight = likelihood * two_modes.log_density(grid).exp()
    torch.testing.assert_close(two_modes.posterior_mean(x_t, t), (weight * grid).sum(1) / weight.sum(1))
    density = two_modes.log_density(grid, torch.full_like(grid, 0.4)).exp()
    assert float(density.sum() * (grid[1] - grid[0])) == pytest.approx(1.0, abs=1e-6)


def test_measures_of_the_data_themselves() -> None:
    """A student that draws from the data has 0.27% beyond three standard deviations and no distance."""
    quantiles = two_modes.quantiles(2048).float()
    student = lambda z: quantiles.expand(1, -1)  # noqa: E731
    measures, _ = two_modes.measure(student, (0.0, 0.0), 1)
    assert measures[:3].sum() == pytest.approx(1.0, abs=1e-12)
    assert measures[:, 0] == pytest.approx([0.4986, 0.4986, 0.0027, 0.0], abs=1e-3)


@pytest.mark.parametrize("name", ["recipe", "stall_guidance"])
def test_strength_zero_is_dmd_bit_for_bit(learnt: Any, name: str) -> None:
    setting = two_modes.SETTINGS[name]
    dmd, zero, amd = (distil(learnt, setting, strengths, 25) for strengths in (None, (0.0, 0.0), (0.5, 0.5)))
    assert np.array_equal(dmd.samples, zero.samples) and np.array_equal(dmd.history, zero.history)
    assert not np.array_equal(dmd.samples, amd.samples)
    assert dmd.history.shape == (2, 4, 2)
    np.testing.assert_allclose(dmd.history[:, :3].sum(axis=1), 1.0, atol=1e-12)


def test_a_seed_does_not_depend_on_the_others(learnt: Any) -> None:
    setting = two_modes.SETTINGS["recipe"]
    both = two_modes.distil(setting, two_modes.FOUR[-1], learnt, SEEDS, 5)
    alone = two_modes.distil(setting, two_modes.FOUR[-1], two_modes.train_on_data(SEEDS[:1], updates=300), SEEDS[:1], 5)
    np.testing.assert_allclose(alone.samples[0], both.samples[0], atol=1e-4)


def test_sharpening_brings_samples_out_of_the_zone_and_adaptation_alone_does_not(learnt: Any) -> None:
    """A teacher that points to the gap between the modes: fewer samples stall there with a sharpened fake score, and
    more with amplified matching, in every seed.
    """
    setting = two_modes.SETTINGS["stall"]
    methods: list[tuple[float, float] | None] = [None, (0.9, 0.0), (0.0, 1.0)]
    low = [distil(learnt, setting, strengths, 300).history[-1][2] for strengths in methods]
    assert (low[2] < low[0] - 0.03).all() and (low[1] > low[0] + 0.1).all()


def test_sharpening_follows_a_biased_reward_and_adaptation_does_not(learnt: Any) -> None:
    setting = replace(two_modes.SETTINGS["biased"], teacher="exact")
    methods: list[tuple[float, float] | None] = [None, (0.5, 0.0), (0.0, 0.5)]
    dmd, adapted, sharpened = (distil(learnt, setting, strengths, 300).history[-1][1] for strengths in methods)
    assert (sharpened > dmd + 0.08).all() and (np.abs(adapted - dmd) < 0.04).all()


def test_program_writes_table_and_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    table, figure = tmp_path / "two_modes.md", tmp_path / "images" / "two_modes.png"
    table.write_text(f"# Before\n\n{report.BEGIN}\nold\n{report.END}\n\nAfter.\n", encoding="utf-8")
    settings = {name: replace(two_modes.SETTINGS[name], methods=two_modes.FOUR) for name, *_ in report.PANELS}
    monkeypatch.setattr(two_modes, "SETTINGS", settings)
    train = two_modes.train_on_data
    monkeypatch.setattr(two_modes, "train_on_data", lambda seeds: train(seeds, updates=2))
    argv = ["two_modes.py", "--seeds", "2", "--updates", "2", "--table", str(table), "--figure", str(figure)]
    monkeypatch.setattr(sys, "argv", argv)
    two_modes.main()
    text = table.read_text(encoding="utf-8")
    assert text.startswith("# Before") and text.endswith("After.\n") and "old" not in text
    assert text.count("\n| ") == 4 * 4 + 1 and figure.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(sys, "argv", [*argv, "--only", "recipe"])
    with pytest.raises(SystemExit):
        two_modes.main()


def test_committed_table_is_of_this_program() -> None:
    page = (REPOSITORY / "benchmarks/two_modes/two_modes.md").read_text(encoding="utf-8")
    rows = page.split(report.BEGIN)[1].split(report.END)[0].strip().splitlines()[2:]
    expected = []
    for setting in two_modes.SETTINGS.values():
        expected += [("" if index else setting.title, method.name) for index, method in enumerate(setting.methods)]
    assert [tuple(cell.strip() for cell in row.split("|")[1:3]) for row in rows] == expected
