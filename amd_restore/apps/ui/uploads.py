"""Restoration of uploads, from uploaded to downloaded bytes."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from amd_restore.apps.files.uncertainty import Pixels, uncertainty_map
from amd_restore.apps.ui.models import Models
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import SUFFIXES, Picture, decode, encode, suffix_of
from amd_restore.image_io.picture import to_depth
from amd_restore.image_io.sizing import output_size, resize
from amd_restore.pipeline import RestorationPipeline, suited

PREVIEW_SIDE = 4096  # what the page shows is no larger; the download is
HIGHEST_SEED = 2**31 - 1
_MAP_PIXELS = 1_000_000  # of the input; a map takes several float32 outputs in memory
_TURN = 0.1  # seconds between checks whether a waiting restoration was stopped
_LONGEST_STEM = 100  # length limit of a file name
# Formats of the input, by the suffix of their content, that are written as another.
_FALLBACK = ".png"


class Stopped(Exception):  # noqa: N818 - not an error: the user requested it
    """Raised when a restoration is stopped early."""


@dataclass(frozen=True)
class Controls:
    """Values of the page's controls.

    Args:
        steps: network evaluations; None for the model's default.
        seed: random seed of the noise.
        fidelity: from 0, most detail, to 1, most faithful.
        model: name of the model; empty for the first.
        uncertainty: also draw the map of the error to expect.
    """

    steps: int | None = None
    seed: int = 0
    fidelity: float = 0.0
    model: str = ""
    uncertainty: bool = False


@dataclass(frozen=True)
class Upload:
    """Decoded upload.

    Args:
        picture: content.
        stem: file name without folder and suffix.
        suffix: suffix of the format; PNG for formats that cannot be written.
        preview: PNG for the browser.
    """

    picture: Picture
    stem: str
    suffix: str
    preview: bytes


@dataclass(frozen=True)
class Download:
    """Restored image.

    Args:
        data: file to download, in the input's format and with its profile, EXIF and resolution.
        name: name of that file.
        size: (height, width) in pixels.
        preview: PNG for the browser.
        preview_size: (height, width) of the preview.
        seconds: duration of the restoration, without waiting.
        model: name of the model that restored it.
        uncertainty: PNG of the map for the browser, of the size of the preview; None without one.
    """

    data: bytes
    name: str
    size: tuple[int, int]
    preview: bytes
    preview_size: tuple[int, int]
    seconds: float
    model: str
    uncertainty: bytes | None = None


class RestorationState:
    """Progress of a restoration, written by the working thread and read by the page.

    Args:
        is_watched: whether the page is open.
    """

    def __init__(self, is_watched: Callable[[], bool] = lambda: True) -> None:
        self.is_watched = is_watched
        self.stage = "Waiting for another picture"
        self.done, self.total = 0, 0
        self._stop = threading.Event()

    @property
    def fraction(self) -> float | None:
        """Return the share of finished tiles; None while unknown."""
        return self.done / self.total if self.total > 1 else None

    @property
    def stopped(self) -> bool:
        """Return whether :meth:`stop` was called."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Request a stop, which takes effect after the current tile."""
        self._stop.set()

    def check(self) -> None:
        """Raise :class:`Stopped` after a request to stop."""
        if self.stopped:
            raise Stopped

    def advance(self, done: int, total: int) -> None:
        """Record finished tiles, and stop if requested."""
        self.done, self.total = done, total
        self.check()


