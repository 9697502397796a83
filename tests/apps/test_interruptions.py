"""Ctrl-C during the work, in a process of its own: some libraries that other tests load change what signals do."""

from __future__ import annotations

import os
import subprocess
import sys

from places import REPOSITORY

from amd_restore.errors import INTERRUPTED

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
