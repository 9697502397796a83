"""Cache of graphs: one file for each set of weights, form and version of the graph."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from amd_restore.atomic import expanded, write_atomically
from amd_restore.errors import AMDRestoreError


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/amd_restore/graphs``, or ``~/.cache/amd_restore/graphs``; it may not exist yet.

    Raises:
        AMDRestoreError: the user has no home folder.
    """
    folder = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if not folder.is_absolute():
        raise AMDRestoreError("no home folder to keep files in; set HOME or XDG_CACHE_HOME")
    return folder / "amd_restore" / "graphs"


def cached(key: str, make: Callable[[], bytes]) -> bytes:
    """Return the cached bytes of ``key``, or those of ``make``, which are then cached.

    A damaged entry, found by its hash, is made again. Nothing is cached if the folder cannot be written.

    Args:
        key: part of the file name; must contain everything that determines the bytes.
        make: function that makes a missing entry.
    """
    try:
        path = cache_folder() / f"{key}.onnx.cached"
    except AMDRestoreError:
        return make()
    with contextlib.suppress(OSError):
        stored = path.read_bytes()
        if hashlib.sha256(stored[32:]).digest() == stored[:32]:
            return stored[32:]
    data = make()
    with contextlib.suppress(AMDRestoreError):
        write_atomically(path, hashlib.sha256(data).digest() + data)
    return data
