"""Folder beside an output for its finished segments."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
from pathlib import Path
from typing import IO, Any

from amd_restore.atomic import real_target, take_mode, try_lock, user_error, write_atomically
from amd_restore.errors import AMDRestoreError

_OURS = re.compile(r"segment-\d{6}|job\.json|list\.txt|[0-9a-f]{16}\.part|\.amd-restore-.*\.part")


class WorkFolder:
    """Folder ``.NAME.amd-restore`` beside the output ``NAME``, locked by one process at a time.

    The context locks it, and clears it if it belongs to another job (other source, model or options). It remains
    afterwards for the next run, unless :meth:`remove` was called.

    Args:
        target: output, or the file behind a link.
        job: everything that determines the segments, as plain values.

    Raises:
        AMDRestoreError: another process makes the same output, the folder cannot be written, or the output is not
            a regular file.
    """

    def __init__(self, target: Path, job: dict[str, Any]) -> None:
        with user_error(f"cannot write {target}", "name another output"):
            self.target, old = real_target(target)
            if old is not None and not stat.S_ISREG(old.st_mode):
                raise OSError(0, "it is no ordinary file")
        name = f".{self.target.name}.amd-restore"
        if len(os.fsencode(name)) > 255:  # limit of file systems
            name = f".{hashlib.sha256(os.fsencode(self.target.name)).hexdigest()[:32]}.amd-restore"
        self.path = self.target.with_name(name)
        self.cleared = False  # whether segments of another job were deleted
        self._job = json.dumps(job, sort_keys=True, indent=1)
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> WorkFolder:
        with user_error(f"cannot write {self.path}", "choose another output folder or free some space"):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / "lock", "wb")
            if try_lock(self._lock) is False:
                self._lock.close()
                raise AMDRestoreError(f"{self.target}: another process is making it; wait or stop it")
            self._adopt()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._lock is not None
        self._lock.close()

    def segment(self, index: int) -> Path:
        """Return the file of a segment, which exists only if complete."""
        return self.path / f"segment-{index:06d}"

    def finished(self) -> int:
        """Return the number of complete segments, from the first on."""
        count = 0
        while self.segment(count).exists():
            count += 1
        return count

    def part(self) -> Path:
        """Return a new file name to write to, because a killed run's encoder may still write its file."""
        return self.path / f"{secrets.token_hex(8)}.part"

    def publish(self, part: Path, path: Path) -> None:
        """Turn a part into a complete file, safe against a power failure."""
        with user_error(f"cannot write {path}", "choose another output folder or free some space"):
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
            take_mode(part, real_target(path)[1])
            os.replace(part, path)

    def remove(self) -> None:
        """Remove our files and, without other files in it, the folder."""
        self._clear(everything=True)
        with contextlib.suppress(OSError):
            (self.path / "lock").unlink()
            self.path.rmdir()

    def _adopt(self) -> None:
        """Keep the segments of this job and delete all others."""
        job = self.path / "job.json"
        try:
            same = job.read_text(encoding="utf-8") == self._job
        except FileNotFoundError:
            same = False
        self.cleared = not same and self.segment(0).exists()
        self._clear(everything=not same)
        if not same:
            write_atomically(job, self._job.encode())

    def _clear(self, everything: bool) -> None:
        for file in list(self.path.iterdir()):
            if _OURS.fullmatch(file.name) and (everything or file.suffix == ".part"):
                file.unlink(missing_ok=True)


def remove_leftovers(target: Path) -> None:
    """Remove the work folder of a run that was killed right after completing its output."""
    work = WorkFolder(target, {})
    with contextlib.suppress(FileNotFoundError):
        # An older output means that the run was about to replace it, so its segments are needed.
        if work.target.stat().st_mtime_ns >= (work.path / "list.txt").stat().st_mtime_ns:
            work.remove()
