"""A short seeded AMD run must keep giving the numbers stored beside this file.

A change that moves them on purpose is written down in the changelog, then:
``PYTHONPATH=tests/helpers:. python tests/training/test_golden.py`` stores the new ones.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
from places import REPOSITORY
from test_distillation import build, feed
from training_setup import TINY_NETWORK, StartWeights

STORED = REPOSITORY / "tests" / "golden" / "amd_miniature.json"
LOGGED = ("l_fake", "l_amd", "l_l1", "l_lpips_squeeze", "reward/total", "amd/grad_norm")


def short_run(folder: Path) -> list[dict[str, float]]:
    """Logged values of six iterations of AMD in miniature, in float32 on one thread."""
    threads = torch.get_num_threads()
    StartWeights(folder).of(TINY_NETWORK)
    model = build(folder, "amd_x4_classical")
    history = []
    for iteration in range(1, 7):
        feed(model, seed=iteration)
        model.optimize_parameters(iteration)
        log = model.get_current_log()
        history.append({name: log[name] for name in LOGGED if name in log})
        if "l_amd" in log:
            gradients = [p.grad.flatten() for p in model.net_g.time_mlp.parameters()]
            history[-1]["time_mlp"] = float(torch.cat(gradients).norm())
    torch.set_num_threads(threads)
    return history


def test_the_stored_numbers_are_of_ordinary_size() -> None:
    """Where nothing happens, nothing can go wrong: the run must be one in which every part of the method matters."""
    updates = [row for row in json.loads(STORED.read_text(encoding="utf-8")) if "l_amd" in row]
    assert len(updates) == 3
    for row in updates:
        assert 1e-3 < row["l_amd"] < 10, "0.5 mean((H / n)^2)"
        assert row["time_mlp"] > 1e-4
        assert abs(row["reward/total"]) < 500, "in units of what samples differ by"
    assert 0.1 < updates[0]["amd/grad_norm"] < 10, "mean |H| / n"


def test_a_short_run_gives_the_stored_numbers(tmp_path: Path, assets: Path) -> None:
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    history = short_run(tmp_path)
    assert len(history) == len(stored)
    for found, expected in zip(history, stored, strict=True):
        # Processors round differently; a change of the method moves these by far more.
        assert found == pytest.approx(expected, rel=5e-3, abs=1e-9)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        STORED.write_text(json.dumps(short_run(Path(name)), indent=1) + "\n", encoding="utf-8")
