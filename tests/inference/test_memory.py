"""Tiles from a budget, and budgets that hold: peaks are those of real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from places import REPOSITORY
from tiny_model import save_tiny, tiny_header
from torch import Tensor

from amd_restore.archs.base import RestorationNetwork
from amd_restore.backends import installed
from amd_restore.errors import AMDRestoreError
from amd_restore.inference import memory
from amd_restore.inference.memory import MIB, Workload, choose_tile, plan_tile
from amd_restore.pipeline import RestorationPipeline

BENCHMARK = REPOSITORY / "benchmarks" / "scripts" / "memory.py"
CPU = torch.device("cpu")


def job(height: int = 2500, width: int = 2500, **changes: Any) -> Workload:
    values = {"count": 1, "scale": 4, "halo": 16, "per_pixel": 2000.0} | changes
    return Workload(height, width, **values)


@pytest.mark.parametrize("budget", [20, 50, 100, 300, 1000, 4000])
def test_tiles_fit_and_waste_least(budget: int) -> None:
    sides = choose_tile(job(), budget * MIB)
    if sides != (8, 8):
        assert job().peak(*sides) <= budget * MIB
    more = choose_tile(job(), 2 * budget * MIB)
    assert job().waste(*more) <= job().waste(*sides)


def test_wide_pictures_get_flat_tiles() -> None:
    """A row of tiles is as wide as the picture: there memory is saved by height."""
    height, width = choose_tile(job(2500, 40000), 1000 * MIB)
    assert height < width


def test_limits_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(
        AMDRestoreError, match=r"100 MiB of memory are too little .* 2500x2500 .* raise the memory limit$"
    ):
        plan_tile(job(), CPU, 100 * MIB, 384 * MIB)
    assert plan_tile(job(), CPU, 2048 * MIB, 384 * MIB) == choose_tile(job(), (2048 - 384) * MIB)


def test_without_a_limit_it_is_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda _: 2000 * MIB)
    assert plan_tile(job(), CPU, None, 0) == choose_tile(job(), 1000 * MIB)
    monkeypatch.setattr(memory, "available_memory", lambda _: 10 * MIB)  # tiles of 8 pixels would help nobody
    assert min(plan_tile(job(), CPU, None, 0)) >= 16


def test_containers_have_limits_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, use = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", ((str(limit), str(use)),))
    free = memory.available_memory(CPU)
    assert free > 0
    limit.write_text("3000000\n")
    use.write_text("1000000\n")
    assert memory.available_memory(CPU) == 2_000_000
    limit.write_text("max\n")
    assert memory.available_memory(CPU) > 2_000_000


PROBE = """
import time, numpy as np
from amd_restore.inference.memory import MIB, probed_cost
def run():
    block = np.ones(80 * MIB, np.uint8)
    time.sleep(0.05)
    assert block[-1] == 1
print(10_000 * probed_cost(run, 10_000, None) / MIB)
"""


def test_probes_see_what_is_allocated() -> None:
    # In a process of its own: a long one may lose old pages meanwhile.
    found = subprocess.run([sys.executable, "-c", PROBE], check=True, stdout=subprocess.PIPE, text=True)
    assert 80 <= float(found.stdout) <= 1.6 * 80


def test_unknown_networks_are_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(RestorationNetwork):
        radius = 0

        def forward(self, x_t: Tensor, *_: Any) -> Tensor:
            return x_t

    costs: list[int] = []

    def fake(run: Any, pixels: int, device: torch.device) -> float:
        run()
        costs.append(pixels)
        return 1000.0

    monkeypatch.setattr(memory, "probed_cost", fake)
    pipeline = RestorationPipeline(tiny_header(), Other(), "cpu", "float32")
    for _ in range(2):
        pipeline(torch.rand(1, 3, 40, 40), max_memory=pipeline.restorer.resident + 100 * MIB)
    assert len(costs) == 1


def test_max_memory_sets_the_tiles(tmp_path: Path) -> None:
    pipeline = RestorationPipeline.from_pretrained(save_tiny(tmp_path / "tiny.safetensors"), "cpu", "float32")
    totals: list[int] = []
    image = np.zeros((300, 300, 3), np.uint8)
    for extra in (20, 60, 4000):
        limit = pipeline.restorer.resident + extra * MIB
        rows = pipeline.restore_rows(image, max_memory=limit, progress=lambda _, total: totals.append(total))
        next(rows)
    assert totals[0] > totals[-1] == 1
    with pytest.raises(AMDRestoreError, match="max_memory must be a number of bytes"):
        pipeline.restore_image(image, max_memory=0)


def measured(*arguments: str, isa: str | None = None) -> dict[str, float]:
    """What the benchmark prints; ``isa`` keeps oneDNN to older instructions, as on an older processor."""
    environment = os.environ | ({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})
    command = [sys.executable, str(BENCHMARK), *arguments]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    result: dict[str, float] = json.loads(found.stdout)
    return result


@pytest.mark.parametrize(("dtype", "isa"), [("float32", None), ("bfloat16", None), ("bfloat16", "AVX2")])
def test_the_model_of_the_flat_network_agrees_with_a_process(dtype: str, isa: str | None) -> None:
    """Peak memory of a process that restores one window, less what it had before."""
    found = measured("--window", "256", "--num_feat", "64", "--num_block", "1", "--dtype", dtype, isa=isa)
    assert 0.4 * found["planned"] < found["bytes_per_pixel"] <= found["planned"]


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_graphs_take_what_the_model_of_the_flat_network_says(backend: str) -> None:
    if not installed(backend):
        pytest.skip(f"{backend} is not installed")
    found = measured("--window", "256", "--model", "x4-classical-tiny", "--backend", backend, "--threads", "1")
    assert 0.4 * found["planned"] < found["bytes_per_pixel"] <= found["planned"]


def test_a_limit_holds_for_graphs(tmp_path: Path) -> None:
    def restore(limit: float, name: str) -> dict[str, float]:
        options = ["--side", "450", "--model", "x4-classical-tiny", "--backend", "onnx", "--threads", "1"]
        return measured(*options, "--max_memory", str(limit), "--output", str(tmp_path / name))

    limit = memory.GRAPH_RUNTIME / MIB + 60
    assert restore(limit, "limited.png")["peak_mib"] < limit < restore(4000, "free.png")["peak_mib"]


@pytest.mark.parametrize(("dtype", "isa"), [("float32", None), ("bfloat16", "AVX2")])
def test_a_limit_holds(dtype: str, isa: str | None, tmp_path: Path) -> None:
    """A process told to stay below a limit does, where it would not have otherwise; output 3 megapixels."""

    def restore(limit: float, name: str) -> dict[str, float]:
        options = ["--side", "450", "--num_feat", "32", "--num_block", "1", "--dtype", dtype]
        return measured(*options, "--max_memory", str(limit), "--output", str(tmp_path / name), isa=isa)

    free = restore(4000, "free.png")
    limit = max(free["before_mib"] + memory.KEPT / MIB, memory.RUNTIME / MIB) + 60  # CUDA builds of torch take far more
    assert restore(limit, "limited.png")["peak_mib"] < limit < free["peak_mib"]
    assert (tmp_path / "limited.png").stat().st_size > 1000
