"""The two things these scripts take from BasicSR: its MATLAB-like bicubic downscaling and its LMDB layout."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from amd_restore import compat
from amd_restore.errors import AMDRestoreError
from tools.image_files import sha256

_STAMP = "content.sha256"


def require_basicsr() -> None:
    """Raise AMDRestoreError unless BasicSR and lmdb can be imported (mended for current torchvision)."""
    compat.patch()
    try:
        import basicsr.utils.lmdb_util  # noqa: F401
        import basicsr.utils.matlab_functions  # noqa: F401
    except ImportError as error:
        raise AMDRestoreError(f"--scale and --lmdb need BasicSR ({error}): install the extra 'train'") from error


def bicubic_downscale(image: np.ndarray, scale: int) -> np.ndarray:
    """MATLAB-like antialiased bicubic downscaling, BasicSR's ``imresize``.

    Args:
        image: uint8, (H, W, 3), sides divisible by `scale`.
        scale: Downscaling factor.

    Returns:
        uint8, (H / scale, W / scale, 3), rounded as MATLAB does when it returns integers.
    """
    from basicsr.utils.matlab_functions import imresize

    small = imresize(image.astype(np.float32) / 255.0, 1.0 / scale)
    return np.clip(np.round(small * 255.0), 0, 255).astype(np.uint8)


def write_lmdb(folder: Path, checksums: Mapping[str, str]) -> bool:
    """Write ``FOLDER.lmdb`` beside a folder of PNG files, as BasicSR's data sets read it.

    Args:
        folder: Folder with the files.
        checksums: File name to SHA-256, of each file to put in. A name without suffix is the key.

    Returns:
        False if a database of exactly these files was there already.
    """
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    target = folder.with_name(folder.name + ".lmdb")
    stamp = sha256("".join(f"{name} {checksums[name]}\n" for name in sorted(checksums)).encode())
    if (target / _STAMP).is_file() and (target / _STAMP).read_text() == stamp:
        return False
    # Built under another name, so that a half database is never taken for a whole one.
    building = folder.with_name(f".{folder.name}.building.lmdb")
    shutil.rmtree(building, ignore_errors=True)
    names = sorted(checksums)
    # BasicSR guesses the room needed from the first image, which may be a flat one. Its PNGs are compressed
    # less than ours; LMDB takes only what it uses.
    room = 4 * sum((folder / name).stat().st_size for name in names) + (64 << 20)
    with contextlib.redirect_stdout(io.StringIO()):
        keys = [Path(name).stem for name in names]
        make_lmdb_from_imgs(str(folder), str(building), names, keys, map_size=room)
    (building / _STAMP).write_text(stamp)
    shutil.rmtree(target, ignore_errors=True)
    building.rename(target)
    return True
