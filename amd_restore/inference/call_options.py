"""What a call of the pipeline can ask for, and what it refuses in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from amd_restore.errors import AMDRestoreError
from amd_restore.inference.fidelity import noise_level

if TYPE_CHECKING:
    from amd_restore.inference.post import PostProcess


def check_image(lq: Tensor) -> None:
    """Refuse what is no batch of RGB images (B, 3, H, W) in [0, 1].

    Raises:
        AMDRestoreError: says what it is instead.
    """
    if not isinstance(lq, Tensor) or lq.ndim != 4 or lq.shape[1] != 3 or lq.numel() == 0:
        shape = tuple(lq.shape) if isinstance(lq, Tensor) else type(lq).__name__
        raise AMDRestoreError(f"lq must be a tensor of shape (B, 3, H, W), not {shape}")
    if not lq.is_floating_point():
        raise AMDRestoreError(f"lq must be floating, in [0, 1], not {lq.dtype}; divide bytes by 255")
    low, high = (float(x) for x in lq.aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also catches NaN
        raise AMDRestoreError(f"lq must lie in [0, 1], but spans {low:.3g} to {high:.3g}")


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Say what helps when memory runs out, whichever way the device puts it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        wordings = ("allocate memory", "out of memory")
        if not isinstance(error, MemoryError) and not any(wording in str(error) for wording in wordings):
            raise
        raise AMDRestoreError("out of memory; use tiles (or smaller ones): tile=256 or less") from error


@dataclass(frozen=True)
class CallOptions:
    """Options of :meth:`RestorationPipeline.__call__`, by the same names."""

    num_steps: int | None = None
    seed: int | Sequence[int] = 0
    tile: int | None = None
    halo: int | None = None
    max_memory: float | None = None
    fidelity: float = 0.0
    tta: bool = False
    post: PostProcess | None = None
    progress: Callable[[int, int], None] | None = None

    def check(self, num_steps: int) -> None:
        """Refuse what is out of range.

        Raises:
            AMDRestoreError: names the option.
        """
        if num_steps < 1:
            raise AMDRestoreError(f"the number of steps must be at least 1, got {num_steps}")
        if self.tile is not None and self.tile < 0:
            raise AMDRestoreError(f"tile must be 0 (none) or a number of pixels, got {self.tile}")
        if self.halo is not None and self.halo < 0:
            raise AMDRestoreError(f"halo must not be negative, got {self.halo}")
        if self.max_memory is not None and not self.max_memory > 0:
            raise AMDRestoreError(f"max_memory must be a number of bytes, got {self.max_memory}")
        noise_level(self.fidelity)

    def seeds(self, count: int) -> list[int]:
        """One for each of ``count`` images.

        Raises:
            AMDRestoreError: there are more or fewer.
        """
        if not isinstance(self.seed, Sequence):
            return list(range(self.seed, self.seed + count))
        if len(self.seed) != count:
            raise AMDRestoreError(f"{len(self.seed)} seeds were given for {count} images")
        return list(self.seed)
