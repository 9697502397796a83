"""Where a run goes on: its newest training state, and whether it fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from amd_restore.errors import AMDRestoreError


def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """The newest training state of the experiment (``--auto_resume``) or the one in ``path.resume_state``.

    Raises:
        AMDRestoreError: when the state cannot be read.
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
    except Exception as error:
        raise AMDRestoreError(
            f"{path}: cannot resume from this file ({type(error).__name__}); delete it to use an earlier one"
        ) from error
    _check_batch(opt, state, path)
    opt["resume_iter"] = int(state["iter"])
    check_resume(opt, state["iter"])
    return state


def _check_batch(opt: dict[str, Any], state: dict[str, Any], path: str) -> None:
    """The images of an iteration may be spread over another number of processes, but must be as many."""
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
