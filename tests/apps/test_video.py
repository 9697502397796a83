"""Videos: every frame at its time, sound and colours as they were, one noise for all, nothing lost to a kill."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from places import REPOSITORY
from video_setup import command, enlarge, leftovers, make
from warm_python import warm_python

from amd_restore.apps.cli import video
from amd_restore.apps.cli.video import main
from amd_restore.apps.video import FFmpeg, restore_video
from amd_restore.apps.video.clip import Clip, Frame, read_clip
from amd_restore.apps.video.encoding import Segment, SegmentWriter
from amd_restore.apps.video.restore import Encoding
from amd_restore.apps.video.work_folder import WorkFolder
from amd_restore.errors import AMDRestoreError

# Uneven, as phones record, with a gap; ticks of 1/12800 s.
UNEVEN = "settb=1/12800,setpts='N*512+gte(N,7)*1111+100*mod(N,3)'"


def copied(ffmpeg: FFmpeg, path: Path, streams: str) -> str:
    """Times, sizes and checksums of the packets of streams, as they are stored."""
    command = [ffmpeg.program, "-nostdin", "-loglevel", "error", "-i", str(path), "-map", streams, "-c", "copy"]
    answer = subprocess.run([*command, "-f", "framecrc", "-"], capture_output=True, text=True, check=True)
    return "\n".join(line for line in answer.stdout.splitlines() if not line.startswith("#software"))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_every_frame_keeps_its_time_and_the_sound_is_copied(ffmpeg: FFmpeg, tmp_path: Path, suffix: str) -> None:
    source = make(ffmpeg, tmp_path / "in.mp4", times=UNEVEN, sound="aac", options=["-metadata", "title=Fox"])
    target = tmp_path / f"out{suffix}"
    summary = restore_video(source, target, enlarge, {}, Encoding(segment=6), ffmpeg)
    before, after = read_clip(source, ffmpeg), read_clip(target, ffmpeg)
    assert (summary.frames, summary.restored) == (20, 20)
    assert (after.width, after.height) == (128, 96)
    expected = np.array(before.times) / before.rate
    assert len(set(np.diff(before.times))) == 3, "the clip is even, so this test shows nothing"
    if suffix == ".mkv":  # it counts milliseconds, and begins with the sound's lead-in
        times = np.array(after.times) / after.rate
        np.testing.assert_allclose(times - times[0], expected, atol=1.1e-3)
        assert times[0] < 0.03
    else:
        assert (after.rate, after.times) == (before.rate, before.times)
        assert copied(ffmpeg, target, "0:a") == copied(ffmpeg, source, "0:a")
    assert "title           : Fox" in ffmpeg.run(["-i", str(target), "-f", "null", "-"], "info")
    assert leftovers(tmp_path) == []


def test_a_late_picture_stays_late(ffmpeg: FFmpeg, tmp_path: Path) -> None:
    source = make(ffmpeg, tmp_path / "in.mp4", times="settb=1/12800,setpts='N*512+6400'", sound="aac")
    assert read_clip(source, ffmpeg).times[0] == 6400
    restore_video(source, tmp_path / "out.mp4", enlarge, {}, None, ffmpeg)
    assert read_clip(tmp_path / "out.mp4", ffmpeg).times == read_clip(source, ffmpeg).times
    assert copied(ffmpeg, tmp_path / "out.mp4", "0:a") == copied(ffmpeg, source, "0:a")


def test_subtitles_are_copied_or_converted_and_that_is_said(ffmpeg: FFmpeg, tmp_path: Path) -> None:
    (tmp_path / "in.srt").write_text("1\n00:00:00,100 --> 00:00:00,500\nA fox.\n", encoding="utf-8")
    source, both = tmp_path / "in.mkv", ("-map", "0", "-map", "1", "-c:v", "copy", "-c:s", "srt")
    picture = make(ffmpeg, tmp_path / "picture.mp4")
    ffmpeg.run(["-i", str(picture), "-i", str(tmp_path / "in.srt"), *both, str(source)])
    notes: list[str] = []
    restore_video(source, tmp_path / "out.mkv", enlarge, {}, None, ffmpeg, note=notes.append)
    assert notes == []
    restore_video(source, tmp_path / "out.mp4", enlarge, {}, None, ffmpeg, note=notes.append)
    assert notes == [".mp4 cannot hold all as it was: subtitles were converted"]
    for name in ("out.mkv", "out.mp4"):
        ffmpeg.run(["-i", str(tmp_path / name), "-map", "0:s:0", "-y", str(tmp_path / "back.srt")])
        assert "A fox." in (tmp_path / "back.srt").read_text(encoding="utf-8")


def test_rotation_is_applied_once(ffmpeg: FFmpeg, tmp_path: Path) -> None:
    plain = make(ffmpeg, tmp_path / "plain.mp4", frames=3)
    source = tmp_path / "in.mp4"
    try:
        ffmpeg.run(["-display_rotation", "90", "-i", str(plain), "-c", "copy", str(source)])
    except AMDRestoreError:  # before ffmpeg 6
        ffmpeg.run(["-i", str(plain), "-c", "copy", "-metadata:s:v:0", "rotate=90", str(source)])
    restore_video(source, tmp_path / "out.mkv", enlarge, {}, Encoding("ffv1"), ffmpeg)
    upright, turned = read_clip(plain, ffmpeg), read_clip(tmp_path / "out.mkv", ffmpeg)
    assert (turned.width, turned.height) == (96, 128)
    expected = np.rot90(enlarge(next(upright.frames(ffmpeg)))).astype(int)
    assert np.abs(next(turned.frames(ffmpeg)).astype(int) - expected).mean() < 6  # 4:2:0 blurs the edges' colours


def test_odd_sizes_are_kept(ffmpeg: FFmpeg, tmp_path: Path) -> None:
    source = make(ffmpeg, tmp_path / "in.mp4", frames=2)
    restore_video(source, tmp_path / "out.mp4", lambda frame: frame[:23, :31].copy(), {}, None, ffmpeg)
    after = read_clip(tmp_path / "out.mp4", ffmpeg)
    assert (after.width, after.height, after.pixel_format) == (31, 23, "yuv444p")


def test_long_uneven_segments(ffmpeg: FFmpeg, tmp_path: Path) -> None:
    times = sorted(np.random.default_rng(0).choice(100_000, 1000, replace=False).tolist())
    clip = Clip(tmp_path / "x", 32, 24, "yuv420p", "1/1", ("tv", "bt709", None, None), 12800, times, False)
    path = tmp_path / "segment.mp4"
    with SegmentWriter(ffmpeg, path, Segment(clip, 0, 1000, "h264"), (24, 32)) as writer:
        for i in range(1000):
            writer.write(np.full((24, 32, 3), i % 256, np.uint8))
        writer.finish()
    assert read_clip(path, ffmpeg).times == [time - times[0] for time in times]


@pytest.mark.parametrize("name", ["-dash.mp4", "it's 100% ünï:code, [a]=b;.mp4"])
def test_strange_names(ffmpeg: FFmpeg, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "to").mkdir()
    monkeypatch.chdir(tmp_path)
    make(ffmpeg, tmp_path / "in.mp4", frames=3).rename(tmp_path / name)
    restore_video(Path(name), Path("to") / name, enlarge, {}, Encoding(segment=2), ffmpeg)
    assert len(read_clip(tmp_path / "to" / name, ffmpeg).times) == 3


# A run that is killed: at a known frame, or just before the output appears.
RUN = """
import os, signal, sys, time
from pathlib import Path
from amd_restore.apps.video import restore_video
from amd_restore.apps.video.restore import Encoding
from amd_restore.apps.video.work_folder import WorkFolder
source, target, deadly, pause = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], float(sys.argv[4])
seen = 0
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if deadly == "join":
    publish = WorkFolder.publish
    WorkFolder.publish = lambda self, part, path: kill() if path == target else publish(self, part, path)
