"""Loss of one of several training processes: the others print one line and exit, even if they hang in a collective.

A launcher uses the same signal to stop a healthy run and to stop the others after a loss. The run first tries to end
after the current iteration. If a process is lost, this does not happen in time, and the process exits.
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
from amd_restore.models.persistence import saved_iterations

EXIT_CODE = 3  # exit code after the loss of another process
PATIENCE = 20.0  # seconds for a regular end; torchrun kills after 30
# Messages of gloo's and NCCL's plain RuntimeErrors.
_MARKS = ("gloo", "nccl", "connection closed by peer", "connection reset", "processgroup")


def is_lost(error: BaseException) -> bool:
    """Return whether ``error`` means that another process does not respond."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error).lower() for mark in _MARKS)


class Progress:
    """State of a running training, for the message about a lost process."""

    def __init__(self) -> None:
        self.model: Any = None
        self.states: Path | None = None  # folder of the training states
        self.rank = 0
        self.request = StopRequest()
        self.is_failing = False  # whether this process is reporting an error of its own
        self._ending = threading.Lock()

    def advice(self) -> str:
        """Return the last iteration and how to resume, in words."""
        iteration = self.model.current_iter if self.model else 0
        reached = f"in iteration {iteration}" if iteration else "before the first iteration"
        states = saved_iterations(self.states) if self.states else []
        if not states:
            return f"{reached}; no training state is saved yet: start the same command again"
        return f"{reached}; saved up to {self.states}/{states[-1]}.state: start the same command with --auto_resume"

    def end(self, cause: str) -> None:
        """Print one line and exit this process at once, also inside a collective."""
        with self._ending:  # The lock is never released, so that only the first caller prints.
            if not self.is_failing:
                sys.stdout.flush()
                sys.stderr.write(f"error: process {self.rank}: {cause} {self.advice()}\n")
                sys.stderr.flush()
            os._exit(EXIT_CODE)


@contextmanager
def watched(progress: Progress) -> Iterator[None]:
    """Context that watches for a stop signal and calls :meth:`Progress.end` if the run does not end in time.

    Python's signal handlers wait for the main thread, which may hang in a collective; a thread that reads the wakeup
    descriptor does not. A second signal is ignored, because Ctrl-C reaches a process from the terminal and from its
    launcher.
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
