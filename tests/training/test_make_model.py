"""One command from photographs to a released model, in miniature; and the page that lists the stages."""

from __future__ import annotations

import importlib
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from places import REPOSITORY
from training_setup import make_data
from warm_python import warm_python

from amd_restore.weights import load_checkpoint

sys.path.insert(0, str(REPOSITORY / "options"))
make_model = importlib.import_module("make_model")
TRAIN = REPOSITORY / "options" / "train"


SMALL = (
    *("network_g:num_feat=8", "network_g:num_block=1", "num_threads=1", "amp=none", "datasets:val:dataroot_gt=val"),
    *("datasets:train:crops_file=crops.npy", "datasets:train:gt_size=96", "datasets:train:batch_size_per_gpu=2"),
    *("datasets:val:limit=1", "datasets:val:gt_size=0"),
)


@pytest.fixture
def place(tmp_path: Path, assets: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with miniature data; what is started from there starts in a moment."""
    monkeypatch.setattr(sys, "executable", warm_python())
    make_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AMD_RESTORE_ASSETS", str(assets))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def test_a_model_is_made_from_start_to_end(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    cv2.imwrite(str(place / "val" / "large.png"), cv2.resize(noise, (256, 256)))
    command = ["x4-classical-tiny", "--photographs", "val", "--force_yml", *SMALL, "train:total_iter=2"]
    teacher = f"path:pretrain_network_teacher={REPOSITORY / 'amd_restore/weights/x4-classical-teacher.safetensors'}"

    assert make_model.main([*command, teacher]) == 0, capfd.readouterr().err
    header, state = load_checkpoint(place / "released" / "x4-classical-tiny.safetensors")
    assert (header.name, header.mean, header.network["first_gain"]) == (
        "x4-classical-tiny",
        "x4-classical-teacher",
        1.1,
    )
    assert {"lpips_squeeze", "effnet_lite1", "niqe"} <= set(header.rewards)
    _, trained = load_checkpoint(place / make_model.weights_of("amd_x4_classical_tiny_longer"))
    changed = {
        key for key, tensor in trained.items() if not torch.allclose(tensor.float(), state[key].float(), atol=1e-3)
    }
    assert changed <= {"conv_out.weight", "conv_out.bias"} and changed

    assert "Warning" not in capfd.readouterr().err

    # Every stage is complete: only the refitting is done once more. What changes no weights may be another.
    started: list[Any] = []
    monkeypatch.setattr(make_model, "start", lambda words, what: started.append(what))
    assert make_model.main([*command, teacher, "num_threads=2", "logger:print_freq=7"]) == 0
    assert started == ["the refitting"]

    # What a trial left does not go into a model as if it were trained to its end.
    capfd.readouterr()
    assert make_model.main([*command, teacher, "train:total_iter=3"]) == 2
    said = capfd.readouterr().err
    assert "regression_x4_classical_tiny is complete, but with other options (train.total_iter: 2 then, 3 now)" in said
    make_model.weights_of("regression_x4_classical_tiny", "pth").write_bytes(b"trained anew")
    assert make_model.main([*command, teacher]) == 2
    said = capfd.readouterr().err
    assert "perceptual_x4_classical_tiny is complete, but not from experiments/regression_x4_classical_tiny" in said
    assert started == ["the refitting"]


def test_a_teacher_is_not_released_as_its_student(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["x4-classical", "--until", "teacher_x4_classical", "--photographs", "val", "--force_yml", *SMALL]
    assert make_model.main([*command, "train:total_iter=1"]) == 0
    assert "net_g_latest.safetensors: a teacher, not yet x4-classical" in capfd.readouterr().out
    assert not (place / "released").exists()


def test_an_interruption_leaves_a_saved_state(place: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "options" / "make_model.py"), "x4-classical-tiny"]
    command += ["--photographs", "val", "--force_yml", *SMALL]
    command += ["logger:print_freq=1", "logger:save_checkpoint_freq=1000"]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "iter:       3," in line:
                process.send_signal(signal.SIGINT)
    said = "".join(lines)
    assert process.returncode == 130, said
    stage = place / "experiments" / "regression_x4_classical_tiny"
    assert list((stage / "training_states").glob("*.state")), said
    assert not (stage / make_model.COMPLETE).exists()


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of trainings, none of which is started."""
    monkeypatch.chdir(tmp_path)
    commands: list[list[str]] = []

    def start(words: list[Any], what: str) -> None:
        commands.append([str(word) for word in words])
        weights = tmp_path / make_model.weights_of(what, "pth")
        weights.parent.mkdir(parents=True)
        weights.write_bytes(what.encode())

    (tmp_path / "datasets" / "data" / "free_photos" / "train").mkdir(parents=True)
    monkeypatch.setattr(make_model, "start", start)
    monkeypatch.setattr(make_model, "finish", lambda *_: None)
    return commands


def test_each_stage_starts_from_the_one_before(trained: list[list[str]]) -> None:
    last = "perceptual_x4_classical"
    assert make_model.main(["x4-classical", "--until", last, "--force_yml", "manual_seed=3"]) == 0
    files = [Path(words[words.index("-opt") + 1]).stem for words in trained]
    assert files == [*make_model.MODELS["x4-classical"].stages[:-1]] and files[-1] == last
    starts = [[word for word in words if "pretrain" in word] for words in trained]
    before = [[f"path:pretrain_network_g=experiments/{file}/models/net_g_latest.pth"] for file in files[:-1]]
    assert starts == [[], *before]
    assert all(words[-1] == "manual_seed=3" for words in trained)


def test_a_stopped_stage_ends_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert make_model.main(["x4-classical-tiny"]) == 2
    assert "datasets/data/free_photos/train: no such folder" in capsys.readouterr().err
    assert make_model.main(["x4-classical-tiny", "--photographs", "."]) == 2  # the crops are missing
    assert "regression_x4_classical_tiny ended with 2" in capsys.readouterr().err
    assert not list(tmp_path.rglob(make_model.COMPLETE))


def test_bad_arguments_are_one_line(trained: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert make_model.main(["x4-classical-tiny", "--until", "amd"]) == 2
    assert "amd: not a stage of x4-classical-tiny" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert make_model.main(["x4-real"]) == 2
        assert "--until perceptual_x4_real ends before it" in capsys.readouterr().err
    assert trained == []


def test_the_page_lists_the_stages_of_every_model() -> None:
    page = (REPOSITORY / "options" / "README.md").read_text(encoding="utf-8")
    for name, plan in make_model.MODELS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert tuple(re.findall(r"`(\w+)\.yml`", row)) == plan.stages
        assert all((TRAIN / f"{stage}.yml").is_file() for stage in plan.stages)


def test_every_released_model_has_a_plan() -> None:
    released = {path.stem for path in (REPOSITORY / "amd_restore" / "weights").glob("*.safetensors")}
    assert released == set(make_model.MODELS)
