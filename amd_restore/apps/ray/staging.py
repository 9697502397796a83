"""A restorer whose files may lie in a store: they are copied to this machine first, and back at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from amd_restore.apps.files.outcome import Outcome
from amd_restore.apps.files.plan import Job
from amd_restore.apps.files.restorer import Finish, Restorer, Source
from amd_restore.apps.files.settings import Settings
from amd_restore.apps.ray.plan import ClusterJob
from amd_restore.apps.ray.storage import fetch, is_url, put
from amd_restore.atomic import try_lock
from amd_restore.errors import AMDRestoreError

_PREFIX, _LOCK = "amd-restore-stage-", "lock"


@dataclass(frozen=True)
class Staged:
    """Where the files of one picture are while it is restored.

    Args:
        item: as the user knows it.
        job: the files on this machine.
        folder: with them, to be removed at the end; None if nothing is copied.
    """

    item: ClusterJob
    job: Job
    folder: Path | None

    def named(self, message: str) -> str:
        """``message`` with the names that the user knows."""
        for local, name in ((self.job.source, self.item.source), (self.job.target, self.item.target)):
            message = message.replace(str(local), name)
        return message

    def remove(self) -> None:
        """Remove the copies."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


class StagedRestorer(Restorer):
    """Restores pictures wherever they are, as :class:`Restorer` does those on this machine.

    Raises:
        AMDRestoreError: see :class:`Restorer`.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        _remove_leftovers()
        self._folder: tuple[Path, IO[bytes]] | None = None
        self._staged: dict[Job, Staged] = {}
        self._count = 0

    def stage(self, item: ClusterJob) -> Staged:
        """Choose files on this machine for ``item``; nothing is copied yet."""
        source, target, folder = Path(item.source), Path(item.target), None
        if is_url(item.source) or is_url(item.target):
            self._count += 1
            self._folder = self._folder or _make_folder()
            folder = self._folder[0] / str(self._count)
            if is_url(item.source):
                source = folder / "in" / _last(item.source)
            if is_url(item.target):
                target = folder / "out" / _last(item.target)
        staged = Staged(item, Job(source, target), folder)
        self._staged[staged.job] = staged
        return staged

    def release(self, staged: Staged) -> None:
        """Forget a picture and remove its copies."""
        self._staged.pop(staged.job, None)
        staged.remove()

    def read(self, job: Job) -> Source:
        """Fetch the picture, then read it; never raises."""
        item = self._staged[job].item
        if not is_url(item.source):
            return super().read(job)
        start = time.perf_counter()
        try:
            job.source.parent.mkdir(parents=True, exist_ok=True)
            fetch(item.source, job.source)
        except (AMDRestoreError, OSError) as error:
            return Source(job, None, 0.0, Outcome(job, "failed", str(error), error=error))
        seconds = time.perf_counter() - start
        source = super().read(job)
        return dataclasses.replace(source, seconds=source.seconds + seconds)

    def restore(self, group: Sequence[Source], progress: Callable[[int, int], None] | None = None) -> list[Finish]:
        """As in the base class; what comes back also sends what was written."""
        finished = super().restore(group, progress)
        return [self._sending(source.job, write) for source, write in zip(group, finished, strict=True)]

    def _sending(self, job: Job, write: Finish) -> Finish:
        staged = self._staged[job]
        if not is_url(staged.item.target):
            return write

        def write_and_send() -> tuple[int, int]:
            size = write()
            place = staged.item.target.rpartition("/")[0]
            # The picture itself goes last: where it is there, all is there.
            for path in sorted(job.target.parent.iterdir(), key=lambda path: (path == job.target, path.name)):
                put(path, f"{place}/{path.name}")
            return size

        return write_and_send


def _last(url: str) -> str:
    return url.rpartition("/")[2]


def _make_folder() -> tuple[Path, IO[bytes]]:
    """A folder for copies, and the lock on it, which ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = open(folder / _LOCK, "wb")
    try_lock(lock)
    return folder, lock


def _remove_leftovers() -> None:
    """Remove copies that killed workers left on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), open(folder / _LOCK, "rb") as lock:  # else another user's
            if try_lock(lock):
                shutil.rmtree(folder, ignore_errors=True)
