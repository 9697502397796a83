"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from amd_restore.errors import AMDRestoreError


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` through a temporary file in the same folder, fsync and rename.

    Folders on the way are made. Whatever goes wrong, an older file at ``path`` stays as it was and no
    temporary file is left.

    Raises:
        AMDRestoreError: the folder or the file cannot be written; names the path and the reason.
    """
    path = Path(path)
    with user_error(f"cannot write {path}", "choose another output folder or free some space"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        # The suffix keeps a leftover (power cut) from being taken for an image or a checkpoint.
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


@contextlib.contextmanager
def user_error(what: str, advice: str) -> Iterator[None]:
    """Turn an ``OSError`` of the body into one line, ``what: reason; advice``.

    Raises:
        AMDRestoreError: in place of the ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise AMDRestoreError(f"{what}: {(error.strerror or str(error)).lower()}; {advice}") from error


def _umask() -> int:
    # There is no other way to ask for it; set it back at once.
    mask = os.umask(0)
    os.umask(mask)
    return mask
