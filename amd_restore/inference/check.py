"""Whether a device of torch computes the right images: a wrong one is not used.

A device is judged by a fixed image that `x4-real` restores, beside what the CPU gives in float32.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from amd_restore.errors import AMDRestoreError, note
from amd_restore.inference.trial import fault_of, first_line, fixed_image, restoration
from amd_restore.precision import CPU, present_devices, resolve_device, resolve_dtype
from amd_restore.weights import DEFAULT_MODEL, Header, build_network, load_checkpoint, resolve_weights

_SIDE = 16  # of the image that judges a device before its first use


def default_weights() -> tuple[Header, dict[str, Tensor]]:
    """The model that judges a device."""
    return load_checkpoint(resolve_weights(DEFAULT_MODEL))


@functools.cache  # for this process only: the next one may have another driver
def device_fault(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why ``device`` is not to be used in this arithmetic, in words; None if it computes the right image."""
    header, state_dict = default_weights()
    lq = fixed_image(_SIDE)
    expected = restoration(header, build_network(header, state_dict), CPU, torch.float32, lq)()
    try:
        sr = restoration(header, build_network(header, state_dict), device, dtype, lq)()
    except RuntimeError as error:  # no kernel for this device, or no memory
        return first_line(error)
    return fault_of(sr, lq, expected, "bf16" if dtype == torch.bfloat16 else "fp32")


def sound_device(device: str | torch.device, dtype: str | torch.dtype = "auto") -> torch.device:
    """The device of that name, or the first one that computes right images; the CPU needs no check.

    Args:
        device: its name; ``auto`` passes over devices that are wrong, with a line on standard error for each.
        dtype: arithmetic in which it will be used.

    Raises:
        AMDRestoreError: the device of that name is not there, or wrong.
    """
    if str(device) != "auto":
        found = resolve_device(device)
        if found.type != "cpu" and (fault := device_fault(found, resolve_dtype(dtype, found))):
            raise AMDRestoreError(
                f"device '{device}' gives wrong images ({fault}); use auto or cpu, or another dtype; "
                "amd-restore doctor says more"
            )
        return found
    for found in present_devices():
        if found.type == "cpu" or not (fault := device_fault(found, resolve_dtype(dtype, found))):
            return found
        note(f"{found} gives wrong images ({fault}) and is not used; amd-restore doctor says more")
    return CPU
