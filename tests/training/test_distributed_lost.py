"""One of two training processes is killed: the other says so and ends, and the run goes on from its state."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import torch
import yaml
from distributed_setup import IMAGES, make_options, make_weights, torchrun
from places import REPOSITORY
from training_setup import make_data, run_training

BOUND = 45.0  # seconds from the kill to the end of all; on an idle machine it takes about two


def workers_of(options: Path) -> dict[int, int]:
    """Process ids by rank of what a ``torchrun`` started with an option file."""
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments, variables = ((entry / what).read_bytes().split(b"\0") for what in ("cmdline", "environ"))
            except (OSError, ValueError):
                continue  # ended meanwhile, or not ours
            if os.fsencode(options) in arguments:
                ranks = [int(v.partition(b"=")[2]) for v in variables if v.startswith(b"RANK=")]
                found |= {rank: int(entry.name) for rank in ranks}
    return found


def test_a_killed_process_leaves_a_message_and_a_state(tmp_path: Path) -> None:
    make_data(tmp_path)
    make_weights(tmp_path)
    options = make_options(tmp_path, "teacher_x4_classical", "lost", datasets__train__batch_size_per_gpu=IMAGES // 2)
    options["train"]["total_iter"] = 1_000_000
    options["train"]["scheduler"].update(periods=[1_000_000])
    options["logger"].update(print_freq=1_000_000, save_checkpoint_freq=5, keep_checkpoints=2)
    options.pop("val")
    file = tmp_path / "lost.yml"
    file.write_text(yaml.safe_dump(options), encoding="utf-8")
    states = tmp_path / "experiments/lost/training_states"
    command = [str(REPOSITORY / "amd_restore/train.py"), "-opt", str(file), "--launcher", "pytorch"]
    run = torchrun(command, tmp_path)
    try:
        deadline = time.monotonic() + 120
        while not list(states.glob("*.state")):
            assert run.poll() is None, run.communicate()[1][-3000:]
            assert time.monotonic() < deadline, "no training state was saved"
            time.sleep(0.1)
        workers = workers_of(file)
        assert set(workers) == {0, 1}
        os.kill(workers[1], signal.SIGKILL)
        killed = time.monotonic()
        _, errors = run.communicate(timeout=BOUND)
    finally:
        if run.poll() is None:
            run.kill()
    assert time.monotonic() - killed < BOUND and run.returncode != 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers.values())
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, errors[-3000:]
    match = re.fullmatch(
        r"error: process 0: another process was lost.*, in iteration (\d+); saved up to \S+/(\d+)\.state: "
        r"start the same command with --auto_resume",
        lines[0],
    )
    assert match, lines[0]
    iteration, saved = map(int, match.groups())
    assert saved == max(int(path.stem) for path in states.glob("*.state")) and saved <= iteration < saved + 10
    assert torch.load(states / f"{saved}.state", weights_only=True)["iter"] == saved
    overrides = [f"train:total_iter={saved + 1}", f"datasets:train:batch_size_per_gpu={IMAGES}"]
    result = run_training(options, tmp_path, "--auto_resume", "--force_yml", *overrides)
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"Resuming training from epoch: 0, iter: {saved}" in result.stdout + result.stderr
    assert (tmp_path / "experiments/lost/models/net_g_latest.safetensors").is_file()
