"""Loading of checked option files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amd_restore.errors import AMDRestoreError
from amd_restore.options.files import OptionFile
from amd_restore.options.run import RunOptions


def load_options(path: str | Path, force: Sequence[str] = (), required: Sequence[str] = ()) -> dict[str, Any]:
    """Return the checked options of a run as nested plain values.

    Args:
        path: option file; ``base`` in it names files that it builds on, see :class:`OptionFile`.
        force: overrides ``a:b=value``, also of known keys that the file does not give.
        required: blocks that the caller needs: ``train``, ``datasets`` ...

    Raises:
        AMDRestoreError: one line with file, dotted key, problem and nearest known name.
    """
    file = OptionFile.read(path, force)
    checked = RunOptions.check(file.content, file)
    for key in required:
        if not checked.get(key):
            raise AMDRestoreError(f"{path}: {key}: missing; this command needs it")
    return checked


def check_devices(opt: dict[str, Any], file: str | Path) -> None:
    """Check ``num_gpu`` against the GPUs of this machine.

    Raises:
        AMDRestoreError: the machine has fewer GPUs.
    """
    import torch

    wanted, there = opt.get("num_gpu", "auto"), torch.cuda.device_count()
    if wanted != "auto" and wanted > there:
        count = f"{there} GPU" + ("" if there == 1 else "s")
        raise AMDRestoreError(f"num_gpu: {wanted} in {file} but this machine has {count}; set num_gpu: {there} or auto")
