"""Weights files: safetensors with a header in their metadata, by path or by released name.

Nothing is unpickled, so a weights file cannot run code.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from amd_restore.arrays import Array, HostArray, floats, is_floating
from amd_restore.atomic import expanded, write_atomically
from amd_restore.errors import AMDRestoreError
from amd_restore.registry import did_you_mean
from amd_restore.weights.header import Header

if TYPE_CHECKING:
    import torch
    from torch import Tensor

METADATA_KEY = "amd_restore"  # key of the header in the safetensors metadata
DEFAULT_MODEL = "x4-real"
WEIGHTS_FOLDER = Path(__file__).parent


def save_checkpoint(
    path: str | Path, state_dict: Mapping[str, Tensor], header: Header, dtype: torch.dtype | None = None
) -> None:
    """Write weights and header to ``path`` atomically.

    Args:
        path: ends in ``.safetensors``; missing folders are created.
        state_dict: tensors on any device; floating ones are stored as ``dtype``, others unchanged.
        header: header of the file.
        dtype: storage type; None is float16.

    Raises:
        AMDRestoreError: a tensor is not finite in ``dtype``, or the file cannot be written.
    """
    import torch
    from safetensors.torch import save as to_bytes

    dtype = dtype or torch.float16
    tensors = {}
    for key, value in state_dict.items():
        tensor = value.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.to(dtype)
            if not torch.isfinite(tensor).all():
                raise AMDRestoreError(f"{path}: '{key}' is not finite as {dtype}; nothing was written")
        # Clone, because safetensors refuses tensors that share memory.
        tensors[key] = tensor.contiguous().clone()
    write_atomically(path, to_bytes(tensors, metadata={METADATA_KEY: header.to_json()}))


def read_header(path: str | Path) -> Header:
    """Read the header of a weights file; errors as :func:`load_checkpoint`."""
    return _read(Path(path), None)[0]


def load_checkpoint(path: str | Path) -> tuple[Header, dict[str, Tensor]]:
    """Read header and tensors of a weights file, floating tensors as float32 on the CPU.

    Raises:
        AMDRestoreError: the file is missing, truncated or not a safetensors file, or has no valid header.
    """
    return _read(Path(path), "pt")


def load_arrays(path: str | Path) -> tuple[Header, dict[str, HostArray]]:
    """:func:`load_checkpoint` with NumPy arrays, without torch.

    Raises:
        AMDRestoreError: as there, or a tensor of a type that NumPy does not have.
    """
    return _read(Path(path), "numpy")


def released_models() -> dict[str, Path]:
    """Return the released models in the package by name."""
    return {path.stem: path for path in sorted(WEIGHTS_FOLDER.glob("*.safetensors"))}


def resolve_weights(name_or_path: str | Path = DEFAULT_MODEL) -> Path:
    """Return the weights file of a released name, a file, or a folder with exactly one ``.safetensors``.

    Raises:
        AMDRestoreError: no such file or released name; the message has the nearest one.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise AMDRestoreError(f"weights are named by a released model or a path, not by {type(name_or_path).__name__}")
    released = released_models()
    if str(name_or_path) in released:
        return released[str(name_or_path)]
    path = expanded(name_or_path)
    if path.is_file():
        return path
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise AMDRestoreError(
                f"{path}: holds {len(found)} .safetensors files where one is expected; name the file itself"
            )
        return found[0]
    raise _missing(path)


def _read(path: Path, framework: str | None) -> tuple[Header, dict[str, Any]]:
    """Header and tensors of a file, as tensors (``pt``) or arrays (``numpy``); None reads the header only."""
    if not path.is_file():
        raise _missing(path)
    tensors: dict[str, Any] = {}
    try:
        with safe_open(path, framework=framework or "numpy") as file:
            metadata = file.metadata() or {}
            if framework:
                tensors = {key: _to_float32(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    except TypeError as error:  # NumPy has no bfloat16.
        raise AMDRestoreError(f"{path}: {error}; install torch to read it: pip install 'amd-restore[torch]'") from error
    except (SafetensorError, OSError) as error:
        raise AMDRestoreError(
            f"{path}: not a complete safetensors file ({error}); download or copy it again "
            "(.pth and .ckpt files are not read: they could run code)"
        ) from error
    if METADATA_KEY not in metadata:
        raise AMDRestoreError(
            f"{path}: has no '{METADATA_KEY}' header; use weights exported by amd_restore's save_checkpoint"
        )
    try:
        return Header.from_json(metadata[METADATA_KEY]), tensors
    except AMDRestoreError as error:
        raise AMDRestoreError(f"{path}: {error}") from error


def _missing(path: Path) -> AMDRestoreError:
    is_file = path.suffix or len(path.parts) > 1
    files = [file.name for file in path.parent.glob("*.safetensors")] if is_file else []
    what = "no such weights file" if is_file else "no released model has this name"
    return AMDRestoreError(f"{path}: {what}; {did_you_mean(path.name, [*released_models(), *files])}")


def _to_float32(tensor: Array) -> Array:
    return floats(tensor) if is_floating(tensor) else tensor
