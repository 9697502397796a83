"""From one file to another: read, restore, write."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from amd_restore.apps.files.needs import Need
from amd_restore.apps.files.outcome import Outcome, failed
from amd_restore.apps.files.plan import Job, check_name, is_image_name
from amd_restore.apps.files.settings import Settings
from amd_restore.apps.files.work import Work, shape_of
from amd_restore.atomic import check_target
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import (
    DEFAULT_MAX_PIXELS,
    Frame,
    Frames,
    Picture,
    check_animated,
    check_side,
    decode,
    encode,
    fitted,
    frames_of,
    is_streamed,
    read_bytes,
    read_shape,
    write_frames,
    write_image,
)
from amd_restore.image_io.picture import check_size
from amd_restore.inference.memory import Account

STREAM_PIXELS = 16_000_000  # output pixels from which on rows are written as they come
_UNKNOWN = 50  # bytes of memory per byte of a file whose header does not tell


@dataclass(frozen=True)
class Source:
    """A picture that was read, or why it could not be.

    Args:
        job: where from and where to.
        picture: None after a failure, and for animations.
        seconds: that reading took.
        failure: None if all went well.
        frames: of an animation.
        model: name of the model that restores it.
    """

    job: Job
    picture: Picture | None
    seconds: float
    failure: Outcome | None = None
    frames: Frames | None = None
    model: str = ""

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the input."""
        if self.frames is not None:
            return self.frames.size[1], self.frames.size[0]
        return None if self.picture is None else self.picture.pixels.shape[:2]

    @property
    def lost(self) -> tuple[str, ...]:
        """What the input held and the output does not, by kind."""
        if self.frames is not None:
            return tuple(self.frames.file.lost)
        return () if self.picture is None else self.picture.lost


Finish = Callable[[], tuple[int, int]]  # writes what was restored, returns its (height, width)


