"""Joining of segments and the other streams into one file, re-encoding only if necessary."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from amd_restore.apps.video.clip import Clip
from amd_restore.apps.video.ffmpeg import FFmpeg, FFmpegError, url
from amd_restore.errors import AMDRestoreError

_FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
_TEXT = {".mp4": "mov_text", ".mov": "mov_text", ".mkv": "srt", ".webm": "webvtt"}  # subtitle codecs of each format
_SOUND = {".mp4": "aac", ".mov": "aac", ".mkv": "aac", ".webm": "libopus"}


def list_segments(clip: Clip, names: Sequence[str], length: int) -> str:
    """Return the list for ffmpeg's ``concat``: segments of ``length`` frames each, and their durations.

    Durations have six decimals; cumulative rounding prevents a drift.
    """
    lines = ["ffconcat version 1.0"]
    shown = Fraction(0)
    for i, name in enumerate(names):
        end = clip.seconds(0, min((i + 1) * length, len(clip.times)))
        microseconds = round(end * 10**6) - round(shown * 10**6)
        lines += [f"file '{name}'", f"duration {microseconds // 10**6}.{microseconds % 10**6:06d}"]
        shown = end
    return "\n".join(lines) + "\n"


def join(ffmpeg: FFmpeg, clip: Clip, segments: Path, path: Path, suffix: str) -> str | None:
    """Write ``path``: the segments' frames with the sound, subtitles, chapters and metadata of the clip's file.

    Streams are copied if the format allows; else text subtitles are converted, other subtitles left out, and sound is
    re-encoded, in this order.

    Args:
        ffmpeg: the program.
        clip: source.
        segments: file with the text of :func:`list_segments`.
        path: output file, of any name.
        suffix: suffix that determines the format.

    Returns:
        A note about streams that were not copied; None if all were.

    Raises:
        AMDRestoreError: ffmpeg cannot write it.
    """
    start = Fraction(clip.times[0], clip.rate)
    sources = ["-itsoffset", f"{float(start):.6f}", "-f", "concat", "-safe", "0", "-i", url(segments)]
    sources += ["-i", url(clip.path), "-map", "0:v", "-map", "1:a?"]
    rest = ["-map_metadata", "1", "-map_chapters", "1", "-c:v", "copy"]
    rest += ["-map", "1:t?", "-c:t", "copy"] if suffix == ".mkv" else []
    if suffix in (".mp4", ".mov"):
        rest += ["-movflags", "+faststart", "-video_track_timescale", str(clip.rate)]
    rest += ["-max_interleave_delta", "0", "-f", _FORMATS[suffix], "-y", url(path)]
    copied = ["-map", "1:s?", "-c:s", "copy"]
    converted = ["-map", "1:s?", "-c:s", _TEXT[suffix]]
    notes: tuple[tuple[str | None, list[str]], ...] = (
        (None, copied),
        ("subtitles were converted", converted),
        ("subtitles were left out", []),
    )
    refusal: FFmpegError | None = None
    for sound_note, sound in ((None, "copy"), ("sound was encoded anew", _SOUND[suffix])):
        for note, subtitles in notes:
            try:
                ffmpeg.run([*sources, *subtitles, "-c:a", sound, *rest])
            except FFmpegError as error:
                refusal = error
                if "No space left" in str(error):
                    break
                continue
            said = " and ".join(filter(None, (sound_note, note)))
            return f"{suffix} cannot hold all as it was: {said}" if said else None
    raise AMDRestoreError(f"cannot put the video together: {refusal}; the finished frames are kept") from refusal
