"""Trainings of an ablation: options, folders and state."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amd_restore.atomic import option_path, write_atomically
from amd_restore.benchmark.ablation.options import AblationOptions, slug
from amd_restore.benchmark.provenance import file_hash, processor
from amd_restore.errors import AMDRestoreError
from amd_restore.models.diagnostics import FILE_NAME, read_diagnostics
from amd_restore.models.persistence import saved_iterations
from amd_restore.options import OptionFile, merge
from amd_restore.options.run import RunOptions

EXPERIMENTS = Path("experiments")
# These options change speed and logs of a run, but not its weights.
IRRELEVANT = ("num_threads", "logger", "val")


@dataclass(frozen=True)
class TrainingRun:
    """Training of an arm with a seed.

    Attributes:
        ablation: name of the ablation.
        arm: name of the arm.
        seed: training seed.
        position: place of the arm in the option file, for the order in reports.
        options: the whole option file of the run.
    """

    ablation: str
    arm: str
    position: int
    seed: int
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """Return the name of the run and of its experiment folder."""
        return str(self.options["name"])

    @property
    def folder(self) -> Path:
        """Return the experiment folder."""
        return EXPERIMENTS / self.name

    @property
    def weights(self) -> Path:
        """Return the weights file of the finished run."""
        return self.folder / "models" / "net_g_latest.safetensors"

    @property
    def option_file(self) -> Path:
        """Return the generated option file."""
        return EXPERIMENTS / self.ablation / f"{self.name}.yml"

    @property
    def record_file(self) -> Path:
        """Return the file with the run's options at its start and its cost at its end."""
        return EXPERIMENTS / self.ablation / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """Return the log file of training and evaluation."""
        return EXPERIMENTS / self.ablation / f"{self.name}.log"

    @property
    def total_iter(self) -> int:
        """Return the number of iterations."""
        return int(self.options["train"]["total_iter"])

    def record(self) -> dict[str, Any]:
        """Read the record, empty before the run begins.

        Raises:
            AMDRestoreError: the file is damaged.
        """
        if not self.record_file.is_file():
            return {}
        try:
            content: dict[str, Any] = json.loads(self.record_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise AMDRestoreError(
                f"{self.record_file}: damaged ({error}); delete it and {self.folder} to train again"
            ) from error
        return content

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Replace the record."""
        write_atomically(self.record_file, json.dumps(record, indent=1).encode())

    def relevant(self) -> dict[str, Any]:
        """Return what determines the weights: options as ``a.b`` keys, and the initial weights."""
        kept = {key: value for key, value in self.options.items() if key not in IRRELEVANT}
        flat = _flatten(kept)
        for key, file in (self.options.get("path") or {}).items():
            if key.startswith("pretrain_network") and file:
                flat[f"sha256 of path.{key}"] = _digest(option_path(file))
        return flat

    def check_unchanged(self) -> None:
        """Check that the folder of this run's name belongs to this run.

        Raises:
            AMDRestoreError: it has other options, or no record.
        """
        advice = f"give the ablation another name, or delete {self.folder} and {self.record_file} to train anew"
        record = self.record()
        if not record:
            if self.folder.exists():
                raise AMDRestoreError(f"{self.folder}: exists, but was not made by this ablation; {advice}")
            return
        then, now = record["relevant"], json.loads(json.dumps(self.relevant()))
        changed = [key for key in {**then, **now} if then.get(key) != now.get(key)]
        if changed:
            shown = [f"{key}: {_show(then.get(key))} then, {_show(now.get(key))} now" for key in changed[:3]]
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise AMDRestoreError(f"{self.name} was begun with other options ({'; '.join(shown)}{more}); {advice}")

    def begin(self) -> None:
        """Write the option file and, the first time, the record."""
        # JSON is valid YAML in which no value can be read as another type.
        text = f"# Generated for arm '{self.arm}' of the ablation {self.ablation}\n"
        write_atomically(self.option_file, (text + json.dumps(self.options, indent=1) + "\n").encode())
        if not self.record():
            names = {"ablation": self.ablation, "arm": self.arm, "position": self.position, "seed": self.seed}
            self.write_record({**names, "relevant": self.relevant()})

    def note_session(self, seconds: float, iterations: int) -> None:
        """Add a training process's wall time to the record; ``iterations`` is the current iteration."""
        record = self.record()
        sessions = record.setdefault("sessions", [])
        sessions.append({"seconds": round(seconds, 1), "machine": processor()})
        record["iterations"] = iterations
        if iterations >= self.total_iter:
            record["weights_sha256"] = _digest(self.weights)
            record["num_threads"] = self.options["num_threads"]
        self.write_record(record)

    def saved_iteration(self) -> int:
        """Return the iteration of the newest training state; 0 without one."""
        return max(saved_iterations(self.folder / "training_states"), default=0)

    @property
    def finished(self) -> bool:
        """Return whether the weights of the last iteration exist."""
        record = self.record()
        return (
            record.get("iterations", 0) >= self.total_iter
            and self.weights.is_file()
            and _digest(self.weights) == record.get("weights_sha256")
        )

    def cost(self) -> dict[str, Any]:
        """Return iterations, seconds of training (from its diagnostics) and of its processes, threads, machine."""
        record = self.record()
        sessions = record.get("sessions", [])
        training = last_seconds(self.folder / FILE_NAME)
        seconds = training if training is not None else sum(one["seconds"] for one in sessions)
        iterations = record.get("iterations", 0)
        return {
            "iterations": iterations,
            "seconds": round(seconds, 1),
            "seconds_per_iteration": round(seconds / iterations, 3) if iterations else None,
            "measured": "training loop" if training is not None else "whole process",
            "process_seconds": round(sum(one["seconds"] for one in sessions), 1),
            "sessions": len(sessions),
            "threads": record.get("num_threads", self.options["num_threads"]),
            "machine": "; ".join(dict.fromkeys(one["machine"] for one in sessions)),
        }


def plan(
    options: AblationOptions, file: Path, only: Sequence[str] = (), seeds: Sequence[int] = ()
) -> list[TrainingRun]:
    """Plan all runs seed by seed, so that an ablation stopped early has every arm.

    Args:
        options: ablation.
        file: option file; ``base`` is relative to it.
        only: arms to keep; empty for all.
        seeds: seeds to keep; empty for all.

    Raises:
        AMDRestoreError: a wrong option of an arm; every run is checked before the first begins.
    """
    base = OptionFile.read(file.parent / options.base).content
    runs = []
    for seed in seeds or options.seeds:
        for position, (arm, changes) in enumerate(options.arms.items()):
            if only and arm not in only:
                continue
            merged = merge(merge(base, options.overrides), changes)
            name = f"{options.name}_{slug(arm)}_s{seed}"
            merged |= {"name": name, "manual_seed": seed, "num_threads": options.num_threads}
            train = merged.setdefault("train", {})
            if train.get("time_limit"):
                raise AMDRestoreError(
                    f"{file}: train.time_limit of the base would end the runs by the clock; "
                    "set overrides: {train: {time_limit: null, scheduler: ...}}"
                )
            train["total_iter"] = options.total_iter
            if "periods" in (train.get("scheduler") or {}):
                train["scheduler"] |= {"periods": [options.total_iter], "restart_weights": [1]}
            RunOptions.check(merged, f"{file}: arm '{arm}'")
            runs.append(TrainingRun(options.name, arm, position, seed, merged))
    return runs


def last_seconds(diagnostics: Path) -> float | None:
    """Return the training time at the end of a diagnostics file; None for a missing or empty file."""
    rows = read_diagnostics(diagnostics) if diagnostics.is_file() else []
    return float(rows[-1]["seconds"]) if rows else None


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {k: v for key, item in value.items() for k, v in _flatten(item, f"{prefix}.{key}").items()}
    return {prefix.lstrip("."): value}


def _digest(file: Path) -> str:
    """Return the SHA-256, or "missing"."""
    return file_hash(file) if file.is_file() else "missing"


def _show(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
