"""The share of a training step that data work takes."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import yaml
from places import REPOSITORY
from training_setup import load_miniature, make_data

sys.path.insert(0, str(REPOSITORY / "benchmarks" / "scripts"))
loader = importlib.import_module("loader")


def test_steps_with_and_without_data_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data(tmp_path)
    options = load_miniature("teacher_x4_real", tmp_path, iterations=100)
    file = tmp_path / "teacher.yml"
    file.write_text(yaml.safe_dump(options), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert loader.main(["-opt", str(file), "--blocks", "2", "--steps", "2"]) in (0, 1)
    text = capsys.readouterr().out
    assert "| with data work |" in text and "of a step" in text
    assert not (tmp_path / "experiments").exists()
    assert loader.main(["-opt", str(tmp_path / "none.yml")]) == 2


def test_the_verdict_follows_the_medians() -> None:
    assert "9.1% of a step: below 10%" in loader.report([1.1, 1.1, 9.0], [1.0, 1.0, 0.1], "x", 2)
    assert "50.0% of a step: NOT below 10%" in loader.report([2.0], [1.0], "x", 2)
