"""When one of several training processes is lost: the others say so in one line and end, whatever they wait for.

A launcher stops all processes with the signal that also tells a healthy run to stop. So that signal is first taken for
that: the run ends in order, after the iteration that is going on. Where a process is lost, this never comes, and the
others are ended.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from amd_restore.models.ending import SIGNALS, StopRequest

EXIT_CODE = 3  # of a process that ends because another one did
PATIENCE = 20.0  # seconds for an end in order; torchrun kills after 30
# How gloo's and NCCL's plain RuntimeErrors name what failed.
_MARKS = ("gloo", "nccl", "connection closed by peer", "connection reset", "processgroup")


def is_lost(error: BaseException) -> bool:
    """Whether ``error`` says that another process does not answer."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error).lower() for mark in _MARKS)


class Progress:
    """What is known about a run while it goes on."""

    def __init__(self) -> None:
        self.model: Any = None
        self.states: Path | None = None  # folder of the training states
        self.rank = 0
        self.request = StopRequest()
        self.is_failing = False  # an error of this process itself is on its way out
        self._ending = threading.Lock()

    def advice(self) -> str:
        """Where the run stood, and how it goes on."""
        iteration = self.model.current_iter if self.model else 0
        reached = f"in iteration {iteration}" if iteration else "before the first iteration"
        states = [int(p.stem) for p in self.states.glob("*.state") if p.stem.isdigit()] if self.states else []
        if not states:
            return f"{reached}; no training state is saved yet: start the same command again"
        return f"{reached}; saved up to {self.states}/{max(states)}.state: start the same command with --auto_resume"

    def end(self, cause: str) -> None:
        """Say it in one line and end this process at once, unfinished collectives and all."""
        with self._ending:  # never released: one line, whoever is first
            if not self.is_failing:
                sys.stdout.flush()
                sys.stderr.write(f"error: process {self.rank}: {cause} {self.advice()}\n")
                sys.stderr.flush()
            os._exit(EXIT_CODE)


@contextmanager
def watched(progress: Progress) -> Iterator[None]:
    """Take note when this process is told to stop, and end as :meth:`Progress.end` does if the work then goes on.

    Python's own signal handlers wait for the main thread, which may hang in a collective; a thread that reads the
    wakeup descriptor does not. A second signal says nothing new: Ctrl-C reaches a process from the terminal and from
    its launcher.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    is_over = threading.Event()

    def watch() -> None:
        while data := reader.recv(16):
            number = next((number for number in SIGNALS if number in data), None)
            if number is not None:
                progress.request.number = number
                if not is_over.wait(PATIENCE):
                    progress.end("another process was lost, or the run was stopped,")

    handlers = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=watch, name="lost process", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        writer.close()
