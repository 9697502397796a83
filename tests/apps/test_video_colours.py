"""Videos: colours, range and subsampling as they were; damage is noted, odd names and inputs are told apart."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from video_setup import command, enlarge, leftovers, make

from amd_restore.apps.video import FFmpeg, restore_video
from amd_restore.apps.video.clip import Clip, Frame, read_clip
from amd_restore.apps.video.restore import Encoding


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("range=pc:colorspace=bt709:color_primaries=bt709:color_trc=bt709", ("pc", "bt709", "bt709", "bt709")),
        ("range=tv:colorspace=smpte170m:color_primaries=smpte170m:color_trc=smpte170m", ("tv", *["smpte170m"] * 3)),
        ("range=unknown:colorspace=unknown", ("tv", "smpte170m", None, None)),  # what players assume of small ones
    ],
)
def test_colours_keep_their_values_and_their_names(
    ffmpeg: FFmpeg, tmp_path: Path, tags: str, expected: tuple[str | None, ...]
) -> None:
    source = make(ffmpeg, tmp_path / "in.mp4", frames=2, picture="color=0xC04020:s=32x24", times=f"setparams={tags}")
    restore_video(source, tmp_path / "out.mp4", enlarge, {}, None, ffmpeg)
    before, after = read_clip(source, ffmpeg), read_clip(tmp_path / "out.mp4", ffmpeg)
    assert after.colours == before.colours == expected
    difference = enlarge(next(before.frames(ffmpeg))).astype(int) - next(after.frames(ffmpeg))
    assert np.abs(difference).max() <= 3


@pytest.mark.parametrize("codec", ["ffv1", "h264"])
@pytest.mark.parametrize(
    "tags",
    [
        "range=pc:colorspace=bt709:color_primaries=bt709:color_trc=bt709",
        "range=pc:colorspace=bt709",  # without the names of primaries and transfer
        "range=tv:colorspace=bt709",
        "range=pc:colorspace=smpte170m",
    ],
)
def test_players_see_the_same_colours(ffmpeg: FFmpeg, tmp_path: Path, tags: str, codec: str) -> None:
    """By ffmpeg's own conversion to RGB, which trusts the names in the file."""
    span, matrix = tags.split(":")[:2]
    colours = f"scale=out_range={span[6:]}:out_color_matrix={matrix[11:].replace('smpte170m', 'bt601')}"
    picture = "color=0xC04020:s=32x24"
    source = tmp_path / "in.mkv"
    encoder = ["-c:v", "libx264", "-qp", "0"]
    ffmpeg.run(
        [
            *("-f", "lavfi", "-i", picture, "-frames:v", "1"),
            *("-vf", f"{colours},format=yuv444p,setparams={tags}", *encoder, "-y", str(source)),
        ]
    )
    target = tmp_path / "out.mkv"
    restore_video(source, target, enlarge, {}, Encoding(codec), ffmpeg)
    rgb = [
        subprocess.run(
            [ffmpeg.program, "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
            capture_output=True,
            check=True,
        ).stdout[:3]
        for path in (source, target)
    ]
    assert np.abs(np.frombuffer(rgb[0], np.uint8).astype(int) - np.frombuffer(rgb[1], np.uint8)).max() <= 3
    assert np.abs(np.frombuffer(rgb[0], np.uint8).astype(int) - (0xC0, 0x40, 0x20)).max() <= 4, "the clip is wrong"


@pytest.mark.parametrize(
    ("pixel_format", "chroma", "deep"),
    [
        ("yuv420p", "420", False),
        ("yuvj420p", "420", False),
        ("nv12", "420", False),
        ("yuvj422p", "422", False),  # MJPEG cameras
        ("yuyv422", "422", False),
        ("uyvy422", "422", False),
        ("nv16", "422", False),
        ("yuv422p10le", "422", True),
        ("p210le", "422", True),
        ("y210le", "422", True),
        ("yuvj444p", "444", False),  # screen recordings
        ("yuva444p12le", "444", True),
        ("nv24", "444", False),
        ("vuyx", "444", False),
        ("rgb444le", "420", False),
        ("rgb565le", "420", False),  # 16 bits a pixel
        ("bgr555be", "420", False),
        ("rgb48le", "420", True),
        ("gbrp10le", "420", True),
        ("gray", "420", False),
    ],
)
def test_subsampling_and_depth_by_the_name_of_a_format(pixel_format: str, chroma: str, deep: bool) -> None:
    clip = Clip(Path("in.mov"), 32, 24, pixel_format, "1/1", ("pc", "bt709", None, None), 25, [0], False)
    assert (clip.chroma, clip.deep) == (chroma, deep)


@pytest.mark.parametrize("pixel_format", ["yuvj422p", "yuvj444p"])
def test_full_range_keeps_its_subsampling(ffmpeg: FFmpeg, tmp_path: Path, pixel_format: str) -> None:
    source = tmp_path / "in.mov"
    ffmpeg.run(
        [
            "-f",
            "lavfi",
            "-i",
            "testsrc2=s=32x24",
            "-frames:v",
            "2",
            "-c:v",
            "mjpeg",
            "-pix_fmt",
            pixel_format,
            str(source),
        ]
    )
    assert read_clip(source, ffmpeg).pixel_format == pixel_format
    restore_video(source, tmp_path / "out.mp4", enlarge, {}, None, ffmpeg)
    after = read_clip(tmp_path / "out.mp4", ffmpeg)
    assert after.chroma == pixel_format[4:7] and after.colours[0] == "pc"


def test_damage_is_noted_and_counted(ffmpeg: FFmpeg, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = make(ffmpeg, tmp_path / "whole.mkv", options=["-g", "4", "-cluster_time_limit", "100"])
    data = whole.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    assert read_clip(whole, ffmpeg).complaints == ()
    notes: list[str] = []
    summary = restore_video(tmp_path / "cut.mkv", tmp_path / "a.mp4", enlarge, {}, None, ffmpeg, note=notes.append)
    assert 0 < summary.frames < 20 and summary.complaints
    assert [note for note in notes if f"ffmpeg complains {summary.complaints} time" in note]
    assert command(tmp_path, "-i", tmp_path / "cut.mkv", "-o", tmp_path / "b.mp4") == 0
    count = "1 complaint" if summary.complaints == 1 else f"{summary.complaints} complaints"
    assert f"; the input is damaged ({count})" in capsys.readouterr().out


def test_small_things_of_the_command(ffmpeg: FFmpeg, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make(ffmpeg, tmp_path / "in.mp4", frames=1)
    longest = tmp_path / f"{'n' * 246}.mp4"
    assert command(tmp_path, "-i", source, "-o", longest) == 0
    assert longest.exists() and leftovers(tmp_path) == []
    assert "n.mp4: 1 frame, " in capsys.readouterr().out
    assert command(tmp_path, "-i", tmp_path, "-o", tmp_path / "out.mp4") == 2
    assert f"{tmp_path}: is a folder; name one video" in capsys.readouterr().err
    assert command(tmp_path, "-i", source, "-o", tmp_path / "out.mov", "--codec", "ffv1") == 2
    assert ".mov holds no ffv1; use .mkv" in capsys.readouterr().err


def test_an_unnamed_matrix_is_named_when_a_small_video_becomes_a_large_one(ffmpeg: FFmpeg, tmp_path: Path) -> None:
    """Players take the matrix of unnamed colours from the size: left unnamed, they would shift."""
    source = make(ffmpeg, tmp_path / "in.mp4", frames=1, picture="color=0xC04020:s=160x160")
    restore_video(source, tmp_path / "out.mp4", enlarge, {}, None, ffmpeg)
    assert read_clip(tmp_path / "out.mp4", ffmpeg).colours[1] == "smpte170m"


def test_ten_bits_stay_ten_bits(ffmpeg: FFmpeg, tmp_path: Path) -> None:
    ramp = "gradients=s=32x24:c0=black:c1=white:x0=0:y0=0:x1=31:y1=0,format=yuv420p10le"
    source = tmp_path / "in.mkv"
    ffmpeg.run(["-f", "lavfi", "-i", ramp, "-frames:v", "2", "-c:v", "ffv1", "-pix_fmt", "yuv420p10le", str(source)])
    types = set()

    def noting(frame: Frame) -> Frame:
        types.add(frame.dtype)
        return enlarge(frame)

    restore_video(source, tmp_path / "out.mkv", noting, {}, Encoding("ffv1"), ffmpeg)
    assert types == {np.dtype("<u2")}
    before, after = read_clip(source, ffmpeg), read_clip(tmp_path / "out.mkv", ffmpeg)
    assert after.pixel_format == "yuv420p10le"
    difference = enlarge(next(before.frames(ffmpeg))).astype(int) - next(after.frames(ffmpeg))
    assert np.abs(difference).mean() < 65535 / 1023, "more than one step of ten bits"
