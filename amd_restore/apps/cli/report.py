"""Report of a run: one line for people, one JSON file for programs."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from amd_restore import __version__
from amd_restore.apps.cli.console import STANDARD
from amd_restore.apps.files.outcome import Outcome, Task
from amd_restore.apps.files.plan import is_image_name, omissions
from amd_restore.apps.files.settings import Settings
from amd_restore.atomic import write_atomically
from amd_restore.errors import AMDRestoreError, DeliveryError, write_output


class Report:
    """Collection of outcomes.

    Args:
        settings: settings of the run.
        output: destination as given by the user; a string for a URL.
    """

    def __init__(self, settings: Settings, output: Path | str) -> None:
        self.settings, self.output = settings, output
        self.left_out = Counter[str]()  # other files in the input folder, by kind
        self.cluster: dict[str, Any] = {}  # events of the workers of a cluster
        self.outcomes: list[Outcome] = []
        self._unfinished: list[Task] = []
        self._start = time.perf_counter()

    def add(self, outcome: Outcome) -> None:
        """Add an outcome."""
        self.outcomes.append(outcome)

    def skip(self, jobs: Iterable[Task]) -> None:
        """Add a job as skipped, because all its outputs exist."""
        self.outcomes += [Outcome(job, "skipped") for job in jobs]

    def finish(self, jobs: Iterable[Task]) -> None:
        """Mark jobs without an outcome as not reached."""
        known = {outcome.job for outcome in self.outcomes}
        self._unfinished = [job for job in jobs if job not in known]

    def count(self, status: str) -> int:
        """Return the number of images with this status."""
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def total(self) -> int:
        """Return the number of all images, reached or not."""
        return len(self.outcomes) + len(self._unfinished)

    def summary(self) -> str:
        """Return the summary in one line."""
        restored, skipped, failed = (self.count(status) for status in ("restored", "skipped", "failed"))
        images = "1 image" if self.total == 1 else f"{self.total} images"
        text = f"restored {restored} of {images} into {self._place()} in {time.perf_counter() - self._start:.1f} s"
        not_kept = Counter(kind for outcome in self.outcomes for kind in outcome.lost)
        if skipped:
            text += f", {skipped} skipped (already there; --overwrite replaces them)"
        if tried := self.cluster.get("retries"):
            text += f", {tried} tried again"
        if lost := self.cluster.get("lost_workers"):
            text += f", {lost} worker{'s' if lost > 1 else ''} lost"
        return (
            text
            + (f", {failed} failed" if failed else "")
            + omissions("left out", self.left_out)
            + omissions("not kept", not_kept)
        )

    def write(self, path: Path) -> None:
        """Write the JSON report, see :func:`write_json`."""
        write_json(path, self.record())

    def record(self) -> dict[str, Any]:
        """Return the report as a JSON object with images by name."""
        images = [outcome.record() for outcome in self.outcomes]
        images += [{"source": str(job.source), "target": str(job.target), "status": "open"} for job in self._unfinished]
        counts = {status: self.count(status) for status in ("restored", "skipped", "failed")}
        return {
            "version": __version__,
            "settings": self.settings.record(),
            "seconds": round(time.perf_counter() - self._start, 3),
            "counts": counts | {"open": len(self._unfinished)},
            **({"left_out": dict(+self.left_out)} if +self.left_out else {}),
            **({"cluster": self.cluster} if self.cluster else {}),
            "images": sorted(images, key=lambda image: str(image["source"])),
        }

    def _place(self) -> str:
        if isinstance(self.output, str):
            return self.output
        if is_image_name(self.output, frames=True) and not self.output.is_dir():
            jobs = [outcome.job for outcome in self.outcomes] + self._unfinished
            return str(jobs[0].target)  # whose suffix --ext may have changed
        return f"{self.output}/"


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON object to ``path``, ``-`` for standard output.

    Raises:
        DeliveryError: it cannot be written.
    """
    # A name that is no valid Unicode must not end the report.
    data = (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace")
    if path == STANDARD:
        write_output(data)
        return
    try:
        write_atomically(path, data)
    except AMDRestoreError as error:
        raise DeliveryError(str(error)) from error
