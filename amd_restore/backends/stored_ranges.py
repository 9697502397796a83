"""Ranges of the values in each convolution, which 8-bit arithmetic needs: those in the package, and the user's own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from amd_restore.arrays import Array, host
from amd_restore.atomic import expanded, write_atomically
from amd_restore.backends.graph import Ranges
from amd_restore.errors import AMDRestoreError
from amd_restore.weights import Header

RANGES_FOLDER = Path(__file__).parent / "ranges"


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/amd_restore/ranges``, or ``~/.cache/amd_restore/ranges``; it may not exist yet.

    Raises:
        AMDRestoreError: the user has no home folder.
    """
    folder = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if not folder.is_absolute():
        raise AMDRestoreError("no home folder to keep files in; set HOME or XDG_CACHE_HOME")
    return folder / "amd_restore" / "ranges"


def weights_digest(state_dict: Mapping[str, Array]) -> str:
    """Return the SHA-256 of names and float32 values in hexadecimal, independent of the file."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(host(state_dict[name]), np.float32).tobytes())
    return digest.hexdigest()


def find_ranges(header: Header, state_dict: Mapping[str, Array]) -> Ranges:
    """Return the ranges of these weights: from the package, else from an earlier export.

    Raises:
        AMDRestoreError: the weights were never calibrated; the message says how to do it.
    """
    digest = weights_digest(state_dict)
    places = sorted(RANGES_FOLDER.glob("*.json"))
    with contextlib.suppress(AMDRestoreError):  # Without a home folder only those in the package are available.
        places.append(_kept(digest))
    for path in places:
        if path.is_file():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["weights"] == digest:
                return {place: (float(low), float(high)) for place, (low, high) in stored["ranges"].items()}
    raise AMDRestoreError(
        f"{header.name}: no int8 ranges for these weights; measure them once with "
        "'amd-restore export --model WEIGHTS -o FILE.onnx --dtype int8 --calibration FOLDER_OF_PHOTOGRAPHS'"
    )


def keep_ranges(state_dict: Mapping[str, Array], ranges: Ranges, path: Path | None = None) -> Path:
    """Save ranges in the user's cache, read by :func:`find_ranges`, or at ``path``; return the file."""
    digest = weights_digest(state_dict)
    rounded = {place: [round(low, 4), round(high, 4)] for place, (low, high) in ranges.items()}
    path = path or _kept(digest)
    write_atomically(path, (json.dumps({"weights": digest, "ranges": rounded}, indent=0) + "\n").encode())
    return path


def _kept(digest: str) -> Path:
    return cache_folder() / f"{digest[:16]}.ranges.json"
