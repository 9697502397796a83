"""A fixed image by which devices, arithmetics and backends are tried, and what is to be said of the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from amd_restore.arrays import Array, HostArray, floats, host
from amd_restore.backends.runtime import GraphNetwork
from amd_restore.inference.call_options import WindowOptions
from amd_restore.inference.flaws import flaw_of
from amd_restore.inference.window import WindowRestorer
from amd_restore.weights import Header

if TYPE_CHECKING:
    import torch
    from torch import nn

# Largest difference that a value may have from float32 of the CPU, in 1/255. Wrong kernels differ by far more, rounding
# (TF32 of CUDA included) by less.
TOLERANCES = {"fp32": 1.0, "bf16": 6.0, "int8": 24.0}


def fixed_image(side: int) -> HostArray:
    """Coloured rings that grow finer outwards, and a vertical edge: (1, 3, side, side) in [0, 1]."""
    x = np.arange(side, dtype=np.float32)
    squares = (x - side / 3) ** 2
    phases = np.arange(3, dtype=np.float32).reshape(3, 1, 1)
    rings = np.sin(1.5 * (squares[:, None] + squares) / side + phases)
    return (0.5 + rings * np.where(x > 0.7 * side, np.float32(0.4), np.float32(0.24)))[None]


def restoration(
    header: Header,
    net: nn.Module | GraphNetwork,
    device: torch.device | None,
    dtype: torch.dtype | None,
    lq: Array,
) -> Callable[[], HostArray]:
    """A call without arguments that restores ``lq`` by ``net`` and waits for the result, on the CPU.

    Args:
        header: of the network.
        net: a module of torch, moved to ``device``, or a graph.
        device, dtype: as in :class:`~amd_restore.inference.window.WindowRestorer`; without meaning for a graph.
        lq: (1, 3, H, W) in [0, 1].
    """
    if isinstance(net, GraphNetwork):
        device = dtype = None
    restorer: WindowRestorer = WindowRestorer(header, net, None, device, dtype, lambda: restorer)
    return lambda: host(floats(restorer(lq, 0, 0, WindowOptions(header.default_steps, (0,)))))


def difference(sr: HostArray, expected: HostArray) -> float:
    """Largest difference between two results, clamped as in a file, in 1/255."""
    return 255 * float(np.abs(sr.clip(0, 1) - expected.clip(0, 1)).max())


def fault_of(sr: HostArray, lq: HostArray, expected: HostArray, dtype: str) -> str | None:
    """Why ``sr`` is not right, in words; None if it is.

    Args:
        sr: the result (1, 3, scale H, scale W).
        lq: its input.
        expected: that of the CPU in float32.
        dtype: one of :data:`TOLERANCES`.
    """
    off = difference(sr, expected)
    return flaw_of(sr, lq) or (f"off by {off:.0f}/255" if off > TOLERANCES[dtype] else None)


def first_line(error: BaseException) -> str:
    """What ``error`` says, in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
