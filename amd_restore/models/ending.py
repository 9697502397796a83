"""End of a training run before its last iteration, by a time limit or a signal, with its state saved."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from amd_restore.models.distributed import process_count, process_rank
from amd_restore.models.validation import cost_name, first_image
from amd_restore.registry import import_basicsr

import_basicsr()

from basicsr.utils import get_root_logger  # noqa: E402

DECAY = 0.4  # share of the time over which the learning rate falls to 0
MARGIN = 1.3  # factor by which a save or validation may take longer than the last one
CLOSING = 2.0  # seconds for unmeasured work: logs, and the end of the process
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def clock() -> float:
    """Return a monotonic time in seconds."""
    return time.monotonic()


class TimeLimit:
    """Wall-clock time of a run, including its earlier sessions.

    Args:
        seconds: limit (``train.time_limit``); None for no limit.
        total_iter: iterations after which the run ends in any case.
    """

    def __init__(self, seconds: float | None, total_iter: int) -> None:
        self.seconds, self.total_iter = seconds, total_iter
        self.started = clock()
        self.costs: dict[str, float] = {}  # seconds of the latest save, and of the latest validation of each set
        self.share = 0.0  # elapsed share of the training time, 0 to 1, equal in all processes
        self.paces: deque[float] = deque(maxlen=16)  # seconds of the latest iterations
        self._before = self._aside = 0.0
        self._mark: float | None = None

    def spent(self) -> float:
        """Return the seconds since the run began, without breaks between its sessions."""
        return self._before + clock() - self.started

    def reserve(self) -> float:
        """Return the seconds needed for one more iteration, two saves (numbered, latest) and a validation."""
        validations = sum(cost for name, cost in self.costs.items() if name != "save")
        ending = MARGIN * (2 * self.costs.get("save", 0.0) + validations)
        return ending + max(self.paces, default=0.0) + CLOSING

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Measure work that the end of the run repeats."""
        start = clock()
        yield
        self.costs[name] = clock() - start
        self._aside += self.costs[name]

    def iteration_begins(self) -> None:
        """Start the time of an iteration."""
        self._mark, self._aside = clock(), 0.0

    def iteration_ends(self) -> None:
        """End the time of an iteration, without its saves and validations."""
        if self._mark is not None:
            self.paces.append(clock() - self._mark - self._aside)
            self._mark = None

    def rate(self, current_iter: int) -> float:
        """Return the factor on the learning rate: 1, then a cosine to 0 over the last :data:`DECAY` of the run.

        Progress is the larger of two shares, of the time and of ``total_iter``.
        """
        done = min(1.0, max(self.share, (current_iter - 1) / self.total_iter))
        falling = max(0.0, done - (1.0 - DECAY)) / DECAY
        return 0.5 + 0.5 * math.cos(math.pi * falling)

    def state_dict(self) -> dict[str, Any]:
        """Return the time spent, for a resumed run."""
        return {"seconds": self.spent(), "costs": dict(self.costs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`; time since :attr:`started` counts in addition."""
        self._before, self.costs = float(state["seconds"]), dict(state["costs"])


class StopRequest:
    """Request to stop this process, by SIGTERM or Ctrl-C."""

    number = 0  # number of the signal; 0: no request

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Context that records the first signal and lets work continue; a second signal has its usual effect."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        heeded = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]

        def note(number: int, frame: Any) -> None:
            self.number = number
            signal.signal(number, before[signal.Signals(number)] or signal.SIG_DFL)
            name = signal.Signals(number).name
            # Python's own streams must not be used here, because the signal may interrupt a write to them.
            os.write(2, f"{name}: the run ends after this iteration, a second one ends it at once\n".encode())

        for number in heeded:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number in heeded:
                signal.signal(number, before[number] or signal.SIG_DFL)


class Stopped(Exception):  # noqa: N818  # no error, and it must not be taken for one
    """Raised when a run has stopped on request, after saving its state."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number  # the shells' convention


class Batches:
    """Training batches until the end of the run, which is checked between iterations.

    Args:
        loader: loader of the batches.
        validation: loaders of the final validation.
        request: request to stop.
    """

    def __init__(self, loader: Iterable[Any], validation: Sequence[Any], request: StopRequest) -> None:
        self.loader, self.validation, self.request = loader, validation, request
        self.model: Any = None  # the RestorationModel after it is built
        self.messages: Any = None  # BasicSR's MessageLogger after it is built
        self._control: Any = None

    def __iter__(self) -> Iterator[Any]:
        return self._until_over(iter(self.loader))

    def _until_over(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            if self.is_over():
                return
            self.model.time_limit.iteration_begins()
            yield batch

    def is_over(self) -> bool:
        """Return whether the run is over, equal in all processes (the clock of the first counts).

        Saves the state of the latest iteration if so.

        Raises:
            Stopped: the run was requested to stop.
        """
        model, limit = self.model, self.model.time_limit
        limit.iteration_ends()
        if limit.seconds is not None and limit.paces and "save" not in limit.costs:
            try_the_end(model, self.validation)
        number, spent, reserve = self._agreed(float(self.request.number), limit.spent(), limit.reserve())
        if limit.seconds is not None:
            limit.share = min(1.0, spent / max(limit.seconds - reserve, 1e-9))
            self._expect_the_end(limit)
        is_late = limit.share == 1.0 and model.current_iter > 0
        if not number and not is_late:
            return False
        if model.saved_iter != model.current_iter:
            model.save(0, model.current_iter)
        if number:
            raise Stopped(int(number), self._farewell(int(number)))
        get_root_logger().info(
            f"Time limit: {spent:.0f} of {limit.seconds:.0f} s are over, the end may take {reserve:.0f} s"
        )
        return True

    def _agreed(self, number: float, spent: float, reserve: float) -> tuple[float, float, float]:
        """Return the request of any process, the time of the first, and the largest reserve."""
        if process_count() == 1:
            return number, spent, reserve
        if self._control is None:  # Use the CPU, so that this does not wait for a GPU.
            is_gloo = dist.get_backend() == "gloo"
            self._control = dist.group.WORLD if is_gloo else dist.new_group(backend="gloo")
        values = torch.tensor([number, spent if process_rank() == 0 else 0.0, reserve], dtype=torch.float64)
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self._control)
        number, spent, reserve = values.tolist()
        return number, spent, reserve

    def _expect_the_end(self, limit: TimeLimit) -> None:
        """Set the estimated last iteration, which log lines use for the time left."""
        if self.messages is not None and limit.paces:
            left = (limit.seconds or 0.0) - limit.reserve() - limit.spent()
            iterations = max(0, round(left / max(max(limit.paces), 1e-9)))
            self.messages.max_iters = min(limit.total_iter, self.model.current_iter + 1 + iterations)

    def _farewell(self, number: int) -> str:
        iteration, states = self.model.current_iter, self.model.folders.states
        name = signal.Signals(number).name
        if not iteration:
            return f"stopped by {name} before the first iteration: start the same command again"
        return (
            f"stopped by {name} after iteration {iteration}; saved as {states}/{iteration}.state: "
            "start the same command with --auto_resume"
        )


def try_the_end(model: Any, loaders: Sequence[Any]) -> None:
    """Measure the end of a run: a save into a folder that is deleted, and the first image of each validation."""
    folders, saved = model.folders, model.saved_iter
    with tempfile.TemporaryDirectory(dir=folders.log) as folder:
        model.folders = dataclasses.replace(folders, models=Path(folder), states=Path(folder))
        try:
            model.save(0, model.current_iter)
        finally:
            model.folders = folders
    model.saved_iter = saved
    if model.run.val is None:
        return
    for loader in loaders if process_rank() == 0 else ():
        start = clock()
        first_image(model, loader)
        # Two more images account for panels and zone maps, which are made once.
        model.time_limit.costs[cost_name(loader)] = (clock() - start) * (len(loader.dataset) + 2)
