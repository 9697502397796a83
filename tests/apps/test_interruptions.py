"""Ctrl-C during the work. Signals come to a process of its own: libraries that other tests load change what they do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from places import REPOSITORY
from smooth_images import smooth_image
from tiny_model import save_tiny

from amd_restore.apps.cli import main
from amd_restore.errors import INTERRUPTED
from amd_restore.image_io import Picture, write_image
from amd_restore.pipeline import RestorationPipeline

SCRIPT = """
import signal, sys
from pathlib import Path
from amd_restore.apps.files.engine import Engine
from amd_restore.apps.files.plan import Job
from amd_restore.errors import run_command
from test_files import SlowRestorer

class Native(SlowRestorer):
    def restore(self, group, progress=None):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape") from None

signal.signal(signal.SIGINT, signal.default_int_handler)  # A process in the background starts without it.
jobs = [Job(Path(f"{i}.png"), Path(f"{i}_x4.png")) for i in range(3)]
outcomes = []
code = run_command(lambda: outcomes.extend(Engine(Native()).run(jobs)))
assert outcomes == []
sys.exit(code)
"""


def test_an_interruption_that_native_code_turns_into_an_error_costs_no_picture() -> None:
    folders = (REPOSITORY, REPOSITORY / "tests/helpers", REPOSITORY / "tests/apps")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (INTERRUPTED, "interrupted\n")


def test_what_is_written_when_it_comes_is_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name, Picture(smooth_image(0, 16, 16)))
    real, calls = RestorationPipeline.restore_image, []

    def first_alone(self: RestorationPipeline, image: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return real(self, image, **options)

    def slowly(*arguments: Any) -> None:
        time.sleep(0.3)
        write_image(*arguments)

    monkeypatch.setattr(RestorationPipeline, "restore_image", first_alone)
    monkeypatch.setattr("amd_restore.apps.files.restorer.write_image", slowly)
    model, out, report = save_tiny(tmp_path / "tiny.safetensors"), tmp_path / "out", tmp_path / "report.json"
    options = ["-i", str(tmp_path / "in"), "-o", str(out), "--model", str(model), "--json", str(report)]
    assert main(options) == INTERRUPTED
    assert [path.name for path in out.iterdir()] == ["a.png"]
    assert json.loads(report.read_text())["counts"] == {"restored": 1, "skipped": 0, "failed": 0, "open": 1}
