"""From one video to another: decode, restore, encode in segments, join."""

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

SEGMENT = 48  # frames; what a killed run loses at most, and how often a player can enter the video
Restore = Callable[[Frame], Frame]


@dataclass(frozen=True)
class VideoSummary:
    """What was done.

    Args:
        frames: of the video.
        restored: of these, in this run.
        size: (height, width) of the input.
        seconds: of this run.
        complaints: of ffmpeg about the input.
    """

    frames: int
    restored: int
    size: tuple[int, int]
    seconds: float
    complaints: int = 0


@dataclass(frozen=True)
class Encoding:
    """How the output is encoded.

    Args:
        codec: key of :data:`~amd_restore.apps.video.encoding.CODECS`; None chooses by the output's suffix.
        crf: quality, lower is better; None is the codec's usual one.
        segment: frames that are encoded and kept together.
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
    """Restore every frame of a video; what else the file holds is kept.

    The output appears whole or not at all. After a kill the same call goes on with the first segment that is missing
    and gives the same video; a call with another recipe begins again.

    Args:
        source: any video that ffmpeg reads.
        target: .mp4, .mov, .mkv or .webm; replaced if it exists.
        restore: from a frame, (H, W, 3) RGB, uint8, or uint16 where the video has more than 8 bits, to one of
            the same dtype and of any size, the same for all. For little flicker, with the same seed for each.
        recipe: all that decides what ``restore`` does, as plain values for JSON.
        encoding: None is H.264, or VP9 for .webm.
        ffmpeg: None looks for it.
        progress: called as ``progress(done, total)`` at the start and after every frame.
        note: told in one line what the user should know.

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
        first = min(work.finished() * encoding.segment, total)
        report = progress or (lambda done, total: None)
        report(first, total)
        with contextlib.closing(clip.frames(ffmpeg, first)) as frames:
            restored = _reported(map(restore, frames), report, first, total)
            for begin in starts[work.finished() :]:
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
    """Take as many frames as the segment has and write them; the first one tells the size."""
    frame = next(frames)
    height, width = frame.shape[:2]
    with SegmentWriter(ffmpeg, path, segment, (height, width)) as writer:
        writer.write(frame)
        for _ in range(segment.first + 1, segment.end):
            writer.write(next(frames))
        writer.finish()