class UploadRestorer:
    """Restorer of one image at a time, for any number of pages.

    Args:
        models: models of the page.
        max_pixels: limit on the pixels of an input, checked in its header.
    """

    def __init__(self, models: Models, max_pixels: int) -> None:
        self.models, self.max_pixels = models, max_pixels
        self._turn = threading.Lock()
        self._states: set[RestorationState] = set()

    def open(self, data: bytes, name: str) -> Upload:
        """Read an upload.

        Args:
            data: content of the file, which determines the format.
            name: file name from the browser.

        Raises:
            AMDRestoreError: no image, a broken one, an animation, or one with too many pixels.
        """
        if not data:
            raise AMDRestoreError("the file is empty (0 bytes)")
        picture = decode(data, self.max_pixels)
        suffix = suffix_of(data)
        stem = PurePosixPath(name.replace("\\", "/")).stem[:_LONGEST_STEM] or "image"
        return Upload(picture, stem, suffix if suffix in SUFFIXES else _FALLBACK, preview(picture)[0])

    def restore(self, upload: Upload, controls: Controls, state: RestorationState) -> Download:
        """Restore, and encode for download and display.

        Raises:
            AMDRestoreError: as :meth:`Models.get` and :meth:`RestorationPipeline.restore_image`, or an image too
                large for an uncertainty map.
            Stopped: ``state`` was stopped.
        """
        if controls.uncertainty and math.prod(upload.picture.pixels.shape[:2]) > _MAP_PIXELS:
            limit = _MAP_PIXELS / 1e6
            raise AMDRestoreError(f"an uncertainty map is drawn of up to {limit:g} megapixels; switch it off")
        self._states.add(state)
        try:
            while not self._turn.acquire(timeout=_TURN):
                state.check()
                for other in tuple(self._states):
                    if not other.is_watched():  # The page was closed or reloaded, so no result is needed.
                        other.stop()
            try:
                state.check()
                state.stage = "Loading the model"
                pipeline = suited(self.models.get(controls.model), upload.picture.pixels)
                start = time.perf_counter()
                pixels, drawn = _restored(pipeline, upload.picture.pixels, controls, state)
                seconds = time.perf_counter() - start
            finally:
                self._turn.release()
            state.check()
            state.stage = "Encoding"
            picture = upload.picture.with_pixels(pixels)
            suffix, data = _encode(picture, upload.suffix)
            shown, shown_size = preview(picture)
            uncertainty = None if drawn is None else preview(Picture(drawn))[0]
        finally:
            self._states.discard(state)
        height, width = pixels.shape[:2]
        name = f"{upload.stem}_x{pipeline.scale}{suffix}"
        return Download(data, name, (height, width), shown, shown_size, seconds, pipeline.header.name, uncertainty)

    def close(self) -> None:
        """Stop all restorations."""
        for state in tuple(self._states):
            state.stop()


def _restored(
    pipeline: RestorationPipeline, pixels: Pixels, controls: Controls, state: RestorationState
) -> tuple[Pixels, Pixels | None]:
    """Restored pixels and, if requested, the uncertainty map."""
    state.stage = "Restoring"
    restored = pipeline.restore_image(
        pixels, num_steps=controls.steps, seed=controls.seed, fidelity=controls.fidelity, progress=state.advance
    )
    if not controls.uncertainty:
        return restored, None
    state.stage = "Drawing the uncertainty map"
    return restored, uncertainty_map(
        pipeline, pixels, seed=controls.seed, num_steps=controls.steps, progress=state.advance
    )


def for_page(error: AMDRestoreError) -> str:
    """Return the message without advice for the command line or Python."""
    return "; ".join(part for part in str(error).split("; ") if not re.search(r"--\w|tile=|max_memory", part))


def preview(picture: Picture) -> tuple[bytes, tuple[int, int]]:
    """Return an 8-bit PNG with the image's profile, at most ``PREVIEW_SIDE`` large, and its (height, width)."""
    height, width = picture.pixels.shape[:2]
    size = output_size(height, width, scale=1, max_side=PREVIEW_SIDE)
    pixels = to_depth(resize(picture.pixels, size), np.uint8)
    return encode(Picture(pixels, picture.icc, signal=picture.signal), ".png"), size


def _encode(picture: Picture, suffix: str) -> tuple[str, bytes]:
    """Encode in the format of ``suffix``, or as PNG if that format cannot contain the size."""
    try:
        return suffix, encode(picture, suffix)
    except AMDRestoreError:
        return _FALLBACK, encode(picture, _FALLBACK)
