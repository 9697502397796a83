"""Resuming: the training state of a run, and whether its options fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from amd_restore.errors import AMDRestoreError
from amd_restore.options import OptionFile, RunOptions


def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """Load the newest training state of the run (``--auto_resume``) or that in ``path.resume_state``.

    Raises:
        AMDRestoreError: the state cannot be read.
    """
    from basicsr.utils import check_resume

    path = opt["path"].get("resume_state")
    folder = Path(opt["path"]["training_states"])
    if opt["auto_resume"] and folder.is_dir():
        states = sorted((p for p in folder.glob("*.state") if p.stem.isdigit()), key=lambda p: int(p.stem))
        path = str(states[-1]) if states else path
    if not path:
        return None
    opt["path"]["resume_state"] = path
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged file makes torch.load raise errors of pickle, zip and its own.
        raise AMDRestoreError(
            f"{path}: cannot resume from this file ({type(error).__name__}); delete it to use an earlier one"
        ) from error
    _check_batch(opt, state, path)
    opt["resume_iter"] = int(state["iter"])
    opt["path"]["ignore_resume_networks"] = _ignored(opt["path"])
    check_resume(opt, state["iter"])
    return state


# A resumed run takes these values from the training state instead of the option file.
_OF_THE_STATE = "train.optim_"
_TYPES = ("train.optim_", "train.scheduler.")
_WEIGHTS = "path.pretrain_"


def changes(file: OptionFile, run: Path) -> dict[str, tuple[Any, Any]]:
    """Return the values of a run's last session and of ``file``, by dotted key, where they differ.

    Args:
        file: options, already checked.
        run: folder of the run, with the options of its last session.

    Raises:
        AMDRestoreError: the folder holds no options that can be read.
    """
    kept = max(run.glob("*.yml"), key=lambda path: path.stat().st_mtime, default=None)
    if kept is None:
        raise AMDRestoreError(f"{run} holds none")
    before = _flat(RunOptions.check(OptionFile.read(kept).content, kept))
    now = _flat(RunOptions.check(file.content, file))
    pairs = {key: (before.get(key, "absent"), now.get(key, "absent")) for key in sorted(before.keys() | now.keys())}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def changed_options(file: OptionFile, run: Path) -> list[str]:
    """Return one line for each option that differs from the run's last session.

    Args:
        file: options of this session.
        run: folder of the run, with the options of its last session.

    Raises:
        AMDRestoreError: the state does not fit another type of optimizer or scheduler.
    """
    try:
        changed = changes(file, run)
    except AMDRestoreError as error:
        return [f"the options of the last session cannot be compared: {error}"]
    ignored, lines = _ignored(file.content.get("path") or {}), []
    for key, (old, new) in changed.items():
        is_of_state = key.startswith(_OF_THE_STATE)
        if key.startswith(_TYPES) and key.endswith(".type"):
            raise AMDRestoreError(
                f"{file.place(key)}: {key}: was {old}, now {new}; the training state is for {old}: "
                "set it back, or start a new run from the weights"
            )
        is_of_run = key.startswith(_WEIGHTS) and key.removeprefix(_WEIGHTS) not in ignored
        effect = "without effect: the run goes on with its own" if is_of_state or is_of_run else "from here on"
        lines.append(f"changed since the last session: {key}: {old} -> {new} ({effect})")
    return lines


def _ignored(path: Mapping[str, Any]) -> list[str]:
    """Return the networks that come from their own files again: a teacher is not trained, so it is not saved."""
    named = path.get("ignore_resume_networks") or []
    return [*named, *({"network_teacher"} - {*named})]


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {key: value}
    return {k: v for name, item in value.items() for k, v in _flat(item, f"{key}.{name}" if key else name).items()}


def _check_batch(opt: dict[str, Any], state: dict[str, Any], path: str) -> None:
    """Check that an iteration has as many images as before, over any number of processes."""
    from amd_restore.models.distributed import images_of_process

    before, images = state.get("batch"), images_of_process(opt)
    if before is None or before["processes"] * before["images"] == opt["world_size"] * images:
        return
    total = before["processes"] * before["images"]
    advice = f"set datasets.train.batch_size_per_gpu to {total // opt['world_size']}"
    if total % opt["world_size"]:
        advice = f"use a number of processes that divides {total}"
    raise AMDRestoreError(
        f"{path}: was trained with {total} images per iteration "
        f"({before['processes']} processes x {before['images']}), "
        f"this run has {opt['world_size'] * images} ({opt['world_size']} x {images}); {advice}"
    )
