"""The command with streams that are closed, full, or know few characters; what it restored is there all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import REPOSITORY
from tiny_model import save_tiny

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="streams are redirected by a shell of Unix")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    save_tiny(folder / "tiny.safetensors")
    (folder / "in").mkdir()
    Image.fromarray(np.full((8, 9, 3), 90, np.uint8)).save(folder / "in" / "a\x1b[31m.png")
    return folder


def run(place: Path, arguments: str, redirect: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command by a shell in ``place``."""
    script = REPOSITORY / "inference.py"
    line = f'"{sys.executable}" "{script}" --model tiny.safetensors --device cpu {arguments} {redirect}'
    return subprocess.run(["sh", "-c", line], cwd=place, env=os.environ | environment, capture_output=True, check=False)


@pytest.mark.parametrize("redirect", ["<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_a_folder_is_restored_whatever_the_streams_are(place: Path, redirect: str) -> None:
    output = f"out{len(redirect)}"
    done = run(place, f"-i in -o {output} --json {output}.json", redirect)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert len(list((place / output).iterdir())) == 1
    assert json.loads((place / f"{output}.json").read_bytes())["counts"]["restored"] == 1


@pytest.mark.parametrize("arguments", ["-i in/* -o -", "-i in -o full --json -"])
def test_data_that_cannot_be_delivered_are_a_failure_in_one_line(place: Path, arguments: str) -> None:
    done = run(place, arguments, ">/dev/full")
    assert done.returncode == 1
    assert done.stderr == b"standard output: cannot be written (no space left on device)\n"


def test_nothing_comes_in(place: Path) -> None:
    done = run(place, "-i - -o -", "<&-")
    assert done.returncode == 2
    assert done.stderr == b"standard input: nothing came in; pipe an image into the command\n"


def test_characters_that_the_output_cannot_show(place: Path) -> None:
    done = run(place, "-i in -o 写", PYTHONIOENCODING="ascii:strict", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert b"into \\u5199/ in" in done.stdout and done.stderr == b""
    assert len(list((place / "写").iterdir())) == 1
    report = run(place, "-i in -o 写 --json -", PYTHONIOENCODING="ascii:strict")
    assert json.loads(report.stdout)["images"][0]["target"].startswith("写/")


def test_names_reach_no_terminal_raw(place: Path) -> None:
    (place / "broken").mkdir()
    (place / "broken" / "b\x1b[31m.png").write_bytes(b"no image")
    done = run(place, "-i broken -o out")
    assert done.returncode == 1
    assert b"\x1b" not in done.stderr + done.stdout and b"b\\x1b[31m.png: " in done.stderr