class Restorer:
    """Restores pictures as ``settings`` say; the network is loaded once.

    Raises:
        AMDRestoreError: no such weights, device or backend, or settings that do not fit the weights.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.work = Work(settings)
        self.account = Account(self.work.room)
        self._max_pixels = DEFAULT_MAX_PIXELS if settings.max_pixels is None else settings.max_pixels

    @property
    def advice(self) -> str | None:
        """What the user should know about the settings, if anything."""
        return self.work.advice

    def need(self, job: Job) -> Need:
        """Memory that ``job`` will take, as far as the header of its file tells; nothing without a file."""
        if not job.source.is_file():
            return Need(0)
        size, shape = job.source.stat().st_size, read_shape(job.source)
        if shape is None:
            return Need(_UNKNOWN * size)
        need = self._need(job, shape)
        return dataclasses.replace(need, reading=need.reading + size)

    def written(self, source: Source) -> int:
        """Memory that the outputs of what was read take while they are written."""
        if source.frames is not None:
            width, height = source.frames.size
            return self._need(source.job, (height, width, 4, 1)).writing * source.frames.count
        return 0 if source.picture is None else self._need(source.job, shape_of(source.picture.pixels)).writing

    def _need(self, job: Job, shape: tuple[int, int, int, int]) -> Need:
        suffixes = job.source.suffix, job.target.suffix
        return self.work.need(shape, self._streams(job, shape[0] * shape[1]), suffixes)

    def read(self, job: Job) -> Source:
        """Read the picture of ``job``; never raises, for it runs ahead in another thread."""
        start = time.perf_counter()
        try:
            for output in (job.target, *map(job.extra, self.settings.extras)):
                check_name(output)
                check_target(output)
            if (shape := read_shape(job.source)) is not None:
                check_size(shape[1], shape[0], self._max_pixels)
                self._check_memory(job, shape)
            data = read_bytes(job.source)
            frames = self._frames(data)
            if frames is not None:
                check_animated(job.target.suffix)
                check_side(job.target.suffix, *self.work.output_size(frames.size[1], frames.size[0]))
                model = self.work.model_of(next(iter(frames)).picture.pixels)
                return Source(job, None, time.perf_counter() - start, frames=frames, model=model)
            picture = self._fitted(decode(data, self._max_pixels), job.target.suffix)
            model = self.work.model_of(picture.pixels)
        except Exception as error:  # reported and counted; a bug of ours must not cost the other pictures
            return Source(job, None, 0.0, failed(job, error))
        return Source(job, picture, time.perf_counter() - start, model=model)

    def groups(self, sources: Sequence[Source]) -> list[list[Source]]:
        """Neighbours that can pass through the network together: equal size, 8 bits, three channels."""

        def key(item: tuple[int, Source]) -> tuple[object, ...]:
            index, source = item
            picture = source.picture
            together = picture is not None and self.work.plain and not self._streams(source.job, _area(picture))
            if not together or picture is None or picture.pixels.dtype != np.uint8 or picture.pixels.shape[2] != 3:
                return (index,)
            return picture.pixels.shape

        return [[source for _, source in group] for _, group in groupby(enumerate(sources), key)]

    def restore(self, group: Sequence[Source], progress: Callable[[int, int], None] | None = None) -> list[Finish]:
        """Restore pictures of one group; what comes back writes them, and may run in another thread.

        Raises:
            AMDRestoreError: see :meth:`RestorationPipeline.restore_image`.
        """
        pictures = [source.picture for source in group if source.picture is not None]
        held = self.account.held(without=[source.job for source in group])
        for source, picture in zip(group, pictures, strict=False):  # an animation has none
            held += self._check_memory(source.job, shape_of(picture.pixels)).beside
        self.work.reserve(held)
        if len(group) > 1:
            restored = self.work.batch([picture.pixels for picture in pictures], progress)
            return [
                self._writer(source.job, picture, picture.with_pixels(self.work.resized(pixels, picture.pixels)))
                for source, picture, pixels in zip(group, pictures, restored, strict=True)
            ]
        source = group[0]
        if source.frames is not None:
            return [self._animation(source.job, source.frames, progress)]
        picture = pictures[0]
        if self._streams(source.job, _area(picture)):
            size = self.work.stream(source.job.target, picture, progress)
            return [lambda: size]
        job, samples = source.job, []
        for number in range(self.settings.n_samples):
            pixels = self.work.one(picture.pixels, number, progress)
            samples.append(picture.with_pixels(self.work.resized(pixels, picture.pixels)))
        uncertainty = self.work.uncertainty(picture.pixels) if self.settings.uncertainty else None
        return [self._writer(job, picture, samples[0], samples[1:], uncertainty)]

    def restore_bytes(self, data: bytes, suffix: str) -> bytes:
        """One picture from and to the content of a file.

        Raises:
            AMDRestoreError: no picture that can be read, or one that the format of ``suffix`` cannot hold.
        """
        picture = self._fitted(decode(data, self._max_pixels), suffix)
        need = self.work.need(shape_of(picture.pixels), suffixes=("", suffix))
        self.work.check_memory(need, _size(picture))
        self.work.reserve(need.beside)
        restored = self.work.resized(self.work.one(picture.pixels, 0, None), picture.pixels)
        return encode(picture.with_pixels(restored), suffix, self.settings.quality)

    def _frames(self, data: bytes) -> Frames | None:
        """The animation that is restored as one; None for all else, which :func:`decode` reads or refuses."""
        try:
            frames = frames_of(data, self._max_pixels) if self.settings.frames else None
        except AMDRestoreError:
            return None
        return frames if frames is not None and frames.count > 1 else None

    def _fitted(self, picture: Picture, suffix: str) -> Picture:
        """What the output can hold is known now, and need not be found out after the work."""
        return fitted(picture, suffix, self.work.output_size(*picture.pixels.shape[:2]))

    def _check_memory(self, job: Job, shape: tuple[int, int, int, int]) -> Need:
        need, area = self._need(job, shape), shape[0] * shape[1]
        self.work.check_memory(need, shape[:2], self._may_stream(area) and not is_streamed(job.target))
        return need

    def _streams(self, job: Job, pixels: int) -> bool:
        return self._may_stream(pixels) and is_streamed(job.target)

    def _may_stream(self, pixels: int) -> bool:
        pixels *= self.work.pipeline.scale**2
        return self.work.plain and pixels >= STREAM_PIXELS and not self.settings.compare

    def _animation(self, job: Job, frames: Frames, progress: Callable[[int, int], None] | None) -> Finish:
        restored = []
        first = next(iter(frames)).picture.pixels
        for number, frame in enumerate(frames, start=1):
            # One seed and one model for all: what changed from frame to frame would flicker.
            pixels = self.work.resized(self.work.one(frame.picture.pixels, 0, None, first), frame.picture.pixels)
            restored.append(Frame(frame.picture.with_pixels(pixels), frame.duration))
            if progress is not None:
                progress(number, frames.count)

        def write() -> tuple[int, int]:
            write_frames(job.target, restored, frames.plays, self.settings.quality)
            return _size(restored[0].picture)

        return write

    def _writer(
        self,
        job: Job,
        picture: Picture,
        restored: Picture,
        others: Sequence[Picture] = (),
        uncertainty: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None = None,
    ) -> Finish:
        def write() -> tuple[int, int]:
            # Write the main image last: its presence marks the job as complete.
            for number, other in enumerate(others, start=2):
                write_image(job.extra(f"sample{number}"), other, self.settings.quality)
            if uncertainty is not None:
                write_image(job.extra("uncertainty"), Picture(uncertainty))
            if self.settings.compare:
                from amd_restore.postprocess import side_by_side

                pair = side_by_side(picture.pixels, restored.pixels)
                write_image(job.extra("compare"), Picture(pair, restored.icc, signal=restored.signal))
            if is_image_name(job.target):
                write_image(job.target, restored, self.settings.quality)
            else:  # a still picture in a format of animations
                write_frames(job.target, [Frame(restored, 0)], quality=self.settings.quality)
            return _size(restored)

        return write


def _size(picture: Picture) -> tuple[int, int]:
    height, width = picture.pixels.shape[:2]
    return height, width


def _area(picture: Picture) -> int:
    return math.prod(_size(picture))
