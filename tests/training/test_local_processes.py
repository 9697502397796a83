"""A CPU run that the training command spreads over processes by itself."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_setup import IMAGES, difference, make_options, make_weights
from places import REPOSITORY
from test_ending import wait_for_a_state
from training_setup import make_data, run_command, run_training, write_options
from warm_python import warm_python

from amd_restore.errors import AMDRestoreError
from amd_restore.training import local_processes
from amd_restore.training.local_processes import processes_for, shares

TOLERANCE = 1e-6


@pytest.mark.parametrize(
    ("wanted", "images", "accumulate", "threads", "gpus", "expected"),
    [
        ("auto", 4, 1, None, 0, 4),
        ("auto", 4, 1, 2, 0, 2),
        ("auto", 6, 1, 5, 0, 3),  # 4 and 5 do not divide 6
        ("auto", 7, 1, None, 0, 7),
        ("auto", 4, 2, None, 0, 2),  # each process takes its images in two parts
        ("auto", 1, 1, None, 0, 1),
        ("auto", 4, 1, None, 1, 1),  # a GPU is used
        ("3", 4, 1, 1, 0, 2),
        ("1", 4, 1, None, 0, 1),
        ("64", 4, 1, 1, 0, 4),
    ],
)
def test_processes_divide_the_images(
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    images: int,
    accumulate: int,
    threads: int | None,
    gpus: int,
    expected: int,
) -> None:
    monkeypatch.setattr(local_processes, "processors", lambda: 8)
    opt: dict[str, Any] = {"datasets": {"train": {"batch_size_per_gpu": images}}, "train": {"accumulate": accumulate}}
    opt |= {} if threads is None else {"num_threads": threads}
    assert processes_for(wanted, opt, gpus) == expected
    split = f"datasets:train:batch_size_per_gpu={images // expected}"
    assert shares(opt, expected) == [split, f"num_threads={max(1, (threads or 8) // expected)}", "num_gpu=0"]


@pytest.mark.parametrize(
    ("wanted", "gpus", "message"), [("0", 0, "expected a number"), ("two", 0, "expected"), ("2", 1, "use torchrun")]
)
def test_what_cannot_be_is_one_line(wanted: str, gpus: int, message: str) -> None:
    with pytest.raises(AMDRestoreError, match=message):
        processes_for(wanted, {"datasets": {"train": {"batch_size_per_gpu": 4}}, "train": {}}, gpus)


@pytest.fixture
def place(tmp_path: Path, assets: Path) -> Path:
    make_data(tmp_path)
    make_weights(tmp_path)
    return tmp_path


def plain(place: Path, name: str, **changes: Any) -> dict[str, Any]:
    """An AMD run without validation."""
    options = make_options(place, "amd_x4_classical", name, **changes)
    options.pop("val")
    del options["datasets"]["val"]
    return options


def test_two_processes_give_the_weights_of_one(place: Path) -> None:
    assert run_training(plain(place, "alone"), place).returncode == 0
    together = run_command(plain(place, "together"), place, "--processes", "2")
    assert together.returncode == 0, together.stderr[-3000:]
    assert f"2 processes share the work (datasets:train:batch_size_per_gpu={IMAGES // 2}" in together.stderr
    a, b = (
        torch.load(place / "experiments" / name / "models" / "net_g_latest.pth", weights_only=True)
        for name in ("alone", "together")
    )
    assert difference(a, b) <= TOLERANCE


def test_an_error_of_all_is_said_once(place: Path) -> None:
    options = plain(place, "wrong")
    options["path"]["pretrain_network_teacher"] = str(place / "nothing.pth")
    result = run_command(options, place, "--processes", "2")
    assert result.returncode == 2
    assert len(re.findall("^error: .*nothing.pth", result.stderr, re.MULTILINE)) == 1, result.stderr
    assert "Traceback" not in result.stderr


def test_all_are_told_to_stop(place: Path) -> None:
    options = plain(place, "endless", train__total_iter=1_000_000)
    options["train"]["scheduler"].update(periods=[1_000_000])
    options["logger"].update(print_freq=1_000_000, save_checkpoint_freq=5, keep_checkpoints=2)
    command = [warm_python(), str(REPOSITORY / "amd_restore/train.py"), "-opt", str(write_options(options, place))]
    pipe = subprocess.PIPE
    states = place / "experiments/endless/training_states"
    run = subprocess.Popen([*command, "--processes", "2"], cwd=place, stdout=pipe, stderr=pipe, text=True)
    try:
        wait_for_a_state(states, run)
        run.send_signal(signal.SIGTERM)
        _, errors = run.communicate(timeout=120)
    finally:
        if run.poll() is None:
            run.kill()
    assert run.returncode == 128 + signal.SIGTERM, errors[-3000:]
    (stopped,) = re.findall(r"^stopped by SIGTERM after iteration (\d+)", errors, re.MULTILINE)
    assert max(int(path.stem) for path in states.glob("*.state")) == int(stopped)
    overrides = ["--force_yml", f"train:total_iter={int(stopped) + 1}"]
    result = run_training(options, place, "--auto_resume", *overrides)
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"Resuming training from epoch: 0, iter: {stopped}" in result.stdout + result.stderr


def test_a_killed_process_ends_the_run(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its code is the run's; one that does not end by itself is ended."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "if os.environ['RANK'] == '1':\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "time.sleep(300)\n"
    )
    monkeypatch.setattr(local_processes, "SCRIPT", script)
    monkeypatch.setattr(local_processes, "PATIENCE", -10.0)
    began = time.monotonic()
    assert local_processes.run_processes(2, []) == 128 + signal.SIGKILL
    assert time.monotonic() - began < 200, "the other one was waited for"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