def restore(frame):
    global seen
    seen += 1
    if str(seen) == deadly:
        kill()
    time.sleep(pause)
    return frame.repeat(4, 0).repeat(4, 1)
summary = restore_video(source, target, restore, {}, Encoding(segment=4))
print(summary.restored)
"""


def run(source: Path, target: Path, deadly: str = "", pause: float = 0.0) -> subprocess.Popen[str]:
    command = [warm_python(), "-c", RUN, str(source), str(target), deadly, str(pause)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_being_told_to_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(video, "run", lambda options: signal.raise_signal(signal.SIGTERM))
    assert video.main(["-i", "in.mp4", "-o", "out.mp4"]) == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on from there\n"


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_killed_runs_go_on_and_give_the_same_bytes(ffmpeg: FFmpeg, tmp_path: Path) -> None:
    source = make(ffmpeg, tmp_path / "in.mp4", times=UNEVEN, sound="aac")
    undisturbed, target = tmp_path / "undisturbed.mp4", tmp_path / "out.mp4"
    assert run(source, undisturbed).communicate()[0].strip() == "20"
    # Segments have 4 frames; what an earlier run finished is not restored again.
    for deadly, segments in (("1", 0), ("7", 1), ("6", 2), ("join", 5)):
        process = run(source, target, deadly)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not target.exists()
        assert WorkFolder(target, {}).finished() == segments
    assert run(source, target).communicate()[0].strip() == "0"
    assert target.read_bytes() == undisturbed.read_bytes()
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_kills_at_any_moment(ffmpeg: FFmpeg, tmp_path: Path) -> None:
    source = make(ffmpeg, tmp_path / "in.mp4", times=UNEVEN)
    undisturbed, target = tmp_path / "undisturbed.mp4", tmp_path / "out.mp4"
    run(source, undisturbed).communicate()
    for wait in (0.4, 0.7, 1.1, 1.6):
        process = run(source, target, pause=0.05)
        time.sleep(wait)
        process.kill()
        process.communicate()
    run(source, target).communicate()
    assert target.read_bytes() == undisturbed.read_bytes()
    assert leftovers(tmp_path) == []


def test_work_of_other_options_is_not_used(ffmpeg: FFmpeg, tmp_path: Path) -> None:
    source, target = make(ffmpeg, tmp_path / "in.mp4"), tmp_path / "out.mp4"
    left: list[Frame] = []

    def give_up(frame: Frame) -> Frame:
        if len(left) == 6:
            raise AMDRestoreError("enough")
        left.append(frame)
        return enlarge(frame)

    with pytest.raises(AMDRestoreError, match="enough"):
        restore_video(source, target, give_up, {"seed": 0}, Encoding(segment=4), ffmpeg)
    assert WorkFolder(target, {}).finished() == 1
    notes: list[str] = []
    summary = restore_video(source, target, enlarge, {"seed": 1}, Encoding(segment=4), ffmpeg, note=notes.append)
    assert summary.restored == 20
    assert len(notes) == 1 and "thrown away" in notes[0]


@pytest.mark.skipif(os.name == "nt", reason="not told apart there")
def test_two_runs_for_one_output(ffmpeg: FFmpeg, tmp_path: Path) -> None:
    source, target = make(ffmpeg, tmp_path / "in.mp4", frames=2), tmp_path / "out.mp4"
    with (
        WorkFolder(target, {}),
        pytest.raises(AMDRestoreError, match=r"out\.mp4: another process is making it"),
    ):
        restore_video(source, target, enlarge, {}, None, ffmpeg)


def test_command(ffmpeg: FFmpeg, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = make(ffmpeg, tmp_path / "in.mp4", frames=5, sound="aac"), tmp_path / "new" / "out.mp4"
    assert command(tmp_path, "-i", source, "-o", target, "-s", 2.5, "--segment", 3) == 0
    assert f"{target}: 5 frames, " in capsys.readouterr().out
    clip = read_clip(target, ffmpeg)
    assert (clip.width, clip.height, len(clip.times)) == (80, 60, 5)
    first = target.read_bytes()
    assert command(tmp_path, "-i", source, "-o", target, "--seed", 1) == 0
    assert "exists and is kept" in capsys.readouterr().out
    assert target.read_bytes() == first
    assert command(tmp_path, "-i", source, "-o", target, "--seed", 1, "--overwrite") == 0
    assert (read_clip(target, ffmpeg).width, leftovers(target.parent)) == (128, [])


def test_the_file_behind_a_link_is_replaced_and_keeps_its_mode(ffmpeg: FFmpeg, tmp_path: Path) -> None:
    link, real = tmp_path / "out.mp4", tmp_path / "store" / "real.mp4"
    real.parent.mkdir()
    real.touch(0o600)
    link.symlink_to(real)
    restore_video(make(ffmpeg, tmp_path / "in.mp4", frames=2), link, enlarge, {}, None, ffmpeg)
    assert link.is_symlink() and real.stat().st_mode & 0o777 == 0o600
    assert len(read_clip(real, ffmpeg).times) == 2 and leftovers(real.parent) == []


def test_a_still_picture_stays_still(ffmpeg: FFmpeg, tmp_path: Path) -> None:
    """All frames get one noise; with another seed they get another one."""
    still = f"{REPOSITORY / 'lowres' / 'kingfisher.png'}"
    source = tmp_path / "in.mkv"
    crop = ["-vf", "crop=32:24:100:50,format=yuv444p", "-c:v", "ffv1"]
    ffmpeg.run(["-loop", "1", "-i", still, "-frames:v", "4", *crop, str(source)])
    frames = {}
    for seed in (0, 1):
        target = tmp_path / f"{seed}.mkv"
        assert command(tmp_path, "-i", source, "-o", target, "--codec", "ffv1", "--seed", seed, "--segment", 2) == 0
        frames[seed] = list(read_clip(target, ffmpeg).frames(ffmpeg))
    for frame in frames[0][1:]:
        np.testing.assert_array_equal(frame, frames[0][0])
    assert np.abs(frames[0][0].astype(int) - frames[1][0]).mean() > 1


def test_leftovers_of_a_finished_run(ffmpeg: FFmpeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = make(ffmpeg, tmp_path / "in.mp4", frames=2), tmp_path / "out.mp4"
    with monkeypatch.context() as patched:
        patched.setattr(WorkFolder, "remove", lambda self: None)
        restore_video(source, target, enlarge, {}, None, ffmpeg)
    assert leftovers(tmp_path) == [".out.mp4.amd-restore"]
    assert command(tmp_path, "-i", source, "-o", target) == 0
    assert leftovers(tmp_path) == []


def test_no_ffmpeg(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amd_restore.apps.video.ffmpeg._packaged", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["-i", "in.mp4", "-o", str(tmp_path / "out.mp4")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "apt install ffmpeg" in message
    with pytest.raises(SystemExit) as end:
        main([])
    message = capsys.readouterr().err
    assert end.value.code == 2 and message.count("\n") == 1
    assert message.index("apt install ffmpeg") < message.index("required: -i/--input")


def test_bad_input_is_one_line(ffmpeg: FFmpeg, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = make(ffmpeg, tmp_path / "good.mp4", frames=3)
    (tmp_path / "text.mp4").write_text("not a video", encoding="utf-8")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (tmp_path / "folder.mp4").mkdir()
    ffmpeg.run(["-f", "lavfi", "-i", "sine=duration=0.1", str(tmp_path / "sound.mp4")])
    shutil.copy(good, tmp_path / "same.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    before = sorted(tmp_path.iterdir())
    cases = {
        ("absent.mp4", "out.mp4"): "no such file",
        ("text.mp4", "out.mp4"): "cannot be read as a video",
        ("empty.mp4", "out.mp4"): "cannot be read as a video",
        ("cut.mp4", "out.mp4"): "cannot be read as a video",
        ("sound.mp4", "out.mp4"): "it holds no video",
        ("folder.mp4", "out.mp4"): "is a folder; name one video",
        ("good.mp4", "out.gif"): "must end in .mp4",
        ("good.mp4", "folder.mp4"): "is a folder",
        ("good.mp4", "good.mp4/out.mp4"): "cannot write",
        ("good.mp4", "pipe.mp4", "--overwrite"): "it is no ordinary file",
        ("same.mp4", "same.mp4", "--overwrite"): "is the input",
        ("good.mp4", "out.webm", "--codec", "h264"): ".webm holds no h264",
    }
    for (source, target, *more), words in cases.items():
        assert command(tmp_path, "-i", tmp_path / source, "-o", tmp_path / target, *more) == 2, source
        message = capsys.readouterr().err
        assert words in message and message.count("\n") == 1, message
    assert [file for file in sorted(tmp_path.iterdir()) if file.suffix != ".safetensors"] == before
