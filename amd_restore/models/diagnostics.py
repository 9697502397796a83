"""Diagnostics of a run: means over windows of iterations, written as JSON lines."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amd_restore.atomic import write_atomically
from amd_restore.errors import AMDRestoreError
from amd_restore.models.distributed import process_count, process_rank, sum_of_all

FILE_NAME = "diagnostics.jsonl"


class Diagnostics:
    """Running means of logged tensors and of step times.

    Values are summed on their device and read only when a window ends, so that logging does not wait for a GPU.
    NaN entries (such as an empty Forbidden Zone) do not count in the mean.

    Args:
        device: device of the logged tensors and of the sums, because NCCL cannot reduce CPU tensors.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.sums: dict[str, Tensor] = {}
        self.seconds = 0.0  # time of all training steps, including those before a resume
        self._window = self._own = 0.0

    def add(self, share: float = 1.0, **values: Tensor) -> None:
        """Add to the window; ``__`` in a name stands for ``/``.

        Args:
            share: weight of a scalar; less than 1 if an iteration adds several, for parts or processes. Other tensors
                have a value for each sample, with weight 1.
            **values: tensors by name.
        """
        for name, value in values.items():
            flat = value.detach().float().flatten()
            counted = torch.stack([flat.nansum(), (~flat.isnan()).sum().float()])
            if share != 1.0 and value.ndim == 0:
                counted = counted * share
            key = name.replace("__", "/")
            self.sums[key] = self.sums[key] + counted if key in self.sums else counted

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Measure the time of one training step."""
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start
        self._window += time.perf_counter() - start

    @contextlib.contextmanager
    def extra(self) -> Iterator[None]:
        """Measure work that only serves diagnosis; logged as ``amd/overhead``, a share of the step time."""
        start = time.perf_counter()
        yield
        self._own += time.perf_counter() - start

    def merged(self) -> dict[str, Tensor]:
        """Return sums and counts over all processes; a collective call."""
        if process_count() == 1 or not self.sums:
            return dict(self.sums)
        return dict(zip(self.sums, sum_of_all(torch.stack(list(self.sums.values()))), strict=True))

    def read(self) -> dict[str, float]:
        """Return the window's means over all processes and start a new window; a mean without values is NaN."""
        means = {}
        for name, pair in self.merged().items():
            total, count = pair.tolist()
            means[name] = total / count if count else math.nan
        if self._own:
            means["amd/overhead"] = self._own / max(self._window, 1e-9)
        self.sums, self._window, self._own = {}, 0.0, 0.0
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return the unfinished window for an exact resume; step times are not included."""
        return {"sums": self.merged()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`, from any device; the first process continues with the sums of all."""
        first = process_rank() == 0
        sums = {key: value.to(self.device) for key, value in state["sums"].items()}
        self.sums = {key: value if first else torch.zeros_like(value) for key, value in sums.items()}


class DiagnosticsFile:
    """File ``diagnostics.jsonl`` of an experiment: one JSON object per line, in order of ``iter``.

    Args:
        path: the file, which may not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, **row: Any) -> None:
        """Write one line; NaN becomes null.

        Raises:
            AMDRestoreError: the file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(_finite(row)) + "\n")
        except OSError as error:
            raise AMDRestoreError(f"{self.path}: cannot be written ({error.strerror})") from error

    def rewind(self, iteration: int) -> float:
        """Delete rows after ``iteration``, which a resumed run writes again, and an unfinished last line.

        Returns:
            Training seconds of the last remaining row; 0 without one.
        """
        if not self.path.is_file():
            return 0.0
        kept = [row for row in read_diagnostics(self.path) if row["iter"] <= iteration]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        write_atomically(self.path, text.encode("utf-8"))
        return float(kept[-1]["seconds"]) if kept else 0.0


def read_diagnostics(path: str | Path) -> list[dict[str, Any]]:
    """Read the rows of a diagnostics file, without an unfinished last line of a killed run.

    Raises:
        AMDRestoreError: no such file, or a line before the last is not JSON.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise AMDRestoreError(f"{path}: cannot be read ({error.strerror}); train the run first") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise AMDRestoreError(f"{path}, line {number}: not JSON; the file was changed by hand?") from error
    return rows


def _finite(value: Any) -> Any:
    """Replace NaN by None, because JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
