"""The limit on memory counts every picture: those read ahead, restored, resized and written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import REPOSITORY
from tiny_model import save_tiny

from amd_restore.apps.cli import main
from amd_restore.apps.files.engine import Engine
from amd_restore.apps.files.plan import Job, plan_jobs
from amd_restore.apps.files.restorer import Restorer
from amd_restore.apps.files.settings import Settings
from amd_restore.image_io import Picture, read_shape, write_image
from amd_restore.inference import memory
from amd_restore.inference.memory import MIB, Account

LIMIT = memory.RUNTIME // MIB + 400  # MiB
# The command with a network that takes no time; then the peak of the process, in MiB.
SCRIPT = """
import sys, time
from amd_restore.apps.files.work import Work
from amd_restore.apps.cli import main

def stream(self, target, picture, progress):
    time.sleep(0.3)  # in which others are read
    target.touch()
    return picture.pixels.shape[:2]

if sys.argv.pop(1) == "fast":
    Work.stream = stream
code = main(sys.argv[1:])
print("peak", next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(code)
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is asked from Linux")


def run(folder: Path, kind: str, *arguments: str) -> tuple[int, float, str]:
    """Exit code, peak in MiB, and what was said."""
    weights = folder / "tiny.safetensors"
    command = [sys.executable, "-c", SCRIPT, kind, "--model", str(weights), "--device", "cpu", *arguments]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    peak = re.search(r"^peak (\d+)", done.stdout, re.MULTILINE)
    assert peak, done.stderr
    return done.returncode, int(peak[1]) / 1024, done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``in`` with a small picture and six of 75 MB."""
    folder = tmp_path_factory.mktemp("place")
    save_tiny(folder / "tiny.safetensors")
    (folder / "in").mkdir()
    Image.new("RGB", (16, 16)).save(folder / "in" / "0.png")
    large = Image.new("RGB", (5000, 5000), (80, 90, 100))
    large.save(folder / "in" / "1.png", compress_level=1)
    for number in range(2, 7):
        shutil.copy(folder / "in" / "1.png", folder / "in" / f"{number}.png")
    return folder


@linux
def test_pictures_that_are_read_ahead_count(place: Path) -> None:
    code, peak, said = run(place, "fast", "-i", "in", "-o", "fast", "--workers", "8", "--max-memory", f"{LIMIT}M")
    assert code == 0, said
    assert peak < LIMIT


@linux
def test_what_cannot_fit_is_refused_before_it_is_read(place: Path) -> None:
    limit = memory.RUNTIME // MIB + 80
    code, peak, said = run(place, "real", "-i", "in", "-o", "real", "--max-memory", f"{limit}M")
    assert code == 1
    assert len(re.findall(rf"{limit} MiB of memory are too little .* 5000x5000 pixels, which needs \d+ MiB", said)) == 6
    assert sorted(path.name for path in (place / "real").iterdir()) == ["0.png"]
    assert peak < limit


def test_memory_that_runs_out_all_the_same(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may take what was free."""

    def resize(*_: object) -> None:
        raise MemoryError("Unable to allocate 22.4 GiB")

    monkeypatch.setattr("amd_restore.apps.files.work.resize", resize)
    weights = str(place / "tiny.safetensors")
    assert main(["-i", str(place / "in" / "0.png"), "-o", str(tmp_path), "-s", "5", "--model", weights]) == 1
    said = capsys.readouterr().err
    assert "0.png: out of memory; lower --workers" in said and "report it" not in said


@linux
def test_a_resized_output_counts(place: Path) -> None:
    limit = memory.RUNTIME // MIB + 350
    Image.new("RGB", (100, 100)).save(place / "a.png")
    code, peak, said = run(place, "real", "-i", "a.png", "-o", "r", "-s", "30", "--max-memory", f"{limit}M")
    assert code == 0, said
    assert peak < limit


@pytest.mark.parametrize(
    "options", [["-s", "30"], ["--width", "9000"], ["--n-samples", "99"], ["--compare"], ["--uncertainty"]]
)
def test_outputs_that_cannot_fit_are_refused_with_the_number(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, large = save_tiny(tmp_path / "tiny.safetensors"), "--compare" in options or "--uncertainty" in options
    Image.new("RGB", (1200, 1200) if large else (300, 300)).save(tmp_path / "a.png")
    arguments = ["-i", str(tmp_path / "a.png"), "--model", str(weights), "--device", "cpu", *options]
    limit = memory.process_memory() // MIB + memory.KEPT // MIB + 120
    assert main([*arguments, "-o", str(tmp_path / "out"), "--max-memory", f"{limit}M"]) == 1
    said = capsys.readouterr().err
    needed = re.search(
        r"are too little for an input of \d+x\d+ pixels, which needs (\d+) MiB; raise the memory limit", said
    )
    assert needed and int(needed[1]) > limit and "PNG" not in said
    # The same without a limit, where little is free.
    monkeypatch.setattr(memory, "available_memory", lambda device: 100 * MIB)
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 1
    assert "100 MiB of free memory are too little" in capsys.readouterr().err
    assert not any((tmp_path / "out").iterdir())


def test_a_format_that_is_streamed_is_named_where_it_helps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (1200, 1200)).save(tmp_path / "a.png")
    arguments = ["-i", str(tmp_path / "a.png"), "--model", str(save_tiny(tmp_path / "tiny.safetensors"))]
    monkeypatch.setattr(memory, "available_memory", lambda device: 100 * MIB)
    assert main([*arguments, "--device", "cpu", "-o", str(tmp_path / "a.jpg")]) == 1
    assert "; close other programs, or write a PNG or TIFF file, which is streamed\n" in capsys.readouterr().err


def test_a_limit_below_the_process_itself_is_refused_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-i", str(place / "in"), "-o", str(place / "none"), "--model", str(place / "tiny.safetensors")]
    assert main([*arguments, "--device", "cpu", "--max-memory", "0.01"]) == 2
    said = capsys.readouterr().err
    needed = re.fullmatch(r"--max-memory: 0\.01 MiB are less than the (\d+) MiB that the process takes .*\n", said)
    assert needed and int(needed[1]) >= memory.GRAPH_RUNTIME // MIB
    assert not (place / "none").exists()


def test_standard_streams_have_the_same_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = save_tiny(tmp_path / "tiny.safetensors")
    Image.new("RGB", (300, 300)).save(tmp_path / "a.png")
    arguments = ["-i", str(tmp_path / "a.png"), "-o", "-", "--model", str(weights), "--device", "cpu"]
    limit = memory.process_memory() // MIB + memory.KEPT // MIB + 120
    assert main([*arguments, "-s", "30", "--max-memory", f"{limit}M"]) == 2
    assert "which needs" in capsys.readouterr().err


def test_what_is_written_behind_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where writing is slow, the next picture waits for it, and all is given back at the end."""
    (tmp_path / "in").mkdir()
    for number in range(6):
        Image.new("RGB", (40, 40)).save(tmp_path / "in" / f"{number}.png")
    settings = Settings(model=str(save_tiny(tmp_path / "tiny.safetensors")), device="cpu")
    restorer = Restorer(settings)
    jobs = plan_jobs(tmp_path / "in", tmp_path / "out")
    most = restorer.need(jobs[0]).most
    highest = []
    hold = Account.hold

    def watched(self: Account, owner: Job, size: float) -> None:
        hold(self, owner, size)
        highest.append(self.held())

    monkeypatch.setattr(Account, "hold", watched)
    for room, at_least in ((1.5 * most, most), (100 * most, 4 * most)):
        restorer.account = Account(room)
        highest.clear()
        outcomes = list(Engine(restorer, workers=4).run(jobs, overwrite=True))
        assert {outcome.status for outcome in outcomes} == {"restored"}
        assert at_least <= max(highest) <= room
        assert restorer.account.held() == 0


def test_what_has_no_header_that_is_known_counts_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16-bit RGB TIFFs, as HEIF, have none, and the frames of an animation are held all at once."""
    write_image(tmp_path / "in" / "deep.tif", Picture(np.zeros((40, 50, 3), np.uint16)))
    frames = [Image.new("RGB", (40, 50), (number, 0, 0)) for number in range(20)]
    frames[0].save(tmp_path / "in" / "moving.webp", save_all=True, append_images=frames[1:])
    settings = Settings(model=str(save_tiny(tmp_path / "tiny.safetensors")), device="cpu", frames=True)
    restorer = Restorer(settings)
    held: dict[str, list[float]] = {"deep.tif": [], "moving.webp": []}
    hold = Account.hold

    def watched(self: Account, owner: Job, size: float) -> None:
        hold(self, owner, size)
        held[owner.source.name].append(size)

    monkeypatch.setattr(Account, "hold", watched)
    outcomes = list(Engine(restorer).run(plan_jobs(tmp_path / "in", tmp_path / "out", frames=True)))
    assert [outcome.status for outcome in outcomes] == ["restored"] * 2
    output = 160 * 200
    for name, pixels in (("deep.tif", 6 * output), ("moving.webp", 20 * 4 * output)):
        *_, writing, none = held[name]
        assert pixels < writing < 10 * pixels and none == 0, held[name]


@pytest.mark.parametrize(
    ("mode", "suffix", "expected"),
    [("RGB", ".png", (3, 1)), ("RGBA", ".png", (4, 1)), ("I;16", ".png", (1, 2)), ("L", ".jpg", (1, 1))],
)
def test_shapes_by_the_header(mode: str, suffix: str, expected: tuple[int, int], tmp_path: Path) -> None:
    Image.new(mode, (7, 5)).save(tmp_path / f"a{suffix}")
    assert read_shape(tmp_path / f"a{suffix}") == (5, 7, *expected)


def test_shapes_of_what_pillow_does_not_know(tmp_path: Path) -> None:
    write_image(tmp_path / "deep.png", Picture(np.zeros((5, 7, 3), np.uint16)))
    assert read_shape(tmp_path / "deep.png") == (5, 7, 3, 2)
    (tmp_path / "text.png").write_text("no image")
    assert read_shape(tmp_path / "text.png") is None and read_shape(tmp_path / "none.png") is None
