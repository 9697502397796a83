"""The loop over many pictures: the next ones are read and the last ones written while one is restored."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from amd_restore.apps.files.outcome import Outcome, failed
from amd_restore.apps.files.plan import Job, is_done
from amd_restore.apps.files.restorer import Restorer, Source
from amd_restore.errors import raise_interruption


class Engine:
    """Reader, restorer and writer of many images; one failed image does not stop the run.

    Args:
        restorer: what happens to one picture.
        workers: pictures read ahead, and written behind, at the same time. Decoders and encoders run outside Python's
            lock, so threads are enough.
        batch: pictures of equal size that pass through the network together. Batches are cut from the list of *all*
            jobs, done or not: what a picture shares its batch with never depends on where an earlier run was stopped,
            and so neither do its bytes.
        progress: called as ``progress(job, tile, tiles)`` within large pictures.
    """

    def __init__(
        self,
        restorer: Restorer,
        workers: int = 2,
        batch: int = 1,
        progress: Callable[[Job, int, int], None] | None = None,
    ) -> None:
        self.restorer, self.workers, self.batch, self.progress = restorer, workers, batch, progress

    def run(
        self, jobs: Sequence[Job], overwrite: bool = False, kept: Container[Job] = ()
    ) -> Generator[Outcome, None, None]:
        """Yield an outcome for every job as it is known, which is nearly in order.

        Those in ``kept`` are skipped even with ``overwrite``; they fill their batches only.
        Interrupting it (an exception in the caller's loop, or Ctrl-C) lets the pictures that are being written finish;
        after Ctrl-C they are yielded, too.
        """
        with ThreadPoolExecutor(self.workers) as readers, ThreadPoolExecutor(self.workers) as writers:
            written: deque[Future[Outcome]] = deque()
            try:
                yield from self._work(jobs, overwrite, kept, readers, writers, written)
                while written:
                    yield written.popleft().result()
            except BaseException as error:
                readers.shutdown(wait=False, cancel_futures=True)
                writers.shutdown(wait=True, cancel_futures=True)
                if not isinstance(error, GeneratorExit):  # the caller still listens
                    yield from (outcome.result() for outcome in written if not outcome.cancelled())
                raise

    def _work(
        self,
        jobs: Sequence[Job],
        overwrite: bool,
        kept: Container[Job],
        readers: ThreadPoolExecutor,
        writers: ThreadPoolExecutor,
        written: deque[Future[Outcome]],
    ) -> Iterator[Outcome]:
        chunks = [jobs[i : i + self.batch] for i in range(0, len(jobs), self.batch)]
        ahead: deque[tuple[list[Job], list[Future[Source]]]] = deque()
        position, account = 0, self.restorer.account
        while position < len(chunks) or ahead:
            while position < len(chunks) and len(ahead) < max(1, self.workers // self.batch) + 1:
                chunk = list(chunks[position])
                missing = [job for job in chunk if job not in kept and (overwrite or not is_done(job.target))]
                needs = [self.restorer.need(job).most for job in chunk] if missing else []
                # Half of the room is for the picture that is restored: small tiles are slow.
                if ahead and not account.fits(sum(needs), 0.5):
                    break
                while written and not account.fits(sum(needs)):
                    yield written.popleft().result()
                position += 1
                yield from (Outcome(job, "skipped") for job in chunk if job not in missing)
                for job, need in zip(chunk, needs, strict=False):
                    account.hold(job, need)
                if missing:
                    # The whole chunk is read: the others belong to the batch, even if their outputs are there.
                    ahead.append((missing, [readers.submit(self.restorer.read, job) for job in chunk]))
            if not ahead:
                continue
            missing, reading = ahead.popleft()
            yield from self._chunk(missing, reading, writers, written)
            while len(written) > self.workers or (written and written[0].done()):
                yield written.popleft().result()

    def _chunk(
        self,
        missing: list[Job],
        reading: list[Future[Source]],
        writers: ThreadPoolExecutor,
        written: deque[Future[Outcome]],
    ) -> Iterator[Outcome]:
        sources, account = [], self.restorer.account
        for future in reading:
            source = future.result()
            if source.failure is None:
                sources.append(source)
                continue
            account.hold(source.job, 0)
            if source.job in missing:
                yield source.failure
        for group in self.restorer.groups(sources):
            wanted = [source for source in group if source.job in missing]
            if not wanted:
                self._release(group)
                continue
            start = time.perf_counter()
            try:
                results = self.restorer.restore(group, self._tiles(group))
            except Exception as error:  # a bug of ours must not cost the other pictures; it is reported and counted
                raise_interruption()
                self._release(group)
                yield from (failed(source.job, error) for source in wanted)
                continue
            seconds = (time.perf_counter() - start) / len(group)
            for source, result in zip(group, results, strict=True):
                if source.job not in missing:
                    account.hold(source.job, 0)
                else:
                    account.hold(source.job, self.restorer.written(source))
                    written.append(writers.submit(self._write, source, result, seconds))

    def _write(self, source: Source, result: Callable[[], tuple[int, int]], seconds: float) -> Outcome:
        start = time.perf_counter()
        try:
            size = result()
        except Exception as error:  # A bug of ours must not cost the other images; it is reported and counted.
            return failed(source.job, error)
        finally:
            self.restorer.account.hold(source.job, 0)
        seconds += source.seconds + time.perf_counter() - start
        lost = source.lost
        if source.frames is not None:
            lost += tuple(f"{what} of an animation" for what in self.restorer.settings.extras)
        return Outcome(
            source.job,
            "restored",
            seconds=seconds,
            size=source.size,
            restored_size=size,
            lost=lost,
            model=source.model,
        )

    def _release(self, group: Sequence[Source]) -> None:
        for source in group:
            self.restorer.account.hold(source.job, 0)

    def _tiles(self, group: Sequence[Source]) -> Callable[[int, int], None] | None:
        progress, job = self.progress, group[0].job
        return None if progress is None else lambda done, total: progress(job, done, total)
