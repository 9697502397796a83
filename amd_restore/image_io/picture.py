"""What an image file holds, in memory, how large that may be, and how to say that it is damaged."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from amd_restore.errors import AMDRestoreError

Pixels = np.ndarray[Any, Any]
DEFAULT_MAX_PIXELS = 200_000_000
_LONGEST = 80
_LOCK = threading.Lock()
_entered: list[contextlib.ExitStack] = []  # what ends the leniency, once for each block that has begun


@dataclass(frozen=True)
class Picture:
    """An image file in memory, upright.

    Args:
        pixels: (H, W, C) uint8, uint16, or float32 in [0, 1]; C is 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha.
            Alpha is not multiplied into the colours.
        icc: colour profile that belongs to ``pixels``.
        exif: EXIF block; it names no orientation, for that has been applied.
        dpi: pixels per inch, (horizontal, vertical).
        signal: primaries and transfer of the colours by ITU-T H.273, where the file has those instead of a profile.
        lost: what the file held, or would have to hold, and the picture does not, by kind.
    """

    pixels: Pixels
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    signal: tuple[int, int] | None = None
    lost: tuple[str, ...] = ()

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return self.pixels.shape[2] in (2, 4)

    def with_pixels(self, pixels: Pixels) -> Picture:
        """The same picture at another size; its resolution changes along, so that it prints as large as before."""
        height, width = pixels.shape[:2]
        dpi = self.dpi
        if dpi is not None:
            dpi = dpi[0] * width / self.pixels.shape[1], dpi[1] * height / self.pixels.shape[0]
        return dataclasses.replace(self, pixels=pixels, dpi=dpi)


def to_depth(pixels: Pixels, dtype: type[np.uint8] | type[np.uint16]) -> Pixels:
    """Pixels as uint8 or uint16, rounded to the nearest; floating ones are taken to lie in [0, 1]."""
    if pixels.dtype == dtype:
        return pixels
    if pixels.dtype.kind == "f":
        highest = np.iinfo(dtype).max
        return (pixels.clip(0, 1) * highest + 0.5).astype(dtype)
    if pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return pixels.astype(np.uint16) * np.uint16(257)


@contextlib.contextmanager
def lenient() -> Iterator[None]:
    """Lift Pillow's own limit on pixels, and its warnings of odd metadata, while at least one block is entered.

    Both are there once for the whole process, while images are read in several threads.
    """
    with _LOCK:
        _entered.append(_entered[0] if _entered else _without_limit())
    try:
        yield
    finally:
        with _LOCK:
            stack = _entered.pop()
            if not _entered:
                stack.close()


def _without_limit() -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    stack.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", module="PIL")
    stack.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    Image.MAX_IMAGE_PIXELS = None
    return stack


def check_size(width: int, height: int, max_pixels: int | None) -> None:
    """Refuse what is too large, before memory is taken for it.

    Raises:
        AMDRestoreError: more than ``max_pixels``, or none.
    """
    if min(width, height) < 1:
        raise AMDRestoreError(f"{width}x{height} pixels: there is no picture in it")
    if max_pixels is not None and width * height > max_pixels:
        size = f"{width}x{height} pixels are {width * height / 1e6:.{1 if width * height >= 1e6 else 6}f} megapixels"
        limit = f"the limit is {max_pixels / 1e6:g} megapixels"
        raise AMDRestoreError(f"{size}, {limit}; raise it with --max-pixels if you trust the file, or cut it up")


def damaged(error: object) -> AMDRestoreError:
    """The error to raise when a decoder fails; its reason is cut to a few words of one line."""
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return AMDRestoreError("there is too little memory to decode it; free some, or cut the picture up")
    reason = " ".join(str(error).split("\n", 1)[0].split()) or type(error).__name__
    reason = reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]}..."
    return AMDRestoreError(f"the image data are truncated or damaged ({reason}); copy it again")
