"""Steps after the network, one interface for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from amd_restore.arrays import Array


class PostProcess(Protocol):
    """Changes a restored window, given the window of ``lq`` that it came from.

    Windows are tensors where torch computes the network, and NumPy arrays with other backends.

    Attributes:
        halo: pixels of ``lq`` by which a window must be larger than what is kept of it, at every side that is not
            an edge of the picture; then windows give what the whole picture gives.
    """

    @property
    def halo(self) -> int: ...

    def __call__(self, sr: Array, lq: Array, top: int = 0, left: int = 0) -> Array:
        """Process one window.

        Args:
            sr: (B, 3, scale h, scale w).
            lq: (B, 3, h, w) in [0, 1].
            top, left: position of ``lq`` in its picture.

        Returns:
            The shape of ``sr``.
        """
        ...


class Chain:
    """Several steps in turn, itself a :class:`PostProcess`; none at all changes nothing."""

    def __init__(self, steps: Sequence[PostProcess]) -> None:
        self.steps = tuple(steps)

    @property
    def halo(self) -> int:
        """The halos of all steps together, for each works on what the one before it has done."""
        return sum(step.halo for step in self.steps)

    def __call__(self, sr: Array, lq: Array, top: int = 0, left: int = 0) -> Array:
        for step in self.steps:
            sr = step(sr, lq, top, left)
        return sr
