"""Option files, checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amd_restore.errors import AMDRestoreError
from amd_restore.options.files import OptionFile
from amd_restore.options.run import RunOptions


def load_options(path: str | Path, force: Sequence[str] = (), required: Sequence[str] = ()) -> dict[str, Any]:
    """Options of a run as nested plain values, checked.

    Args:
        path: option file; ``base`` in it names files that it builds on, see :class:`OptionFile`.
        force: overrides ``a:b=value``. New keys are allowed where the key is a known one.
        required: blocks that this use of the file needs: ``train``, ``datasets`` ...

    Raises:
        AMDRestoreError: one line with the file in which the key stands, dotted key, problem and nearest known name.
    """
    file = OptionFile.read(path, force)
    checked = RunOptions.check(file.content, file)
    for key in required:
        if not checked.get(key):
            raise AMDRestoreError(f"{path}: {key}: missing; this command needs it")
    return checked


def check_devices(opt: dict[str, Any], file: str | Path) -> None:
    """Compare ``num_gpu`` with this machine.

    Raises:
        AMDRestoreError: more GPUs are asked for than there are.
    """
    import torch

    wanted, there = opt.get("num_gpu", "auto"), torch.cuda.device_count()
    if wanted != "auto" and wanted > there:
        count = f"{there} GPU" + ("" if there == 1 else "s")
        raise AMDRestoreError(f"num_gpu: {wanted} in {file} but this machine has {count}; set num_gpu: {there} or auto")
