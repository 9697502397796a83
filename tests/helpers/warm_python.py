"""A Python that starts in a moment: real processes for tests, forks of one that has imported torch and the rest.

It takes scripts, ``-m`` and ``-c``, and has its own streams, folder, environment, signals and exit code. What it
cannot show is which modules a command imports, and variables that packages read while they are imported.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECONDS = 300.0  # until the server has imported everything, on a machine with much else to do


@functools.cache
def warm_python() -> str:
    """Path of a stand-in for ``sys.executable``, which itself is returned where there is no Linux.

    All workers of a parallel run share one server, which whoever needs it first starts.
    """
    if sys.platform != "linux":
        return sys.executable
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    main_process = os.getppid() if run else os.getpid()
    folder = Path(tempfile.gettempdir()) / f"warm_{run}" if run else Path(tempfile.mkdtemp(prefix="warm_"))
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "socket").exists():
            start_server(folder, main_process)
    return str(folder / "python")


def start_server(folder: Path, main_process: int) -> None:
    """Start the server, and write the stand-in."""
    client, command = folder / "client.py", folder / "python"
    shutil.copy(HERE / "warm_client.py", client)
    words = shlex.join([sys.executable, "-IS", str(client)])  # without looking for packages: that takes a while
    command.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
    command.chmod(0o700)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, str(HERE / "warm_server.py"), str(folder / "socket"), str(main_process)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C of the terminal reaches the stand-ins, which hand it on
        )
    until = time.monotonic() + SECONDS
    while not (folder / "socket").exists():
        assert server.poll() is None and time.monotonic() < until, (folder / "log").read_text(errors="replace")
        time.sleep(0.05)
