"""Parallel commands, each with its log, which stop together with this process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0  # seconds between stopping and killing a command


@dataclass
class ChildProcess:
    """Command.

    Attributes:
        label: name in messages.
        command: program and arguments.
        log: file to which output is appended.
        threads: threads of numeric libraries, set by environment variables.
        inherit: inherited file descriptors (locks).
        after: called with exit code and wall seconds; returns follow-up jobs.
    """

    label: str
    command: Sequence[str]
    log: Path
    threads: int
    after: Callable[[int, float], Iterable[ChildProcess]]
    inherit: tuple[int, ...] = ()
    started: float = field(default=0.0, init=False)


def run_processes(jobs: Iterable[ChildProcess], processes: int) -> None:
    """Run all jobs, ``processes`` at a time; follow-up jobs go first.

    An exception (Ctrl-C too) stops the running commands, waits for them, and is raised again.
    """
    queue = deque(jobs)
    running: list[tuple[ChildProcess, subprocess.Popen[bytes]]] = []
    try:
        while queue or running:
            while queue and len(running) < processes:
                job = queue.popleft()
                running.append((job, _start(job)))
            for job, process in list(running):
                code = process.poll()
                if code is not None:
                    running.remove((job, process))
                    queue.extendleft(reversed(list(job.after(code, time.monotonic() - job.started))))
            time.sleep(POLL_SECONDS if running else 0.0)
    except BaseException:
        _stop([process for _, process in running])
        raise


def last_line(log: Path) -> str:
    """Return the last meaningful line of a log, the reason of a failure."""
    if not log.is_file():
        return "it wrote nothing"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it wrote nothing")


def _start(job: ChildProcess) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parents[3]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    threads = {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    job.log.parent.mkdir(parents=True, exist_ok=True)
    job.started = time.monotonic()
    with job.log.open("ab") as log:
        return subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **threads, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            pass_fds=job.inherit if sys.platform != "win32" else (),
            # A Ctrl-C of the terminal reaches this process only, which then stops its commands.
            start_new_session=True,
        )


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
