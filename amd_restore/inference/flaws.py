"""What no restored image is: a black or broken result is not taken for one."""

from __future__ import annotations

import numpy as np

from amd_restore.arrays import Array, extremes, host
from amd_restore.errors import AMDRestoreError

_BLACK = 0.5 / 255  # What is below is 0 in a file of 8 bits.
_BRIGHT = 8 / 255  # Night skies may become black: noise is taken from them. An image of this mean must not.


def flaw_of(sr: Array, lq: Array) -> str | None:
    """What no right result is: ``not finite``, or ``black`` where the input is not; None for all else.

    Args:
        sr: (B, 3, scale H, scale W).
        lq: (B, 3, H, W) in [0, 1], on any device.
    """
    low, high = extremes(sr)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return "not finite"
    return "black" if bool(((high < _BLACK) & (host(lq.mean((1, 2, 3))) > _BRIGHT)).any()) else None


def check_restored(sr: Array, lq: Array) -> None:
    """Refuse a result that :func:`flaw_of` finds wrong.

    Raises:
        AMDRestoreError: says what is wrong and what helps.
    """
    if flaw := flaw_of(sr, lq):
        raise AMDRestoreError(
            f"the network's output is {flaw}; try --dtype fp32 or --device cpu, and run amd-restore doctor, which "
            "checks this machine; if all is right there, the weights are damaged"
        )
