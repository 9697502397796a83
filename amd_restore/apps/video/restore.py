"""Restoring a video: decode, restore, encode in segments, join."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amd_restore.apps.video.clip import Frame, read_clip
from amd_restore.apps.video.encoding import Segment, SegmentWriter, choose_codec
from amd_restore.apps.video.ffmpeg import FFmpeg
from amd_restore.apps.video.join import join, list_segments
from amd_restore.apps.video.work_folder import WorkFolder
from amd_restore.atomic import write_atomically
from amd_restore.errors import AMDRestoreError

SEGMENT = 48  # frames; the most that a killed run loses, and the interval of seek points
Restore = Callable[[Frame], Frame]


@dataclass(frozen=True)
class VideoSummary:
    """Summary of a run.

    Args:
        frames: frames of the video.
        restored: frames restored in this run.
        size: (height, width) of the input.
        seconds: duration of this run.
        complaints: number of ffmpeg's errors about the input.
    """

    frames: int
    restored: int
    size: tuple[int, int]
    seconds: float
    complaints: int = 0


@dataclass(frozen=True)
class Encoding:
    """Encoding of the output.

    Args:
        codec: key of :data:`~amd_restore.apps.video.encoding.CODECS`; None chooses by the output's suffix.
        crf: quality, lower is better; None for the codec's default.
        segment: frames per segment.
    """

    codec: str | None = None
    crf: int | None = None
    segment: int = SEGMENT


def restore_video(
    source: Path,
    target: Path,
    restore: Restore,
    recipe: dict[str, Any],
    encoding: Encoding | None = None,
    ffmpeg: FFmpeg | None = None,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> VideoSummary:
    """Restore every frame of a video and keep its other streams.

    The output is complete or absent. After a kill the same call continues with the first missing segment and gives the
    same video; a call with another recipe starts again.

    Args:
        source: any video that ffmpeg reads.
        target: .mp4, .mov, .mkv or .webm; replaced if it exists.
        restore: function of a frame, (H, W, 3) RGB, uint8, or uint16 for more than 8 bits; returns a frame of the same
            dtype and any size, the same for all. Use the same seed for all frames to reduce flicker.
        recipe: everything that determines ``restore``, as plain values for JSON.
        encoding: None for H.264, or VP9 for .webm.
        ffmpeg: None to search for it.
        progress: called as ``progress(done, total)`` at the start and after every frame.
        note: called with one-line messages for the user.

    Raises:
        AMDRestoreError: no ffmpeg, an input that cannot be read, an output that cannot be written.
    """
    start = time.perf_counter()
    encoding = encoding or Encoding()
    ffmpeg = ffmpeg or FFmpeg()
    note = note or (lambda message: None)
    codec = choose_codec(target, encoding.codec)
    if target.exists() and source.exists() and target.samefile(source):
        raise AMDRestoreError(f"{target}: is the input; name another output")
    clip = read_clip(source, ffmpeg)
    if clip.interlaced:
        note(f"{source}: is interlaced; its frames are restored as they are, deinterlace before for better ones")
    if clip.complaints:
        count = len(clip.complaints)
        note(
            f"{source}: is damaged, frames may be missing or broken; ffmpeg complains {count} time{'s' * (count > 1)}, "
            f"first: {clip.complaints[0]}"
        )
    status = source.stat()
    job = {
        "source": [str(source.resolve()), status.st_size, status.st_mtime_ns],
        "recipe": recipe,
        "encoding": [codec, encoding.crf, encoding.segment],
        "ffmpeg": ffmpeg.version,
    }
    total = len(clip.times)
    starts = range(0, total, encoding.segment)
    with WorkFolder(target, job) as work:
        if work.cleared:
            note(f"{target}: unfinished work of other options or another source was thrown away")
        done = work.finished()
        first = min(done * encoding.segment, total)
        report = progress or (lambda done, total: None)
        report(first, total)
        with contextlib.closing(clip.frames(ffmpeg, first)) as frames:
            restored = _reported(map(restore, frames), report, first, total)
            for begin in starts[done:]:
                part = work.part()
                end = min(begin + encoding.segment, total)
                _encode(restored, part, Segment(clip, begin, end, codec, encoding.crf), ffmpeg)
                work.publish(part, work.segment(begin // encoding.segment))
        names = [work.segment(i).name for i in range(len(starts))]
        write_atomically(work.path / "list.txt", list_segments(clip, names, encoding.segment).encode())
        part = work.part()
        if message := join(ffmpeg, clip, work.path / "list.txt", part, target.suffix.lower()):
            note(message)
        work.publish(part, work.target)
        work.remove()
    return VideoSummary(
        total, total - first, (clip.height, clip.width), time.perf_counter() - start, len(clip.complaints)
    )


def _reported(frames: Iterator[Frame], report: Callable[[int, int], None], done: int, total: int) -> Iterator[Frame]:
    for number, frame in enumerate(frames, start=done + 1):
        report(number, total)
        yield frame


def _encode(frames: Iterator[Frame], path: Path, segment: Segment, ffmpeg: FFmpeg) -> None:
    """Restore and write the frames of a segment; the first one determines the size."""
    frame = next(frames)
    height, width = frame.shape[:2]
    with SegmentWriter(ffmpeg, path, segment, (height, width)) as writer:
        writer.write(frame)
        for _ in range(segment.first + 1, segment.end):
            writer.write(next(frames))
        writer.finish()
