"""How large a picture may be, and how to say that one is damaged."""

from __future__ import annotations

from amd_restore.errors import AMDRestoreError

DEFAULT_MAX_PIXELS = 200_000_000
_LONGEST = 80


def check_size(width: int, height: int, max_pixels: int | None) -> None:
    """Refuse what is too large, before memory is taken for it.

    Raises:
        AMDRestoreError: more than ``max_pixels``, or none.
    """
    if min(width, height) < 1:
        raise AMDRestoreError(f"{width}x{height} pixels: there is no picture in it")
    if max_pixels is not None and width * height > max_pixels:
        size = f"{width}x{height} pixels are {width * height / 1e6:.1f} megapixels"
        limit = f"the limit is {max_pixels / 1e6:g} megapixels"
        raise AMDRestoreError(f"{size}, {limit}; raise it with --max-pixels if you trust the file, or cut it up")


def damaged(error: object) -> AMDRestoreError:
    """The error to raise when a decoder fails; its reason is cut to a few words of one line."""
    reason = " ".join(str(error).split("\n", 1)[0].split()) or type(error).__name__
    reason = reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]}..."
    return AMDRestoreError(f"the image data are truncated or damaged ({reason}); copy it again")
