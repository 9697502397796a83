"""Search for metrics' weights on disk, without downloads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from amd_restore.atomic import expanded
from amd_restore.errors import AMDRestoreError


def assets_folder() -> Path:
    """Return the folder of weights and benchmark images: ``$AMD_RESTORE_ASSETS``, else ``~/.cache/amd_restore``."""
    return expanded(os.environ.get("AMD_RESTORE_ASSETS") or "~/.cache/amd_restore")


def hub_folder() -> Path:
    """Return the download folder of torch, torchvision and pyiqa."""
    return Path(torch.hub.get_dir())


def find_file(what: str, places: Sequence[Path], remedy: str) -> Path:
    """Return the first of ``places`` that is a file.

    Args:
        what: beginning of the message: "DISTS needs its weights".
        places: candidates in order of preference.
        remedy: end of the message: how to get the file.

    Raises:
        AMDRestoreError: no such file; the message names the places.
    """
    for place in places:
        if place.is_file():
            return place
    raise AMDRestoreError(f"{what}: looked for {' and '.join(map(str, places))}; {remedy}")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a safetensors file or a torch checkpoint, without running code in it.

    Raises:
        AMDRestoreError: the file cannot be read.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Each reader raises different errors.
        raise AMDRestoreError(f"{path}: cannot be read as weights ({error})") from error
    while isinstance(state, dict) and isinstance(state.get("params"), dict):
        state = state["params"]
    if not isinstance(state, dict):
        raise AMDRestoreError(f"{path}: holds no table of weights")
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}
