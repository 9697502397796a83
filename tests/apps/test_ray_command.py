"""``amd-restore restore --engine ray`` as a user meets it: a cluster that is started and ended with the run."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from object_store import installed
from places import REPOSITORY
from tiny_model import save_tiny

from amd_restore.apps.cli import main
from amd_restore.image_io import Picture, write_image

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra 'ray'")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def pictures(folder: Path, number: int, side: int = 10) -> None:
    generator = np.random.default_rng(0)
    for index in range(number):
        write_image(folder / f"{index:03}.png", Picture(generator.integers(0, 256, (side, side, 3), np.uint8)))


def start(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "inference.py"), "restore", *map(str, arguments), "--threads", "1"],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # Whoever runs the tests in the background of a shell has them ignore Ctrl-C, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def ray_processes(output: str) -> list[psutil.Process]:
    """Processes of Ray whose driver has ``output`` in its environment."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        try:
            if process.environ().get("AMD_TEST_RUN") == output and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_from_store_to_store_and_again(tmp_path: Path, weights: Path) -> None:
    pictures(tmp_path / "bucket" / "in" / "deep", 4)
    (tmp_path / "bucket" / "in" / "bad.png").write_bytes(b"")
    common = ["--model", str(weights), "--recursive"]
    assert main([*common, "-i", str(tmp_path / "bucket/in"), "-o", str(tmp_path / "here"), "--threads", "1"]) == 1
    with installed(tmp_path / "package", tmp_path / "bucket") as environment:
        arguments = ["-i", "teststore://in", "-o", "teststore://out", *common, "--engine", "ray", "--ray-workers", "2"]
        run = start(*arguments, "--json", "-", cwd=tmp_path, AMD_TEST_RUN=str(tmp_path), **environment)
        report_text, said = run.communicate(timeout=240)
        assert run.returncode == 1
        assert said.splitlines()[0].startswith("teststore://in/bad.png: the file is empty")
        assert said.splitlines()[1].startswith("restored 4 of 5 images into teststore://out in ")
        assert len(said.splitlines()) == 2
        report = json.loads(report_text)
        assert report["counts"] == {"restored": 4, "skipped": 0, "failed": 1, "open": 0}
        assert report["cluster"] == {"engine": "ray", "retries": 0, "lost_workers": 0}
        assert report["images"][1]["target"] == "teststore://out/deep/000.png"
        for path in (tmp_path / "here").rglob("*.png"):
            assert (tmp_path / "bucket/out" / path.relative_to(tmp_path / "here")).read_bytes() == path.read_bytes()
        (tmp_path / "bucket/in/bad.png").unlink()
        # All there: no cluster is started for that.
        run = start(*arguments, cwd=tmp_path, **environment)
        output, said = run.communicate(timeout=240)
        assert (run.returncode, said) == (0, "") and ", 4 skipped" in output
    assert ray_processes(str(tmp_path)) == []


def test_ctrl_c(tmp_path: Path, weights: Path) -> None:
    pictures(tmp_path / "in", 1500, side=40)
    run = start(
        "-i", "in", "-o", "out", "--model", weights, "--engine", "ray", "--ray-workers", "2", "--json", "report.json",
        cwd=tmp_path, AMD_TEST_RUN=str(tmp_path),
    )  # fmt: skip
    until = time.monotonic() + 240  # on a busy machine
    while not list((tmp_path / "out").glob("*.png")) and run.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert ray_processes(str(tmp_path))  # what is asked below can be answered
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    output, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert output == ""
    assert said == "interrupted; the images written so far are complete, the same command goes on from there\n"
    until = time.monotonic() + 20
    while ray_processes(str(tmp_path)) and time.monotonic() < until:
        time.sleep(0.1)
    assert ray_processes(str(tmp_path)) == []
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert 0 < len(written) < 1500 and not [name for name in written if not name.endswith(".png")]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["counts"]["restored"] + report["counts"]["open"] == 1500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--address", "auto"], "--address is an option of --engine ray"),
        (["--retries", "3"], "--retries is an option of --engine ray"),
        (["-o", "s3://bucket/out"], "s3://bucket/out: URLs are read and written by --engine ray only; add it, or name"),
        (["--engine", "ray", "-o", "-"], "--engine ray needs files; it cannot be used with -"),
        (["--engine", "ray", "--address", "localhost:1"], "no Ray cluster at localhost:1 ("),
        (
            ["--engine", "ray", "--address", "ray://head:10001"],
            "--address ray://head:10001: run the command on a machine",
        ),
        (["--engine", "ray", "--address", "here:there"], "no Ray cluster at here:there ("),
    ],
)
def test_what_cannot_be_done(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "in", 1)
    assert main(["-i", "in", *arguments]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(message) and said.err.count("\n") == 1 and said.out == ""


def test_without_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "in", 1)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--engine", "ray"]) == 2
    assert capsys.readouterr().err == '--engine ray needs the package ray; pip install "amd-restore[ray]"\n'
    assert not (tmp_path / "out").exists()


def test_a_file_url_is_a_path(tmp_path: Path, weights: Path) -> None:
    pictures(tmp_path / "in", 1)
    arguments = ["-i", (tmp_path / "in").as_uri(), "-o", (tmp_path / "out").as_uri(), "--model", str(weights)]
    assert main(arguments) == 0
    assert (tmp_path / "out" / "000.png").is_file()
