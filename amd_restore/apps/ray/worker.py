"""Worker on another machine: one process with the network in memory that restores packets of images.

It does not import Ray, so that it can be tested without.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from amd_restore import __version__
from amd_restore.apps.files.outcome import Outcome, Status
from amd_restore.apps.files.plan import Job
from amd_restore.apps.files.settings import Settings
from amd_restore.apps.ray.plan import ClusterJob
from amd_restore.apps.ray.storage import may_pass
from amd_restore.errors import AMDRestoreError


@dataclass(frozen=True)
class Order:
    """One image of a packet.

    Args:
        number: number of the image.
        item: source and target.
        wanted: False if it only fills its batch.
    """

    number: int
    item: ClusterJob
    wanted: bool = True


@dataclass(frozen=True)
class Answer:
    """Result of an order in serialisable values; see :class:`~amd_restore.apps.files.outcome.Outcome`.

    Args:
        number: number of the order.
        status, message, seconds, size, restored_size, lost, model: see there.
        passing: whether a retry may help.
        trace: traceback of a failure.
    """

    number: int
    status: Status
    message: str = ""
    seconds: float = 0.0
    size: tuple[int, int] | None = None
    restored_size: tuple[int, int] | None = None
    passing: bool = False
    trace: str = ""
    lost: tuple[str, ...] = ()
    model: str = ""

    def outcome(self, item: ClusterJob) -> Outcome:
        """Convert to an outcome of ``item``."""
        error = None
        if self.status == "failed":
            error = AMDRestoreError(self.message)
            error.add_note(self.trace)
        sizes = self.size, self.restored_size
        return Outcome(item, self.status, self.message, self.seconds, *sizes, error, self.lost, self.model)


@dataclass(frozen=True)
class Loaded:
    """Description of a worker that is ready.

    Args:
        process, host: process number and host name.
        advice: message for the user about the settings, if any.
    """

    process: int
    host: str
    advice: str | None


class Worker:
    """Restorer of packets of images."""

    def load(
        self,
        settings: Settings,
        workers: int,
        batch: int,
        neighbours: int,
        version: str,
        weights: tuple[str, bytes] | None = None,
    ) -> Loaded | None:
        """Load the network.

        Args:
            settings: settings for every image.
            workers, batch: see :class:`~amd_restore.apps.files.engine.Engine`.
            neighbours: number of workers that share the memory of this machine or device, including this one.
            version: version of the driver.
            weights: name and content of the weights file, for machines without it.

        Returns:
            None if the weights file named in ``settings`` is not on this machine.

        Raises:
            AMDRestoreError: see :class:`~amd_restore.apps.files.restorer.Restorer`; or another version here.
        """
        if version != __version__:
            raise AMDRestoreError(
                f"{platform.node()} has amd-restore {__version__} and the program that asks {version}; install the same"
            )
        from amd_restore.apps.files.engine import Engine
        from amd_restore.apps.ray.staging import StagedRestorer
        from amd_restore.inference import memory

        memory.share_memory(neighbours)
        if settings.model is not None and os.path.isabs(settings.model) and not os.path.exists(settings.model):
            if weights is None:
                return None
            with tempfile.TemporaryDirectory(prefix="amd-restore-weights-") as folder:
                path = Path(folder, weights[0])
                path.write_bytes(weights[1])
                self._restorer = StagedRestorer(dataclasses.replace(settings, model=str(path)))
        else:
            self._restorer = StagedRestorer(settings)
        self._engine = Engine(self._restorer, workers, batch)
        return Loaded(os.getpid(), platform.node(), self._restorer.advice)

    def restore(self, orders: Sequence[Order]) -> Iterator[Answer]:
        """Restore a packet in whole batches; yield the result of each wanted image when ready."""
        staged = {order.number: self._restorer.stage(order.item) for order in orders}
        wanted = {staged[order.number].job: order.number for order in orders if order.wanted}
        kept = [staged[order.number].job for order in orders if not order.wanted]
        try:
            # The driver has checked existing outputs; an image of a lost worker is written again with equal bytes.
            for outcome in self._engine.run([picture.job for picture in staged.values()], overwrite=True, kept=kept):
                assert isinstance(outcome.job, Job)
                number = wanted.get(outcome.job)
                if number is not None:
                    yield _answer(number, outcome, staged[number].named(outcome.message))
                    self._restorer.release(staged[number])
        finally:
            for picture in staged.values():
                self._restorer.release(picture)


def _answer(number: int, outcome: Outcome, message: str) -> Answer:
    return Answer(
        number,
        outcome.status,
        message,
        outcome.seconds,
        outcome.size,
        outcome.restored_size,
        may_pass(outcome.error),
        "".join(traceback.format_exception(outcome.error)) if outcome.error else "",
        outcome.lost,
        outcome.model,
    )
