"""Whether a device of torch computes the right images: a wrong one is not used.

A device is judged by a fixed image that the default model restores, beside what the CPU gives in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from amd_restore.arrays import placed
from amd_restore.backends.runtime import GraphNetwork
from amd_restore.errors import AMDRestoreError, note
from amd_restore.inference.call_options import WindowOptions
from amd_restore.inference.flaws import flaw_of
from amd_restore.inference.window import WindowRestorer
from amd_restore.precision import CPU, present_devices, resolve_device, resolve_dtype
from amd_restore.weights import DEFAULT_MODEL, Header, build_network, load_checkpoint, resolve_weights

# Largest difference that a value may have from float32 of the CPU, in 1/255. Wrong kernels differ by far more, rounding
# (TF32 of CUDA included) by less.
TOLERANCES = {"fp32": 1.0, "bf16": 6.0, "int8": 24.0}
_SIDE = 16  # of the image that judges a device before its first use


def default_weights() -> tuple[Header, dict[str, Tensor]]:
    """The model that judges a device."""
    return load_checkpoint(resolve_weights(DEFAULT_MODEL))


def fixed_image(side: int) -> Tensor:
    """Coloured rings that grow finer outwards, and a vertical edge: (1, 3, side, side) in [0, 1]."""
    x = torch.arange(side, dtype=torch.float32, device="cpu")
    squares = (x - side / 3) ** 2
    phases = torch.arange(3, dtype=torch.float32, device="cpu").view(3, 1, 1)
    rings = torch.sin(1.5 * (squares[:, None] + squares) / side + phases)
    return (0.5 + rings * torch.where(x > 0.7 * side, 0.4, 0.24))[None]


def restoration(
    header: Header, net: nn.Module | GraphNetwork, device: torch.device, dtype: torch.dtype, lq: Tensor
) -> Callable[[], Tensor]:
    """A call without arguments that restores ``lq`` by ``net`` and waits for the result, on the CPU.

    Args:
        header: of the network.
        net: a module of torch, moved to ``device``, or a graph.
        device, dtype: as in :class:`~amd_restore.inference.window.WindowRestorer`.
        lq: (1, 3, H, W) in [0, 1].
    """
    graph = isinstance(net, GraphNetwork)
    restorer: WindowRestorer = WindowRestorer(
        header, net, None, None if graph else device, None if graph else dtype, lambda: restorer
    )
    return lambda: placed(restorer(lq, 0, 0, WindowOptions(header.default_steps, (0,))), lq)


def difference(sr: Tensor, expected: Tensor) -> float:
    """Largest difference between two results, clamped as in a file, in 1/255."""
    return 255 * float((sr.clamp(0, 1) - expected.clamp(0, 1)).abs().max())


def fault_of(sr: Tensor, lq: Tensor, expected: Tensor, dtype: str) -> str | None:
    """Why ``sr`` is not right, in words; None if it is.

    Args:
        sr: the result (1, 3, scale H, scale W).
        lq: its input.
        expected: that of the CPU in float32.
        dtype: one of :data:`TOLERANCES`.
    """
    off = difference(sr, expected)
    return flaw_of(sr, lq) or (f"off by {off:.0f}/255" if off > TOLERANCES[dtype] else None)


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


def first_line(error: BaseException) -> str:
    """What ``error`` says, in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


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
