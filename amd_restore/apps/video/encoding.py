"""Codecs, and encoding of frames with their original times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amd_restore.apps.video.clip import Clip, Frame
from amd_restore.apps.video.ffmpeg import FFmpeg, FFmpegError, FFmpegProcess, url
from amd_restore.errors import AMDRestoreError


@dataclass(frozen=True)
class VideoCodec:
    """Arguments of a codec.

    Args:
        encoder: ffmpeg's name.
        crf: default quality, lower is better; None for lossless codecs.
        options: further arguments. They must exclude references to later frames, because segments with varying times
            are joined without re-encoding.
        suffixes: file formats that can contain it.
        chroma: supported subsamplings.
        segment: container of a segment.
    """

    encoder: str
    crf: int | None
    options: tuple[str, ...]
    suffixes: tuple[str, ...]
    chroma: tuple[str, ...] = ("420", "422", "444")
    segment: str = "mp4"


CODECS = {
    "h264": VideoCodec("libx264", 16, ("-preset", "medium", "-bf", "0"), (".mp4", ".mov", ".mkv")),
    "hevc": VideoCodec(
        "libx265",
        18,
        ("-preset", "medium", "-bf", "0", "-x265-params", "log-level=error:bframes=0", "-tag:v", "hvc1"),
        (".mp4", ".mov", ".mkv"),
    ),
    "av1": VideoCodec("libsvtav1", 24, ("-preset", "6"), (".mp4", ".mkv", ".webm"), ("420",)),
    "vp9": VideoCodec("libvpx-vp9", 20, ("-b:v", "0", "-row-mt", "1"), (".mp4", ".mkv", ".webm")),
    # FFV1 has neither range nor matrix, and .mov keeps them only together with primaries.
    "ffv1": VideoCodec("ffv1", None, ("-level", "3"), (".mkv",), segment="matroska"),
}
SUFFIXES = (".mp4", ".mkv", ".mov", ".webm")


def choose_codec(target: Path, name: str | None = None) -> str:
    """Return the codec for a file: the given one, else VP9 for .webm and H.264 for others.

    Raises:
        AMDRestoreError: the file format cannot contain it, or is not a video format.
    """
    suffix = target.suffix.lower()
    if suffix not in SUFFIXES:
        raise AMDRestoreError(f"{target}: the output must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    chosen = name or ("vp9" if suffix == ".webm" else "h264")
    if suffix not in CODECS[chosen].suffixes:
        raise AMDRestoreError(f"{target}: {suffix} holds no {chosen}; use {' or '.join(CODECS[chosen].suffixes)}")
    return chosen


@dataclass(frozen=True)
class Segment:
    """Frames that are encoded together.

    Args:
        clip: source of times and colours.
        first: number of the first frame.
        end: number after the last frame.
        codec: key of ``CODECS``.
        crf: quality; None for the codec's default.
    """

    clip: Clip
    first: int
    end: int
    codec: str
    crf: int | None = None


class SegmentWriter:
    """Encoder of a segment into a file that begins at time 0.

    Args:
        ffmpeg: the program.
        path: file of any name.
        segment: segment to write.
        size: (height, width) of the frames.
    """

    def __init__(self, ffmpeg: FFmpeg, path: Path, segment: Segment, size: tuple[int, int]) -> None:
        height, width = size
        clip, codec = segment.clip, CODECS[segment.codec]
        quality = codec.crf if segment.crf is None else segment.crf
        layout = "rgb48le" if clip.deep else "rgb24"
        raw = ("-f", "rawvideo", "-pixel_format", layout, "-video_size", f"{width}x{height}")
        self._process: FFmpegProcess = ffmpeg.start(
            [
                *(*raw, "-framerate", str(clip.frame_rate), "-i", "pipe:0"),
                *("-vf", _filters(segment, pixel_format(clip, size, codec))),
                *("-fps_mode", "passthrough", "-enc_time_base", f"1/{clip.rate}"),
                *("-c:v", codec.encoder, *codec.options, *_tags(clip)),
                *(() if codec.crf is None else ("-crf", str(quality))),
                *("-video_track_timescale", str(clip.rate), "-f", codec.segment, "-y", url(path)),
            ],
            reads=True,
        )
        self._what = f"cannot encode {segment.codec} at {width}x{height}"

    def __enter__(self) -> SegmentWriter:
        self._process.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._process.__exit__(*error)

    def write(self, frame: Frame) -> None:
        """Encode one frame, (height, width, 3), uint8 or, of a deep clip, uint16.

        Raises:
            AMDRestoreError: ffmpeg refuses.
        """
        try:
            self._process.pipe.write(frame.tobytes())
        except BrokenPipeError:
            self.finish()
            raise

    def finish(self) -> None:
        """Complete the file.

        Raises:
            AMDRestoreError: ffmpeg refuses.
        """
        try:
            self._process.finish()
        except FFmpegError as error:
            raise AMDRestoreError(f"{self._what}: {error}; try another --codec") from error


def pixel_format(clip: Clip, size: tuple[int, int], codec: VideoCodec) -> str:
    """Return a format near the clip's subsampling and depth (8 or 10 bits); odd sides exclude 4:2:0."""
    chroma = clip.chroma if clip.chroma in codec.chroma else "420"
    if (chroma == "420" and size[0] % 2) or (chroma != "444" and size[1] % 2):
        chroma = "444"
    return f"yuv{chroma}p{'10le' if clip.deep else ''}"


def _filters(segment: Segment, layout: str) -> str:
    """Return filters for times, and for the conversion to the clip's colours."""
    clip = segment.clip
    span, matrix, primaries, transfer = clip.colours
    named = ("range", span), ("colorspace", matrix), ("color_primaries", primaries), ("color_trc", transfer)
    return ",".join(
        (
            f"settb=1/{clip.rate}",
            f"setpts='{_times_expression(clip.times[segment.first : segment.end])}'",
            f"scale=in_range=pc:out_range={span}:out_color_matrix={clip.matrix}"
            ":flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp",
            f"format={layout}",
            f"setsar={clip.pixel_aspect}",
            "setparams=" + ":".join(f"{key}={value}" for key, value in named if value),
        )
    )


def _times_expression(times: Sequence[int]) -> str:
    """Return an ffmpeg expression of the tick of frame N, from the first frame."""
    ticks = [time - times[0] for time in times]
    step = ticks[1] if len(ticks) > 1 else 0
    if ticks == [i * step for i in range(len(ticks))]:
        return f"N*{step}"

    def choose(first: int, end: int) -> str:
        if end - first == 1:
            return str(ticks[first])
        middle = (first + end) // 2  # Split in halves, because ffmpeg limits the depth of expressions.
        return f"if(lt(N,{middle}),{choose(first, middle)},{choose(middle, end)})"

    return choose(0, len(ticks))


def _tags(clip: Clip) -> list[str]:
    """Return colour arguments for encoders that do not take them from the frames."""
    names = ("-color_range", "-colorspace", "-color_primaries", "-color_trc")
    return [part for name, value in zip(names, clip.colours, strict=True) if value for part in (name, value)]
