"""Results of trainings: diagnostics, options, panels and zone maps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amd_restore.errors import AMDRestoreError
from amd_restore.models.diagnostics import FILE_NAME, read_diagnostics
from amd_restore.options import read_yaml


@dataclass(frozen=True)
class Curve:
    """Values (n,) of a quantity at iterations (n,); NaN for windows without values."""

    iterations: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class ReportRun:
    """Training run.

    Attributes:
        folder: experiment folder.
        arm: name of the arm, whose runs differ only in the seed and share a colour.
        seed: training seed; None if unknown.
        rows: lines of the diagnostics file.
        options: option file; empty without one.
    """

    folder: Path
    arm: str
    seed: int | None
    rows: list[dict[str, Any]]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """Return the name of the folder."""
        return self.folder.resolve().name

    def curves(self) -> dict[str, Curve]:
        """Return curves by quantity; validations are ``val/SET/METRIC@STEPS``."""
        found: dict[str, list[tuple[int, float]]] = {}
        for row in self.rows:
            values = dict(row.get("values") or {})
            for name, numbers in (row.get("validation") or {}).items():
                values |= {f"val/{name}/{metric}": number for metric, number in numbers.items()}
            for key, value in values.items():
                found.setdefault(key, []).append((int(row["iter"]), np.nan if value is None else float(value)))
        return {
            key: Curve(np.array([i for i, _ in pairs], np.int64), np.array([v for _, v in pairs], np.float64))
            for key, pairs in found.items()
        }

    @property
    def iterations(self) -> int:
        """Return the last iteration in the diagnostics."""
        return max((int(row["iter"]) for row in self.rows), default=0)

    @property
    def seconds(self) -> float:
        """Return the training time in seconds."""
        return max((float(row.get("seconds") or 0.0) for row in self.rows), default=0.0)

    @property
    def validation_steps(self) -> list[int]:
        """Return the numbers of steps of the panels' columns, between base and ground truth."""
        steps = (self.options.get("val") or {}).get("num_steps") or [1]
        return [int(number) for number in steps]

    def panels(self) -> dict[str, Path]:
        """Return the newest panel by validation set."""
        found: dict[str, Path] = {}
        for path in sorted((self.folder / "visualization").glob("*/panel_*.png")):
            found[path.parent.name] = path  # File names end in the zero-padded iteration.
        return found

    def zone_maps(self) -> Path | None:
        """Return the newest file of zone maps."""
        files = sorted((self.folder / "visualization" / "zones").glob("zones_*.npz"))
        return files[-1] if files else None


def find_runs(folders: Sequence[Path]) -> list[ReportRun]:
    """Find runs in experiment folders of runs or ablations.

    Raises:
        AMDRestoreError: a folder is neither, or a run is given twice.
    """
    runs = [run for folder in folders for run in _runs_in(folder)]
    names = [run.folder.resolve() for run in runs]
    if len(set(names)) < len(names):
        raise AMDRestoreError("a run is given twice")
    return runs


def arms_of(runs: Iterable[ReportRun]) -> dict[str, list[ReportRun]]:
    """Return runs by arm, in the order of first appearance."""
    arms: dict[str, list[ReportRun]] = {}
    for run in runs:
        arms.setdefault(run.arm, []).append(run)
    return arms


def _runs_in(folder: Path) -> list[ReportRun]:
    if (folder / FILE_NAME).is_file():
        return [_read(folder)]
    records = []
    for file in sorted(folder.glob("*.json")):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise AMDRestoreError(f"{file}: damaged ({error})") from error
        if isinstance(record, dict) and "arm" in record:
            records.append((record.get("position", 0), record["seed"], file.stem, record["arm"]))
    runs = [
        _read(folder.parent / name, arm, seed)
        for _, seed, name, arm in sorted(records)
        if (folder.parent / name / FILE_NAME).is_file()
    ]
    if not runs:
        raise AMDRestoreError(
            f"{folder}: no {FILE_NAME} in it, and no runs of an ablation; expected experiments/NAME of a training"
        )
    return runs


def _read(folder: Path, arm: str | None = None, seed: int | None = None) -> ReportRun:
    # BasicSR copies the option file under its own name.
    files = sorted(folder.glob("*.yml"))
    options = read_yaml(files[0]) if files else {}
    name = folder.resolve().name
    seed = options.get("manual_seed") if seed is None else seed
    return ReportRun(folder, arm or re.sub(r"_s\d+$", "", name), seed, read_diagnostics(folder / FILE_NAME), options)
