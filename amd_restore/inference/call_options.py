"""Arguments of a call of the pipeline: their checks, one line each, before any work."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from amd_restore.arrays import Array, is_array, is_floating
from amd_restore.errors import AMDRestoreError
from amd_restore.inference.fidelity import noise_level

if TYPE_CHECKING:
    from amd_restore.inference.post import PostProcess

Seeds = int | Sequence[int]


def check_image(lq: Array) -> None:
    """Refuse what is no batch of RGB images (B, 3, H, W) in [0, 1].

    Raises:
        AMDRestoreError: says what it is instead.
    """
    if not is_array(lq) or lq.ndim != 4 or lq.shape[1] != 3 or 0 in lq.shape:
        shape = tuple(lq.shape) if is_array(lq) else type(lq).__name__
        raise AMDRestoreError(
            f"lq must be a tensor or an array of shape (B, 3, H, W), not {shape}; restore_image takes one image as an "
            "array (H, W, C), such as numpy.asarray of a PIL image"
        )
    if not is_floating(lq):
        raise AMDRestoreError(f"lq must be floating, in [0, 1], not {lq.dtype}; divide bytes by 255")
    low, high = float(lq.min()), float(lq.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also catches NaN
        raise AMDRestoreError(f"lq must lie in [0, 1], but spans {low:.3g} to {high:.3g}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, whichever way a library puts it."""
    wordings = ("allocate memory", "out of memory", "insufficient memory")
    return isinstance(error, MemoryError) or any(wording in str(error).lower() for wording in wordings)


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Say what helps when memory runs out, whichever way the device puts it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise AMDRestoreError("out of memory; use tiles (or smaller ones): tile=256 or less") from error


@dataclass(frozen=True)
class WindowOptions:
    """How the windows of an image are restored.

    Args:
        num_steps: network evaluations.
        seeds: of the images in the batch.
        fidelity, tta, post: see :meth:`RestorationPipeline.__call__ <amd_restore.RestorationPipeline.__call__>`.
    """

    num_steps: int
    seeds: tuple[int, ...]
    fidelity: float = 0.0
    tta: bool = False
    post: PostProcess | None = None


@dataclass(frozen=True)
class CallOptions:
    """Options of :meth:`RestorationPipeline.__call__ <amd_restore.RestorationPipeline.__call__>`, by the same names.

    Raises:
        AMDRestoreError: one is out of its range or of another type; names it.
    """

    num_steps: int | None = None
    seed: Seeds = 0
    tile: int | None = None
    halo: int | None = None
    max_memory: float | None = None
    fidelity: float = 0.0
    tta: bool = False
    post: PostProcess | None = None
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        if self.num_steps is not None and whole_number("the number of steps", self.num_steps) < 1:
            raise AMDRestoreError(f"the number of steps must be at least 1, got {self.num_steps}")
        if self.tile is not None and whole_number("tile", self.tile) < 0:
            raise AMDRestoreError(f"tile must be 0 (none) or a number of pixels, got {self.tile}")
        if self.halo is not None and whole_number("halo", self.halo) < 0:
            raise AMDRestoreError(f"halo must not be negative, got {self.halo}")
        if self.max_memory is not None and not (isinstance(self.max_memory, Real) and self.max_memory > 0):
            raise AMDRestoreError(f"max_memory must be a number of bytes, as 2**30, got {self.max_memory!r}")
        if not isinstance(self.fidelity, Real):
            raise AMDRestoreError(f"fidelity must be a number from 0 to 1, got {self.fidelity!r}")
        noise_level(self.fidelity)
        if not isinstance(self.tta, bool | np.bool_):
            raise AMDRestoreError(f"tta must be True or False, got {self.tta!r}")
        for name in ("post", "progress"):
            if (value := getattr(self, name)) is not None and not callable(value):
                raise AMDRestoreError(f"{name} must be a function, got {value!r}")

    def of_windows(self, default_steps: int, count: int) -> WindowOptions:
        """What each window of ``count`` images needs; ``default_steps`` are taken where no number of steps is named.

        Raises:
            AMDRestoreError: no seed, or another number of seeds than images.
        """
        steps = default_steps if self.num_steps is None else int(self.num_steps)
        return WindowOptions(steps, seeds_of(self.seed, count), float(self.fidelity), self.tta, self.post)


def seeds_of(seed: Any, count: int) -> tuple[int, ...]:
    """One seed for each of ``count`` images: ``seed``, ``seed + 1`` ..., or those given.

    Raises:
        AMDRestoreError: one is no whole number, or another number of seeds than images.
    """
    if is_array(seed) and seed.ndim == 1:
        seed = seed.tolist()
    if not isinstance(seed, Sequence) or isinstance(seed, str | bytes):
        first = whole_number("seed", seed)
        return tuple(range(first, first + count))
    if len(seed) != count:
        raise AMDRestoreError(f"{len(seed)} seeds were given for {count} images")
    return tuple(whole_number("seed", one) for one in seed)


def whole_number(name: str, value: Any) -> int:
    """``value`` as an int, from Python, NumPy or torch; floats and bools are refused.

    Raises:
        AMDRestoreError: it is none; calls it ``name``.
    """
    if not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError):
            return operator.index(value)
    raise AMDRestoreError(f"{name} must be a whole number, got {value!r}")
