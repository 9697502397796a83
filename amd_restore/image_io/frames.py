"""Animations: GIF, WebP, PNG (APNG) and AVIF read frame by frame; GIF, WebP and PNG written."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from amd_restore.atomic import write_atomically
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import chunks, colour
from amd_restore.image_io.decoding import colours, open_header, read_bytes
from amd_restore.image_io.encoding import check_quality
from amd_restore.image_io.fitting import fitted
from amd_restore.image_io.formats import FRAME_SUFFIXES, NAMES
from amd_restore.image_io.metadata import exif_of, lost_of, read_metadata, upright
from amd_restore.image_io.picture import DEFAULT_MAX_PIXELS, Picture, damaged, lenient, to_depth

_GRAY = {"1": "L", "L": "L", "LA": "LA", "La": "LA"}


@dataclass(frozen=True)
class Frame:
    """One picture of an animation and how long it stays, in milliseconds."""

    picture: Picture
    duration: int


@dataclass(frozen=True)
class Frames:
    """An animation; iterating decodes one frame at a time, and may be done again.

    Args:
        file: its content.
        count: number of frames; 1 for a still picture.
        plays: how often it is shown; 0 is for ever.
        size: (width, height) of every frame.
        max_pixels: that a frame may have; None allows any.
    """

    file: chunks.Cleaned
    count: int
    plays: int
    size: tuple[int, int]
    max_pixels: int | None = DEFAULT_MAX_PIXELS

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Frame]:
        """Frames as they appear on the screen: full size, the earlier ones composed below, 8 bits.

        Raises:
            AMDRestoreError: a frame is truncated or damaged.
        """
        image = open_header(self.file.data, self.max_pixels)
        for index in range(self.count):
            with lenient():
                frame = self._frame(image, index)
            yield frame

    def _frame(self, image: Image.Image, index: int) -> Frame:
        try:
            image.seek(index)
            image.load()
            pixels = np.atleast_3d(np.array(image.convert(_GRAY.get(image.mode, "RGBA"))))
            if pixels.shape[2] in (2, 4) and pixels[..., -1].min() == 255:
                pixels = pixels[..., :-1]
            duration = round(float(image.info.get("duration") or 0))
        except Exception as error:  # each decoder has its own kinds of errors
            raise AMDRestoreError(f"frame {index + 1}: {damaged(error)}") from error
        metadata = read_metadata(image)
        icc = colour.kept_profile(self.file.icc or image.info.get("icc_profile"), pixels.shape[2])
        icc, signal = colours(image, self.file, pixels.shape[2], icc)
        picture = Picture(upright(pixels, metadata.orientation), icc, metadata.exif, metadata.dpi, signal)
        return Frame(picture, max(0, duration))


def read_frames(path: str | Path, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Frames:
    """Open an animation; a still picture of these formats has one frame.

    Raises:
        AMDRestoreError: the file is missing, empty, damaged, too large, or neither GIF, WebP, PNG nor AVIF.
    """
    try:
        return frames_of(read_bytes(path), max_pixels)
    except AMDRestoreError as error:
        raise error if str(path) in str(error) else AMDRestoreError(f"{path}: {error}") from error


def frames_of(data: bytes, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Frames:
    """Animation from the content of a file; errors as :func:`read_frames`."""
    file = chunks.cleaned(data)
    image = open_header(file.data, max_pixels)
    if image.format not in ("GIF", "WEBP", "PNG", "AVIF"):
        raise AMDRestoreError(f"{image.format} holds no frames; GIF, WebP, PNG and AVIF can")
    try:
        with lenient():
            count = getattr(image, "n_frames", 1)
    except Exception as error:  # each decoder has its own kinds of errors
        raise damaged(error) from error
    file.lost = list(dict.fromkeys([*file.lost, *lost_of(image, data)]))
    return Frames(file, count, _plays(image), image.size, max_pixels)


def check_animated(suffix: str) -> None:
    """Refuse a format in which animations are not written.

    Raises:
        AMDRestoreError: ``suffix`` is that of no such format.
    """
    if suffix.lower() not in FRAME_SUFFIXES:
        raise AMDRestoreError(f"cannot write '{suffix}' animations; use one of {', '.join(FRAME_SUFFIXES)}")


def write_frames(path: str | Path, frames: Iterable[Frame], plays: int = 0, quality: int | None = None) -> None:
    """Write an animation in the format of the suffix of ``path``, whole or not at all.

    Pillow needs all frames at once, so they are all held in memory. PNG is lossless; WebP is written at
    ``quality`` (95); GIF has 256 colours in a frame, pixels visible or not, and durations of 10 ms steps. Equal
    neighbours may become one longer frame. Profile and EXIF are those of the first frame (GIF has neither).

    Args:
        path: ends in .gif, .webp, .png or .apng.
        frames: of equal size, at least one.
        plays: how often it is shown; 0 is for ever.
        quality: 1 to 100, for WebP.

    Raises:
        AMDRestoreError: another suffix, no frames, unequal sizes, or the file cannot be written.
    """
    path = Path(path)
    kind = NAMES.get(path.suffix.lower(), "")
    try:
        check_animated(path.suffix)
    except AMDRestoreError as error:
        raise AMDRestoreError(f"{path}: {error}") from error
    check_quality(quality)
    all_frames = list(frames)
    if not all_frames:
        raise AMDRestoreError(f"{path}: an animation needs at least one frame")
    sizes = {frame.picture.pixels.shape[:2] for frame in all_frames}
    if len(sizes) != 1:
        raise AMDRestoreError(f"{path}: an animation needs frames of one size, these have {len(sizes)}")
    try:
        first = fitted(all_frames[0].picture, path.suffix)
    except AMDRestoreError as error:
        raise AMDRestoreError(f"{path}: {error}") from error
    images = _images([frame.picture for frame in all_frames])
    options: dict[str, Any] = {"duration": [frame.duration for frame in all_frames], "loop": plays}
    if kind == "GIF":
        options |= {"disposal": 2 if images[0].mode == "RGBA" else 0, "loop": plays - 1 if plays else 0}
        if plays == 1:
            del options["loop"]  # GIF counts repetitions
    else:
        icc = colour.kept_profile(first.icc, 1 if images[0].mode == "L" else 3)
        options |= {"icc_profile": icc, "exif": exif_of(first, resolution=True) or b""}
    if kind == "WEBP":
        options |= {"quality": quality or 95}
    out = io.BytesIO()
    try:
        images[0].save(out, kind, save_all=True, append_images=images[1:], **options)
    except (OSError, ValueError, RuntimeError, struct.error) as error:
        height, width = sizes.pop()
        raise AMDRestoreError(f"{path}: {kind} cannot hold {width}x{height} pixels ({error}); write png") from error
    data = out.getvalue()
    if first.signal:
        end = data.index(b"IDAT") - 4  # Pillow writes no cICP chunk
        data = data[:end] + chunks.chunk(b"cICP", bytes([*first.signal, 0, 1])) + data[end:]
    write_atomically(path, data)


def _images(pictures: list[Picture]) -> list[Image.Image]:
    """Pillow images of one mode that holds them all."""
    channels = {picture.pixels.shape[2] for picture in pictures}
    alpha = bool(channels & {2, 4})
    mode = "RGBA" if alpha else "L" if channels == {1} else "RGB"
    images = []
    for picture in pictures:
        pixels = np.ascontiguousarray(to_depth(picture.pixels, np.uint8))
        images.append(Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert(mode))
    return images


def _plays(image: Image.Image) -> int:
    loop = image.info.get("loop")
    if image.format == "GIF":  # counts repetitions after the first; without the extension there are none
        return 1 if loop is None else loop + 1 if loop else 0
    return int(loop or 0)
