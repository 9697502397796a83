"""Loop over many images, as :class:`amd_restore.apps.files.engine.Engine`, with the workers of a Ray cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amd_restore import __version__
from amd_restore.apps.files.outcome import Outcome
from amd_restore.apps.files.settings import Settings
from amd_restore.apps.ray.connection import Cluster, Layout, connected, lay_out
from amd_restore.apps.ray.packets import Packet, Packets
from amd_restore.apps.ray.plan import ClusterJob
from amd_restore.apps.ray.worker import Answer, Loaded, Order, Worker
from amd_restore.atomic import is_running
from amd_restore.errors import AMDRestoreError
from amd_restore.pipeline import AUTO
from amd_restore.weights import released_models, resolve_weights

_DEPTH = 2  # packets per worker, so that none waits for the next one
_LONG = 30.0  # seconds without any worker before a message
_END = 5.0  # seconds to wait for killed workers


@dataclass
class _Member:
    """Worker, from the driver's side."""

    actor: Any
    loading: Any = None  # reference to the result of load(); None when ready
    loaded: Loaded | None = None
    packets: deque[tuple[Packet, Any]] = field(default_factory=deque)  # packets with their streams of results


class RayEngine:
    """Engine on a cluster; one failed image does not stop the run, and images of a lost worker are retried.

    Args:
        settings: settings for every image.
        cluster: cluster to use.
        workers, batch: see :class:`~amd_restore.apps.files.engine.Engine`.
        notify: called with messages about the cluster.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster | None = None,
        workers: int = 2,
        batch: int = 1,
        notify: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.settings, self.cluster = settings, cluster or Cluster()
        self.workers, self.batch, self.notify = workers, batch, notify
        self.lost_workers = self.retries = 0
        self._members: list[_Member] = []
        self._weights: Any = None
        self._loaded = settings

    @property
    def busy(self) -> list[tuple[str, int]]:
        """Return host and process of the busy workers."""
        return [(m.loaded.host, m.loaded.process) for m in self._members if m.loaded and m.packets]

    def run(self, items: Sequence[ClusterJob], skipped: Sequence[ClusterJob] = ()) -> Generator[Outcome, None, None]:
        """Yield one outcome for every item, when ready.

        Args:
            items: all items, including finished ones, because batches are cut from the list.
            skipped: items whose outputs exist.

        Raises:
            AMDRestoreError: no cluster, no worker that can load the network, or Ray itself failed.
        """
        left_out = set(skipped)
        yield from (Outcome(item, "skipped") for item in items if item in left_out)
        wanted = [number for number, item in enumerate(items) if item not in left_out]
        if not wanted:
            return
        self._loaded = dataclasses.replace(self.settings, model=_model_everywhere(self.settings.model))
        everywhere = [item.everywhere() for item in items]
        batches = [
            tuple(range(i, min(i + self.batch, len(items)))) for i in range(0, len(items), self.batch)
        ]  # fmt: skip
        packets = Packets(batches, wanted, self.cluster.retries)
        with connected(self.cluster, self.settings.threads) as ray:
            try:
                layout = lay_out(ray, self.cluster, self.settings.device, self.settings.threads, len(batches))
                for answer in self._serve(ray, layout, packets, everywhere):
                    yield _shown(answer, items[answer.number], everywhere[answer.number])
            except ray.exceptions.RayError as error:
                reason = str(error).strip().split("\n")[0]
                raise AMDRestoreError(
                    f"the Ray cluster failed ({reason}); the same command goes on from there"
                ) from error
            finally:
                self.retries = packets.given_again
                self._end(ray)

    def _serve(self, ray: Any, layout: Layout, packets: Packets, items: Sequence[ClusterJob]) -> Iterator[Answer]:
        """Distribute packets and collect results until every image has one."""
        self._failed_starts, self._advised = 0, False
        for _ in range(layout.workers):
            self._start(ray, layout)
        waiting_since: float | None = time.monotonic()
        while packets.open:
            self._give(packets, items)
            references = [member.loading for member in self._members if member.loading is not None]
            references += [stream for member in self._members for _, stream in member.packets]
            pause = packets.pause(time.monotonic())
            timeout = 1.0 if pause is None else min(1.0, max(pause, 0.01))
            if references:
                ready = ray.wait(references, num_returns=1, timeout=timeout)[0]
            else:
                ready = []
                time.sleep(timeout)
            if any(member.loaded for member in self._members):
                waiting_since = None
            elif waiting_since is None:
                waiting_since = time.monotonic()
            elif time.monotonic() - waiting_since > _LONG:
                self.notify("note: no worker is ready yet; the cluster may be short of free processors or GPUs")
                waiting_since = float("inf")
            for reference in ready:
                member = next(
                    m for m in self._members if m.loading is reference or any(s is reference for _, s in m.packets)
                )
                if member.loading is reference:
                    self._started(ray, layout, member)
                else:
                    yield from self._collect(ray, layout, packets, items, member, reference)

    def _start(self, ray: Any, layout: Layout) -> None:
        # Ray must not restart workers, because this engine gives the images of a lost worker to others.
        remote = ray.remote(Worker).options(
            num_cpus=0 if layout.gpus else layout.threads, num_gpus=layout.gpus, max_restarts=0, max_task_retries=0
        )
        member = _Member(remote.remote())
        member.loading = self._load(member, layout)
        self._members.append(member)

    def _load(self, member: _Member, layout: Layout) -> Any:
        settings = dataclasses.replace(self._loaded, threads=layout.threads)
        return member.actor.load.remote(
            settings, self.workers, self.batch, layout.neighbours, __version__, self._weights
        )

    def _started(self, ray: Any, layout: Layout, member: _Member) -> None:
        """Handle a worker that has loaded the network, or failed to."""
        reference, member.loading = member.loading, None
        try:
            member.loaded = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            self._members.remove(member)
            ray.kill(member.actor)
            cause = error.cause if isinstance(error.cause, AMDRestoreError) else AMDRestoreError(_last_line(error))
            if not self._members:
                raise cause from error
            self.notify(f"a worker could not start: {cause}")
            return
        except ray.exceptions.RayActorError as error:
            self._members.remove(member)
            self._failed_starts += 1
            if self._failed_starts > layout.workers + self.cluster.retries:
                raise AMDRestoreError(
                    "workers end while they load the network; give them more memory, or use fewer with --ray-workers"
                ) from error
            self._start(ray, layout)
            return
        if member.loaded is None:  # The weights are not on that machine, so send them.
            if self._weights is None:
                path = Path(str(self._loaded.model))
                self._weights = ray.put((path.name, path.read_bytes()))
            member.loading = self._load(member, layout)
            return
        self._failed_starts = 0
        if member.loaded.advice and not self._advised:
            self._advised = True
            self.notify(f"note: {member.loaded.advice}")

    def _give(self, packets: Packets, items: Sequence[ClusterJob]) -> None:
        """Give packets to workers with room, starting with the least busy."""
        now = time.monotonic()
        ready = [member for member in self._members if member.loaded]
        for depth in range(_DEPTH):
            for member in ready:
                if len(member.packets) > depth:
                    continue
                packet = packets.take(len(self._members), now)
                if packet is None:
                    return
                orders = [Order(number, items[number], number in packet.open) for number in packet.numbers]
                stream = member.actor.restore.options(num_returns="streaming").remote(orders)
                member.packets.append((packet, stream))

    def _collect(
        self, ray: Any, layout: Layout, packets: Packets, items: Sequence[ClusterJob], member: _Member, stream: Any
    ) -> Iterator[Answer]:
        """Handle the next result of a stream, its end, or the loss of its worker."""
        packet = next(packet for packet, other in member.packets if other is stream)
        now = time.monotonic()
        try:
            answer = ray.get(next(stream))
        except StopIteration:
            member.packets = deque(pair for pair in member.packets if pair[1] is not stream)
            # Nothing is open here, unless the worker left out an image.
            yield from self._given_up(packets, packets.lost([packet], now), items, "its worker gave no answer")
            return
        except ray.exceptions.RayTaskError as error:  # This is a bug, or no room for copies; the worker continues.
            member.packets = deque(pair for pair in member.packets if pair[1] is not stream)
            yield from self._given_up(packets, packets.lost([packet], now), items, _last_line(error))
            return
        except ray.exceptions.RayError as error:
            yield from self._lose(ray, layout, packets, items, member, error)
            return
        if answer.passing and packets.failed(packet, answer.number, now):
            return
        if packets.answered(packet, answer.number):
            yield answer

    def _lose(
        self, ray: Any, layout: Layout, packets: Packets, items: Sequence[ClusterJob], member: _Member, error: Exception
    ) -> Iterator[Answer]:
        """Requeue the images of a lost worker, and start another one."""
        self._members.remove(member)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(member.actor)  # A worker that only seems lost must not continue.
        for packet, stream in member.packets:  # Earlier results still count.
            with contextlib.suppress(StopIteration, ray.exceptions.RayError):
                while True:
                    answer = ray.get(next(stream))
                    if not answer.passing and packets.answered(packet, answer.number):
                        yield answer
        self.lost_workers += 1
        assert member.loaded is not None
        pictures = sum(len(packet.open) for packet, _ in member.packets)
        given_up = packets.lost([packet for packet, _ in member.packets], time.monotonic())
        self.notify(
            f"lost worker {member.loaded.process} on {member.loaded.host} ({type(error).__name__}); "
            f"{pictures - len(given_up)} pictures go to others"
        )
        self._start(ray, layout)
        yield from self._given_up(packets, given_up, items, "each time its worker was lost, perhaps for want of memory")

    def _given_up(
        self, packets: Packets, numbers: Sequence[int], items: Sequence[ClusterJob], why: str
    ) -> Iterator[Answer]:
        for number in numbers:
            packets.open.discard(number)
            yield Answer(number, "failed", f"{items[number].source}: tried {packets.tries(number)} times; {why}")

    def _end(self, ray: Any) -> None:
        """Stop the workers, and wait for those of this machine, which may still be writing."""
        processes = [m.loaded.process for m in self._members if m.loaded and m.loaded.host == platform.node()]
        for member in self._members:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(member.actor)
        self._members.clear()
        self._weights = None
        until = time.monotonic() + _END
        while os.name != "nt" and any(map(is_running, processes)) and time.monotonic() < until:
            time.sleep(0.02)


def _model_everywhere(model: str | None) -> str | None:
    """Return the name of the weights on other machines: a released name, or the absolute path of a file."""
    if model in (None, AUTO) or model in released_models():
        return model
    return str(Path(resolve_weights(model)).absolute())


def _shown(answer: Answer, item: ClusterJob, everywhere: ClusterJob) -> Outcome:
    message = answer.message
    for path, name in ((everywhere.source, item.source), (everywhere.target, item.target)):
        message = message.replace(path, name)
    return dataclasses.replace(answer, message=message).outcome(item)


def _last_line(error: Exception) -> str:
    return str(error).strip().split("\n")[-1]
