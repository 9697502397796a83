"""Properties of a video: sizes, colours, and the time of each frame."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from amd_restore.apps.video.ffmpeg import FFmpeg, FFmpegError, url
from amd_restore.errors import AMDRestoreError

Frame = np.ndarray[Any, np.dtype[Any]]
_UNKNOWN = ("unknown", "unspecified", "reserved", "")
# ffmpeg's name of a matrix -> the same for its filter ``scale``, which does all conversions
_MATRICES = {
    "bt709": "bt709",
    "fcc": "fcc",
    "bt470bg": "bt470",
    "smpte170m": "smpte170m",
    "smpte240m": "smpte240m",
    "bt2020nc": "bt2020",
    "bt2020ncl": "bt2020",
}
# Subsampling -> parts of format names with it; most contain the number, as in yuvj422p and yuyv422.
_CHROMA = {"422": r"422|nv16|nv20|^[py]21\d", "444": r"444|nv24|nv42|^p41\d|vuy|ayuv|uyva|xv3|xv48|v30x"}
_FINEST = 1_000_000  # ticks per second; the list of segments uses microseconds
_FIELDS = ("color_range", "color_space", "color_primaries", "color_trc")


@dataclass(frozen=True)
class Clip:
    """First video stream of a file, except cover images, with its rotation applied.

    Args:
        path: file.
        width, height: size of the first frame in pixels; later frames are scaled to it.
        pixel_format: ffmpeg's name.
        pixel_aspect: width / height of a pixel.
        colours: range, matrix, primaries, transfer in ffmpeg's names; a missing range or matrix has the players'
            default, other missing values are None.
        rate: ticks per second.
        times: tick at which each frame is shown, from the start of the file, increasing.
        interlaced: whether the first frame is interlaced.
        complaints: ffmpeg's errors about the file, which may have missing or damaged frames.
    """

    path: Path
    width: int
    height: int
    pixel_format: str
    pixel_aspect: str
    colours: tuple[str, str, str | None, str | None]
    rate: int
    times: Sequence[int]
    interlaced: bool
    complaints: tuple[str, ...] = ()

    @property
    def deep(self) -> bool:
        """Return whether the video has more than 8 bits per channel; its frames then have 16."""
        return _bits(self.pixel_format) > 8

    @property
    def chroma(self) -> str:
        """Return the subsampling of the format: 420, 422 or 444; 420 for all others and RGB."""
        if is_rgb(self.pixel_format):
            return "420"
        return next((name for name, formats in _CHROMA.items() if re.search(formats, self.pixel_format)), "420")

    @property
    def matrix(self) -> str:
        """Return the matrix for the filter ``scale``."""
        return _MATRICES[self.colours[1]]

    @property
    def frame_rate(self) -> Fraction:
        """Return the average number of frames per second."""
        if len(self.times) < 2:
            return Fraction(25)
        mean = Fraction(self.rate * (len(self.times) - 1), self.times[-1] - self.times[0])
        return max(mean.limit_denominator(1001), Fraction(1, 1001))

    def seconds(self, first: int, end: int) -> Fraction:
        """Return the duration of the frames from ``first`` to before ``end``, in seconds."""
        return Fraction(self._time(end) - self._time(first), self.rate)

    def _time(self, index: int) -> int:
        """Return the tick of a frame, or of the one that would follow the last."""
        if index < len(self.times):
            return self.times[index]
        step = self.times[-1] - self.times[-2] if len(self.times) > 1 else round(self.rate / self.frame_rate)
        return self.times[-1] + step

    def frames(self, ffmpeg: FFmpeg, first: int = 0) -> Generator[Frame, None, None]:
        """Yield frames from number ``first`` on, (height, width, 3), RGB, uint8 or uint16.

        Raises:
            AMDRestoreError: ffmpeg fails, or gives fewer frames than before.
        """
        dtype, layout = (np.dtype("<u2"), "rgb48le") if self.deep else (np.dtype("u1"), "rgb24")
        source = "" if is_rgb(self.pixel_format) else f":in_color_matrix={self.matrix}"
        filters = (
            # All earlier frames are decoded but not converted, because seeking is not exact.
            f"select='gte(n,{first})',"
            f"scale={self.width}:{self.height}:in_range={self.colours[0]}{source}:out_range=pc"
            f":flags=bicubic+accurate_rnd+full_chroma_int,format={layout}"
        )
        arguments = ["-i", url(self.path), "-map", "0:V:0", "-vf", filters, "-fps_mode", "passthrough"]
        with ffmpeg.start([*arguments, "-f", "rawvideo", "pipe:1"]) as decoder:
            for index in range(first, len(self.times)):
                data = bytearray(self.height * self.width * 3 * dtype.itemsize)
                if decoder.pipe.readinto(data) < len(data):  # type: ignore[attr-defined]
                    try:
                        decoder.finish()
                        reason = "it changed meanwhile, or is damaged"
                    except FFmpegError as error:
                        reason = str(error)
                    raise AMDRestoreError(f"{self.path}: cannot read frame {index} of {len(self.times)}: {reason}")
                yield np.frombuffer(data, dtype).reshape(self.height, self.width, 3)


def read_clip(path: Path, ffmpeg: FFmpeg) -> Clip:
    """Decode the video once to find the times of its frames, because file headers are often wrong.

    Raises:
        AMDRestoreError: no such file, or no video that ffmpeg can read.
    """
    if not path.is_file():
        what = "is a folder; give one video" if path.is_dir() else "no such file"
        raise AMDRestoreError(f"{path}: {what}")
    arguments = ["-i", url(path), "-map", "0:V:0", "-fps_mode", "passthrough"]
    try:
        try:
            said = ffmpeg.run([*arguments, "-vf", "showinfo=checksum=0", "-f", "null", "-"], "level+info")
        except FFmpegError:
            ffmpeg.run([*arguments, "-f", "null", "-"])  # Log errors only, without information.
            raise
    except FFmpegError as error:
        reason = "it holds no video" if "matches no streams" in str(error) else str(error)
        raise AMDRestoreError(f"{path}: cannot be read as a video: {reason}") from error
    lines = [line for line in said.splitlines() if line.startswith("[Parsed_showinfo")]
    base = re.search(r"config in time_base: (\d+)/(\d+)", said)
    frames = [line for line in lines if re.search(r"\] n: *\d+ ", line)]
    if base is None or not frames:
        raise AMDRestoreError(f"{path}: cannot be read as a video: it has no frames")
    described = {key: value for key, value in re.findall(r"(\w+):(\S+)", frames[0])}
    width, height = map(int, described["s"].split("x"))
    tags = {key: value for line in lines if "color_range:" in line for key, value in re.findall(r"(\w+):(\S+)", line)}
    rate, times = _ticks(frames, Fraction(int(base[1]), int(base[2])))
    return Clip(
        path=path,
        width=width,
        height=height,
        pixel_format=described["fmt"],
        pixel_aspect=described.get("sar", "1/1"),
        colours=_colours([tags.get(field, "") for field in _FIELDS], described["fmt"], width, height),
        rate=rate,
        times=times,
        interlaced=described.get("i") in ("T", "B"),
        complaints=tuple(re.findall(r"\[(?:error|fatal)\] (.+)", said)),
    )


def _ticks(frames: Sequence[str], base: Fraction) -> tuple[int, list[int]]:
    """Return ticks per second and the tick of each frame; corrects times that do not increase or are missing."""
    rate = base.denominator if base.denominator <= _FINEST else _FINEST
    times: list[int] = []
    for line in frames:
        found = re.search(r" pts: *(-?\d+)", line)
        lowest = times[-1] + 1 if times else 0
        guess = 2 * times[-1] - times[-2] if len(times) > 1 else lowest
        times.append(max(lowest, round(int(found[1]) * base * rate) if found else guess))
    return rate, times


def _colours(
    tags: Sequence[str], pixel_format: str, width: int, height: int
) -> tuple[str, str, str | None, str | None]:
    """Return range, matrix, primaries and transfer, see :class:`Clip`."""
    span, matrix, primaries, transfer = (None if tag in _UNKNOWN else tag for tag in tags)
    if matrix not in _MATRICES:
        matrix = "bt709" if width >= 1280 or height > 576 else "smpte170m"
    if span not in ("tv", "pc"):
        span = "pc" if pixel_format.startswith("yuvj") or is_rgb(pixel_format) else "tv"
    return span, matrix, primaries, transfer


def _bits(pixel_format: str) -> int:
    found = re.search(r"(\d+)[lb]e$", pixel_format)
    if found is None or found[1] in ("444", "555", "565"):  # bits of red, green and blue
        return 8
    return int(found[1])


def is_rgb(pixel_format: str) -> bool:
    """Return whether this format is RGB, which has no matrix."""
    return pixel_format.startswith("pal") or any(name in pixel_format for name in ("rgb", "bgr", "gbr"))
