"""Restorer for files in a store, which are copied to this machine and back."""

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
    """Local files of one image during its restoration.

    Args:
        item: source and target as given by the user.
        job: files on this machine.
        folder: temporary folder of copies; None if nothing is copied.
    """

    item: ClusterJob
    job: Job
    folder: Path | None

    def named(self, message: str) -> str:
        """Return ``message`` with the names given by the user."""
        for local, name in ((self.job.source, self.item.source), (self.job.target, self.item.target)):
            message = message.replace(str(local), name)
        return message

    def remove(self) -> None:
        """Remove the copies."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


class StagedRestorer(Restorer):
    """Restorer of images on this machine or in stores.

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
        """Remove the copies of an image."""
        self._staged.pop(staged.job, None)
        staged.remove()

    def read(self, job: Job) -> Source:
        """Fetch and read the image; never raises."""
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
        """Restore as in the base class; the results also copy written files to their targets."""
        finished = super().restore(group, progress)
        return [self._sending(source.job, write) for source, write in zip(group, finished, strict=True)]

    def _sending(self, job: Job, write: Finish) -> Finish:
        staged = self._staged[job]
        if not is_url(staged.item.target):
            return write

        def write_and_send() -> tuple[int, int]:
            size = write()
            place = staged.item.target.rpartition("/")[0]
            # Send the main image last: its presence marks the job as complete.
            for path in sorted(job.target.parent.iterdir(), key=lambda path: (path == job.target, path.name)):
                put(path, f"{place}/{path.name}")
            return size

        return write_and_send


def _last(url: str) -> str:
    return url.rpartition("/")[2]


def _make_folder() -> tuple[Path, IO[bytes]]:
    """Make a folder for copies, and a lock on it that ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = open(folder / _LOCK, "wb")
    try_lock(lock)
    return folder, lock


def _remove_leftovers() -> None:
    """Remove copies that killed workers left on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), open(folder / _LOCK, "rb") as lock:  # otherwise it belongs to another user
            if try_lock(lock):
                shutil.rmtree(folder, ignore_errors=True)
