"""Mistakes at the door of the measuring scripts are one line."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from places import REPOSITORY
from warm_python import warm_python


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["step_cost.py"], "x4-classical.safetensors: no such weights file"),  # outside the repository
        (["processes.py", "--recipe", "nosuch"], "nosuch.yml: no such option file"),
        (["fidelity.py", "--assets", "nosuch"], "nosuch/benchmarks/Set5/GTmod4: no such folder"),
        (["video.py", "--model", "nosuch"], "nosuch: no released model has this name"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    command = [warm_python(), str(REPOSITORY / "benchmarks" / "scripts" / arguments[0]), *arguments[1:]]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert said in result.stderr.splitlines()[-1]
