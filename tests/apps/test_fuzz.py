"""``benchmarks/scripts/fuzz.py``: a short run finds nothing, what it looks for it finds, and its chunks fit."""

from __future__ import annotations

import importlib
import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from places import REPOSITORY

from amd_restore.image_io import Picture, encode
from amd_restore.image_io.chunks import chunk
from amd_restore.image_io.picture import lenient
from amd_restore.inference.memory import process_memory

SCRIPT = REPOSITORY / "benchmarks" / "scripts" / "fuzz.py"
sys.path.insert(0, str(SCRIPT.parent))
attempts: Any = importlib.import_module("fuzzing.attempts")
containers: Any = importlib.import_module("fuzzing.containers")

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="forks, signals and devices of Linux")
PIXELS = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)


def test_a_short_run_finds_nothing(tmp_path: Path) -> None:
    # Of a seed without interruptions: these come at times, and test_files.py has many.
    arguments = ["--seed", "8", "--runs", "16", "--keep", str(tmp_path / "kept")]
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "{'bytes': 4, 'chunks': 4, 'folders': 4, 'streams': 4}, " in done.stdout
    assert done.stdout.endswith(", 0 findings; next 17\n") and not (tmp_path / "kept").exists()


def files(kind: str) -> bytes:
    if kind == "GIF":
        out = io.BytesIO()
        Image.fromarray(PIXELS).save(out, "GIF", comment=b"a comment")
        return out.getvalue()
    return encode(Picture(PIXELS, exif=Image.Exif().tobytes()), f".{ {'BMFF': 'avif'}.get(kind, kind.lower()) }")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMFF"])
def test_chunks_give_the_file_again(kind: str) -> None:
    data, container = files(kind), containers.CONTAINERS[kind]
    assert containers.kind_of(data) == kind
    pieces = container.split(data)
    assert b"".join(pieces) == data and len(pieces) > 3
    assert [container.seal(piece) for piece in pieces[1:]] == pieces[1:]
    assert container.finish(data) == data
    for number in range(50):  # a made chunk is one chunk
        made = container.made(random.Random(number))
        assert container.split(pieces[0] + made)[1:] in ([made], [made[:-1]], [made, b""]), made


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMFF", "TIFF"])
def test_changes_depend_on_the_dice_alone_and_some_still_open(kind: str) -> None:
    data = files(kind)
    changed = [containers.changed(data, random.Random(number), [data]) for number in range(60)]
    assert changed == [containers.changed(data, random.Random(number), [data]) for number in range(60)]
    assert len({*changed}) > 40
    opened = 0
    for content in changed:
        try:
            with lenient(), Image.open(io.BytesIO(content)) as image:
                opened += image.format is not None
        except Exception:  # Pillow raises many kinds of errors for damaged files, which are what is wanted here.
            continue
    assert 5 < opened < 60


def fails(arguments: Sequence[str]) -> int:
    raise ZeroDivisionError


def leaves(arguments: Sequence[str]) -> int:
    Path(".amd-restore-0-0.part").touch()
    return 0


def replaces(arguments: Sequence[str]) -> int:
    next(path for path in Path("in").rglob("*") if path.is_file()).write_bytes(b"replaced")
    return 0


def removes(arguments: Sequence[str]) -> int:
    shutil.rmtree("in")
    return 0


def half_writes(arguments: Sequence[str]) -> int:
    Path("half.png").write_bytes(encode(Picture(PIXELS), ".png")[:60])
    return 0


def takes_memory(arguments: Sequence[str]) -> int:
    return len(b"a" * (2 << 30)) * 0  # A fork has not the pages of files that its parent counts.


def says_two_lines(arguments: Sequence[str]) -> int:
    sys.stderr.write("wrong\nvery wrong\n")
    return 2


def ends_oddly(arguments: Sequence[str]) -> int:
    return 7


def is_killed(arguments: Sequence[str]) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def hangs(arguments: Sequence[str]) -> int:
    time.sleep(60)
    return 0


def goes_on_changing(arguments: Sequence[str]) -> int:
    Path(f"{time.monotonic_ns()}.png").write_bytes(encode(Picture(PIXELS), ".png"))
    return 0


def works(arguments: Sequence[str]) -> int:
    return 0


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (fails, "ZeroDivisionError"),
        (leaves, "temporary files left"),
        (replaces, "replaced: in/"),
        (removes, "gone: "),
        (half_writes, "half-written: half.png: .*truncated"),
        (takes_memory, "it took .* MiB"),
        (says_two_lines, "exit code 2 with 2 lines"),
        (ends_oddly, "exit code 7"),
        (is_killed, "exit code -9"),
        (hangs, "it hangs"),
        (goes_on_changing, "the second run changes"),
        (works, ""),
    ],
)
def test_what_it_looks_for_it_finds(
    command: Callable[[Sequence[str]], int], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "OUTPUTS", ["out"])
    monkeypatch.setattr(attempts, "NOBODY", None)
    monkeypatch.setattr("fuzzing.processes.HANGS", 1.0 if command is hangs else 120.0)
    monkeypatch.setattr("fuzzing.checks.MOST", process_memory() + (200 << 20))
    good = [encode(Picture(PIXELS), suffix) for suffix in (".png", ".tiff")]
    bench = attempts.Bench(tmp_path, tmp_path / "weights", good, good, command)
    problems = attempts.attempt(bench, "folders", random.Random(3))
    assert problems == [] if not found else any(re.search(found, problem) for problem in problems), problems


def test_the_folders_of_this_process_outlive_its_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "OUTPUTS", ["out"])
    good = [encode(Picture(PIXELS), ".png")]
    with tempfile.TemporaryDirectory() as kept:
        attempts.attempt(attempts.Bench(tmp_path, tmp_path / "weights", good, good, works), "folders", random.Random(3))
        assert Path(kept).is_dir()


def test_a_made_png_chunk_is_sealed() -> None:
    body = zlib.compress(bytes(9))
    assert containers.seal_png(bytes(4) + b"zTXt" + body + bytes(4)) == chunk(b"zTXt", body)
