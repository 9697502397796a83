"""Where a backend computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amd_restore.backends import GRAPHS, installed
from amd_restore.errors import AMDRestoreError

if TYPE_CHECKING:
    import torch


def place_of(backend: str, device: str | torch.device, dtype: str | torch.dtype) -> str | torch.device:
    """Where ``backend`` is to compute; torch is imported only if it may be what computes.

    Raises:
        AMDRestoreError: the device is not there, computes wrong images, or needs torch.
    """
    if backend in GRAPHS or not installed("torch"):
        if not installed("torch") and str(device) not in ("auto", "cpu"):
            raise AMDRestoreError(f"device '{device}' needs torch: pip install 'amd-restore[torch]'; or use cpu")
        return "cpu" if str(device) == "auto" else device
    from amd_restore.inference.check import sound_device

    return sound_device(device, "auto" if dtype == "int8" else dtype)
