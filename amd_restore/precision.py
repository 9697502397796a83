"""Which devices there are, and which arithmetic they really have."""

from __future__ import annotations

import torch

from amd_restore.errors import AMDRestoreError

CPU = torch.device("cpu")
_NAMES = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
}


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` multiplies in bfloat16; emulating it is slower than float32.

    A processor that has the instructions counts only where oneDNN and PyTorch's own kernels may use them
    (``ONEDNN_MAX_CPU_ISA``, ``ATEN_CPU_CAPABILITY``).
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # older ones only emulate it
    if device.type != "cpu" or "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    # These are private names, hence the care.
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(probe is not None and probe() for probe in probes) and convolves_in_bfloat16(device)


def convolves_in_bfloat16(device: torch.device) -> bool:
    """Whether convolutions on ``device`` read bfloat16 as it is, be it slowly.

    oneDNN does so on any processor with AVX-512. Where it does not, PyTorch unfolds the input, which takes memory.
    """
    if device.type != "cpu":
        return has_bfloat16(device)
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # private, and absent without oneDNN
    return bool(supported()) if supported is not None else "AVX512" in torch.backends.cpu.get_cpu_capability()


def present_devices() -> list[torch.device]:
    """The devices of this machine, those first that ``auto`` prefers; the CPU is the last."""
    several = {"cuda": torch.cuda, "xpu": torch.xpu}
    counts = {name: kind.device_count() if kind.is_available() else 0 for name, kind in several.items()}
    counts |= {"mps": int(torch.backends.mps.is_available()), "cpu": 1}
    return [torch.device(f"{name}:{i}" if i else name) for name, count in counts.items() for i in range(count)]


def resolve_device(device: str | torch.device) -> torch.device:
    """The device of this name.

    Raises:
        AMDRestoreError: it is not there.
    """
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    # PyTorch raises these for an unknown name, a build without CUDA, a backend without memory, and no name at all.
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise AMDRestoreError(f"device '{device}' is not available here; use auto or cpu") from error
    return found


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The arithmetic meant by ``auto``: bfloat16 where the hardware multiplies in it, else float32.

    Raises:
        AMDRestoreError: neither ``auto`` nor float32 nor bfloat16.
    """
    dtype = _NAMES.get(str(dtype), dtype)
    if dtype == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    if dtype not in (torch.float32, torch.bfloat16):
        raise AMDRestoreError(f"dtype must be auto, float32 or bfloat16, not {dtype}")
    assert isinstance(dtype, torch.dtype)
    return dtype
