"""The script that tries a GPU, in miniature on the CPU: all steps, the first failure, the end of the time."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from places import REPOSITORY
from training_setup import forget_loggers

from amd_restore.registry import import_basicsr

sys.path.insert(0, str(REPOSITORY / "benchmarks" / "scripts"))
gpu_check, gpu_steps = (importlib.import_module(name) for name in ("gpu_check", "gpu_steps"))


@pytest.fixture(autouse=True)
def own_loggers() -> Any:
    """Each test's runs log into its own folder."""
    import_basicsr()
    forget_loggers()
    yield
    forget_loggers()


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "gpu_check.jsonl").read_text(encoding="utf-8").splitlines()]


def test_all_steps_pass_in_miniature(tmp_path: Path, assets: Path, one_thread: None) -> None:
    assert gpu_check.main(["--miniature", "--out", str(tmp_path)]) == 0, (tmp_path / "log.txt").read_text()[-3000:]
    results = {row["step"]: row for row in rows(tmp_path)}
    order = list(results)
    assert order[:6] == ["versions", "autocast", "resume", "adversarial", "second order", "spatial"]
    assert all(row["status"] == "ok" for row in results.values()) and order[-1] == "profile"
    assert results["versions"]["result"]["torch"].startswith(torch.__version__.split("+")[0])
    assert results["autocast"]["result"]["two blocks"] is True
    assert results["resume"]["result"]["greatest difference"] == 0  # on a CPU a resume is exact
    small = results["restore x4 of a small picture"]["result"]
    assert small["float32, levels"]["max"] == 0 and 0 < small["bf16, levels"]["mean"] < 3
    assert results["step time, batch 2"]["result"]["seconds"] > 0
    assert results["profile"]["result"]["ms of two steps"]
    table = (tmp_path / "gpu_check.md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 2 + len(results) and all(line.startswith("| ") for line in table if "---" not in line)


def test_the_first_failure_ends_it_and_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_steps, "has_bfloat16", lambda device: 1 / 0)
    assert gpu_check.main(["--miniature", "--out", str(tmp_path)]) == 1
    (row,) = rows(tmp_path)
    assert (row["step"], row["status"]) == ("versions", "failed") and "ZeroDivisionError" in row["result"]["error"]
    assert "Traceback" in row["result"]["traceback"] and "Traceback" not in (tmp_path / "gpu_check.md").read_text()


def test_what_the_time_does_not_allow_is_noted(tmp_path: Path) -> None:
    steps = ["versions", "autocast"]
    assert gpu_check.main(["--miniature", "--minutes", "-1", "--out", str(tmp_path), "--steps", *steps]) == 3
    assert [(row["step"], row["status"]) for row in rows(tmp_path)] == [(step, "not reached") for step in steps]


def test_it_needs_a_gpu_unless_it_only_tries_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU is found"):
        gpu_check.main(["--out", str(tmp_path)])


def test_a_lost_gradient_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in PyTorch versions whose autocast keeps rounded weights beyond its block."""

    class Keeping(torch.nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not torch.is_grad_enabled():
                self.kept = self.weight.detach()
            return torch.nn.functional.conv2d(x, self.kept, padding=1)

    monkeypatch.setattr(torch.nn, "Conv2d", Keeping)
    assert gpu_check.main(["--miniature", "--out", str(tmp_path), "--steps", "autocast"]) == 1
    assert "cannot train in bf16" in rows(tmp_path)[0]["result"]["error"]
