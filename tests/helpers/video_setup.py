"""What the tests of videos share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_model import save_tiny

from amd_restore.apps.cli.video import main
from amd_restore.apps.video import FFmpeg
from amd_restore.apps.video.clip import Frame
from amd_restore.errors import AMDRestoreError


@pytest.fixture(scope="module")
def ffmpeg() -> FFmpeg:
    """The program, or the tests are skipped."""
    try:
        return FFmpeg()
    except AMDRestoreError as error:
        pytest.skip(str(error))


def enlarge(frame: Frame) -> Frame:
    """In place of a network: each pixel four times along each axis."""
    return frame.repeat(4, 0).repeat(4, 1)


def make(ffmpeg: FFmpeg, path: Path, *, frames: int = 20, times: str = "null", sound: str = "", **more: Any) -> Path:
    """A test clip of 32x24 pixels, 25 frames a second unless ``times`` says otherwise, in H.264 with B-frames."""
    picture = more.get("picture", "testsrc2=s=32x24:r=25")
    audio = ["-f", "lavfi", "-i", f"sine=frequency=440:duration={frames / 25}", "-c:a", sound] if sound else []
    ffmpeg.run(
        [
            *("-f", "lavfi", "-i", picture, *audio),
            *("-frames:v", str(frames), "-vf", times, "-fps_mode", "passthrough", "-enc_time_base", "1/12800"),
            *("-c:v", "libx264", "-bf", "2", "-crf", "10", *more.get("options", ()), "-y", str(path)),
        ]
    )
    return path


def leftovers(folder: Path) -> list[str]:
    """Whatever a run should have removed."""
    return [file.name for file in folder.iterdir() if file.name.startswith(".") or file.suffix == ".part"]


def command(tmp_path: Path, *arguments: object) -> int:
    """The command, with small random weights."""
    weights = tmp_path / "tiny.safetensors"
    if not weights.exists():
        save_tiny(weights)
    fixed = ("--model", weights, "--device", "cpu", "--dtype", "fp32", "--tile", 0)
    return main([str(argument) for argument in (*arguments, *fixed)])
