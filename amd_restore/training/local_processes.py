"""Training on the CPU in several processes, started by the training command."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from amd_restore.errors import AMDRestoreError
from amd_restore.models.ending import SIGNALS
from amd_restore.options import load_options
from amd_restore.training.lost_process import PATIENCE

SCRIPT = Path(__file__).resolve().parent.parent / "train.py"
ONE_LINE_ERROR = 2  # exit code for wrong options or files, which the other processes report, too
POLL = 0.1  # seconds between checks of the processes


def start_several(args: argparse.Namespace, started: float) -> int | None:
    """Train in several processes, if ``--processes`` and the options allow it.

    Args:
        args: arguments of the training command.
        started: reading of ``time.monotonic()`` from which ``train.time_limit`` counts.

    Returns:
        Exit code of the run; None for training in one process.
    """
    if args.processes == "1":
        return None
    opt = load_options(args.opt, args.force_yml, required=("train", "datasets"))
    count = processes_for(args.processes, opt, torch.cuda.device_count())
    if count == 1:
        return None
    images, threads, _ = parts = shares(opt, count)
    sys.stderr.write(f"{count} processes share the work ({images}, {threads})\n")
    forced = ["--force_yml", *args.force_yml] if args.force_yml else []
    flags = [flag for flag in ("--auto_resume", "--debug") if getattr(args, flag[2:])]
    launched = ["--launcher", "pytorch", "--started", str(started)]
    return run_processes(count, ["-opt", str(args.opt), *flags, *launched, *forced, "--shares", *parts])


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes_for(wanted: str, opt: Mapping[str, Any], gpus: int) -> int:
    """Return the number of training processes; 1 if options or GPUs require it.

    Args:
        wanted: a number, or ``auto`` for the smaller of ``num_threads`` and the number of processors.
        opt: checked options.
        gpus: number of GPUs of this machine.

    Returns:
        The largest number up to ``wanted`` that divides the images of an iteration (and their
        ``train.accumulate`` parts), so that the result equals that of one process.

    Raises:
        AMDRestoreError: ``wanted`` is neither a number above 0 nor ``auto``, or a GPU would be used.
    """
    if wanted != "auto" and not (wanted.isdigit() and int(wanted)):
        raise AMDRestoreError(f"--processes {wanted}: expected a number or auto")
    limit = min(processors(), opt.get("num_threads") or processors()) if wanted == "auto" else int(wanted)
    uses_gpu = gpus > 0 and opt.get("num_gpu", "auto") != 0
    if uses_gpu and limit > 1 and wanted != "auto":
        raise AMDRestoreError(f"--processes {wanted} is for CPUs: use torchrun and --launcher pytorch, or num_gpu: 0")
    if uses_gpu:
        return 1
    images = int(opt["datasets"]["train"]["batch_size_per_gpu"]) if "train" in opt.get("datasets", {}) else 1
    pieces = images // int(opt["train"].get("accumulate") or 1)
    return max(number for number in range(1, max(1, min(limit, pieces)) + 1) if pieces % number == 0)


def shares(opt: Mapping[str, Any], count: int) -> list[str]:
    """Return overrides for ``count`` processes that together do the work of one, with as many threads."""
    images = int(opt["datasets"]["train"]["batch_size_per_gpu"])
    threads = max(1, int(opt.get("num_threads") or processors()) // count)
    return [f"datasets:train:batch_size_per_gpu={images // count}", f"num_threads={threads}", "num_gpu=0"]


def run_processes(count: int, arguments: Sequence[str]) -> int:
    """Start the training command ``count`` times, pass signals on, and wait for all.

    If a process fails, the others are stopped, and killed if they do not stop.

    Returns:
        The exit code of the first process that failed; 0 if none did.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running: list[subprocess.Popen[bytes]] = []
    code, deadline = 0, float("inf")
    with passed_on(running):
        try:
            for rank in range(count):
                variables = {key: str(value) for key, value in {**common, "RANK": rank, "LOCAL_RANK": rank}.items()}
                # All processes are on this machine, and other interfaces may have names that cannot be resolved.
                local = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
                command = [sys.executable, str(SCRIPT), *arguments]
                running.append(subprocess.Popen(command, env={**local, **os.environ, **variables}))
            while None in [
                process.poll() for process in running
            ]:  # Poll all, because a failed process is found only by polling it.
                failed = next((p.returncode for p in running if p.returncode), 0)
                if failed and not code:
                    code = failed
                    deadline = time.monotonic() + (0.0 if failed == ONE_LINE_ERROR else PATIENCE + 10.0)
                    _tell(running, signal.SIGTERM)
                if time.monotonic() > deadline:
                    _tell(running, signal.SIGKILL)
                time.sleep(POLL)
        finally:
            _tell(running, signal.SIGKILL)
            for process in running:
                process.wait()
    code = code or next((process.returncode for process in running if process.returncode), 0)
    return code if code >= 0 else 128 - code  # the shells' convention


def _tell(running: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in running:
        if process.poll() is None:
            process.send_signal(number)


@contextlib.contextmanager
def passed_on(running: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Context that passes signals on to the processes."""
    handlers = {number: signal.signal(number, lambda number, _: _tell(running, number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
