"""Training that ends when its time is over, or when it is told to stop, and goes on as if nothing had happened."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from distributed_setup import IMAGES, make_options, make_weights, torchrun
from places import REPOSITORY
from test_distributed_lost import workers_of
from training_setup import make_data, run_training
from warm_python import warm_python

from amd_restore.models import ending
from amd_restore.models.amd_model import AMDModel
from amd_restore.models.dmd_model import DMDModel
from amd_restore.models.ending import Stopped, TimeLimit
from amd_restore.models.restoration_model import RestorationModel
from amd_restore.models.teacher_model import TeacherModel

STARTUP, STEP, SAVE, IMAGE = 5.0, 1.0, 2.0, 1.5  # seconds that things take on the tests' clock
LIMIT = 120.0
RATE = 1e-3


class Clock:
    """A clock that only work moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float, method: Callable[..., Any]) -> Callable[..., Any]:
        """``method``, which takes so long from now on."""

        def slow(*arguments: Any, **named: Any) -> Any:
            self.now += seconds
            return method(*arguments, **named)

        return slow


class Runs:
    """Runs in this process, with a clock of their own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch, self.clock = folder, monkeypatch, Clock()
        self.rates: list[float] = []  # learning rate of each iteration
        self.told = ""  # on the error stream
        monkeypatch.setattr(ending, "clock", self.clock)
        for model in (TeacherModel, DMDModel):
            monkeypatch.setattr(model, "train_step", self.noting(self.clock.move(STEP, model.train_step)))
        self.slow(RestorationModel, "save_student", SAVE)
        self.slow(RestorationModel, "restore", IMAGE)

    def slow(self, model: type, name: str, seconds: float) -> None:
        self.patch.setattr(model, name, self.clock.move(seconds, getattr(model, name)))

    def noting(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def noting(model: Any, current_iter: int) -> None:
            self.rates.append(model.optimizer_g.param_groups[0]["lr"])
            step(model, current_iter)

        return noting

    def once(self, model: type, name: str, call: int, action: Callable[[], None]) -> None:
        """Do something in the n-th call of a method, from 1."""
        method, calls = getattr(model, name), itertools.count(1)

        def acting(*arguments: Any, **named: Any) -> Any:
            if next(calls) == call:
                action()
            return method(*arguments, **named)

        self.patch.setattr(model, name, acting)

    def run(self, options: dict[str, Any], *arguments: str) -> int:
        """The command's exit code; the clock stands at 0 when it starts."""
        self.clock.now, self.rates = STARTUP, []
        done = run_training(options, self.folder, *arguments, started=0.0)
        self.told = done.stderr
        return done.returncode

    def options(self, name: str, recipe: str = "teacher_x4_classical", **changes: Any) -> dict[str, Any]:
        """A run that validates two images in two ways when it ends, and saves when it must."""
        options = make_options(self.folder, recipe, name, **changes)
        for key in [key for key in options["train"] if key.startswith("optim_")]:
            options["train"][key]["lr"] = RATE
        options["train"]["warmup_iter"] = 3
        options["datasets"]["train"]["batch_size_per_gpu"] = 2
        options["datasets"]["val"]["limit"] = 2
        options["logger"].update(print_freq=1, save_checkpoint_freq=1000)
        options["val"].update(val_freq=1000, num_steps=[1, 2], metrics={"psnr": options["val"]["metrics"]["psnr"]})
        return options

    def timed(self, name: str, limit: float | str = LIMIT, **changes: Any) -> dict[str, Any]:
        """The same with nothing but a time limit."""
        options = self.options(name, **changes)
        del options["train"]["total_iter"], options["train"]["scheduler"]
        options["train"]["time_limit"] = limit
        return options

    def states(self, name: str) -> list[int]:
        folder = self.folder / "experiments" / name / "training_states"
        return sorted(int(path.stem) for path in folder.glob("*.state"))

    def state(self, name: str, iteration: int) -> dict[str, Any]:
        path = self.folder / "experiments" / name / "training_states" / f"{iteration}.state"
        state: dict[str, Any] = torch.load(path, weights_only=True)
        return state

    def weights(self, name: str, label: Any = "latest") -> dict[str, torch.Tensor]:
        path = self.folder / "experiments" / name / "models" / f"net_g_{label}.pth"
        state: dict[str, dict[str, torch.Tensor]] = torch.load(path, weights_only=True)
        return {f"{part}.{key}": value for part, tensors in state.items() for key, value in tensors.items()}

    def validated(self, name: str) -> list[int]:
        lines = (self.folder / "experiments" / name / "diagnostics.jsonl").read_text(encoding="utf-8").splitlines()
        return [row["iter"] for row in map(json.loads, lines) if "validation" in row]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assets: Path, one_thread: None) -> Runs:
    make_data(tmp_path)
    make_weights(tmp_path)
    return Runs(tmp_path, monkeypatch)


# ---- the time limit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["teacher_x4_classical", "amd_x4_classical"])
def test_a_run_ends_within_its_time_and_uses_it(runs: Runs, recipe: str) -> None:
    assert runs.run(runs.timed("timed", "2m", recipe=recipe)) == 0, runs.told
    ending_cost = 2 * SAVE + 2 * 2 * IMAGE
    assert LIMIT - 15 < runs.clock.now <= LIMIT, runs.clock.now
    last = len(runs.rates)
    assert last > (LIMIT - STARTUP - 3 * ending_cost) / STEP
    assert runs.states("timed") == [last] and runs.validated("timed") == [last]
    assert runs.state("timed", last)["iter"] == last
    newest = runs.weights("timed")
    assert all(torch.equal(value, newest[key]) for key, value in runs.weights("timed", last).items())
    assert (runs.folder / "experiments/timed/models/net_g_latest.safetensors").is_file()
    # Nothing is left of the trial of the end.
    assert sorted(path.name for path in (runs.folder / "experiments/timed").iterdir() if path.is_dir()) == [
        "models",
        "training_states",
        "visualization",
    ]


def test_the_learning_rate_is_a_share_of_the_time(runs: Runs) -> None:
    assert runs.run(runs.timed("timed")) == 0
    rates = [rate / RATE for rate in runs.rates]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    falling = next(index for index, rate in enumerate(rates) if index > 2 and rate < 1.0)
    assert falling / len(rates) == pytest.approx(0.58, abs=0.05)  # the start of the process takes some, too
    assert all(a > b for a, b in itertools.pairwise(rates[falling:])) and rates[-1] < 0.01
    assert rates[(falling + len(rates)) // 2] == pytest.approx(0.5, abs=0.06)


def test_total_iter_ends_a_run_that_has_time_left(runs: Runs) -> None:
    options = runs.timed("short")
    options["train"]["total_iter"] = 20
    assert runs.run(options) == 0
    assert len(runs.rates) == 20 and runs.clock.now < LIMIT / 2
    assert runs.rates[10] == RATE > runs.rates[13] > runs.rates[19] > 0 and runs.rates[19] < 0.04 * RATE


def test_time_already_spent_counts(runs: Runs) -> None:
    options = runs.timed("resumed")
    runs.once(TeacherModel, "train_step", 40, lambda: signal.raise_signal(signal.SIGTERM))
    assert runs.run(options) == 128 + signal.SIGTERM
    assert runs.states("resumed") == [40] and len(runs.rates) == 40
    spent = runs.clock.now
    assert runs.state("resumed", 40)["time"]["seconds"] == pytest.approx(spent)
    assert runs.run(options, "--auto_resume") == 0
    assert LIMIT - 15 < spent + runs.clock.now <= LIMIT
    assert runs.rates[0] == RATE and runs.rates[-1] < 0.01 * RATE
    last = 40 + len(runs.rates)
    assert runs.states("resumed") == [40, last]
    # A finished run has nothing to do, one with more time goes on.
    assert runs.run(options, "--auto_resume") == 0 and runs.rates == []
    assert runs.run(options, "--auto_resume", "--force_yml", "train:time_limit=4m") == 0
    assert (
        100 < len(runs.rates) < 120 and runs.rates[0] == RATE and runs.states("resumed")[-1] == last + len(runs.rates)
    )


def test_what_the_end_takes_is_measured_again(runs: Runs) -> None:
    options = runs.timed("slower")
    options["val"]["val_freq"], options["logger"]["save_checkpoint_freq"] = 10, 15
    runs.once(TeacherModel, "train_step", 12, lambda: runs.slow(RestorationModel, "restore", 3 * IMAGE))
    assert runs.run(options) == 0
    assert LIMIT - 40 < runs.clock.now <= LIMIT


def test_a_limit_that_is_too_short_still_trains_and_ends(runs: Runs) -> None:
    assert runs.run(runs.timed("tiny", 1)) == 0
    assert len(runs.rates) == 1 and runs.states("tiny") == [1] and runs.validated("tiny") == [1]


def test_a_limit_can_come_later_but_not_go(runs: Runs) -> None:
    options = runs.options("later")
    options["train"].update(total_iter=6, scheduler={"type": "CosineAnnealingRestartLR", "periods": [6]})
    options["logger"]["save_checkpoint_freq"] = 2
    assert runs.run(options, "--force_yml", "train:total_iter=3") == 0
    later = ["--auto_resume", "--force_yml", "train:time_limit=2m", "train:total_iter=4"]
    assert runs.run(options, *later) == 0
    assert len(runs.rates) == 2 and 0 < runs.rates[1] < runs.rates[0] == RATE
    assert runs.run(options, "--auto_resume") == 2
    assert "4.state: was trained with train.time_limit, without a scheduler" in runs.told


def test_shares_of_an_unmeasured_run() -> None:
    limit = TimeLimit(100.0, 10**9)
    assert limit.rate(1) == 1.0 and limit.reserve() == ending.CLOSING
    limit.share = 0.8
    assert limit.rate(1) == pytest.approx(0.5)
    limit.share = 1.0
    assert limit.rate(1) == pytest.approx(0.0)


# ---- told to stop ---------------------------------------------------------------------------------------------------

TOTAL = 6


def plain(runs: Runs, name: str) -> dict[str, Any]:
    options = runs.options(name, "amd_x4_classical")
    options["train"]["total_iter"] = TOTAL
    options["train"]["scheduler"] = {"type": "CosineAnnealingRestartLR", "periods": [TOTAL], "restart_weights": [1]}
    options["val"]["val_freq"], options["logger"]["save_checkpoint_freq"] = 2, 3
    return options


@pytest.fixture(scope="module")
def straight() -> dict[str, Any]:
    """Weights and schedulers of the run that nothing stops; the first test that needs them makes them."""
    return {}


@pytest.mark.parametrize(
    ("method", "call", "stopped_after", "number"),
    [
        ("setup_optimizers", 1, 0, signal.SIGTERM),
        ("feed_data", 1, 1, signal.SIGINT),
        ("train_step", 4, 4, signal.SIGTERM),
        ("model_ema", 2, 4, signal.SIGINT),
        ("save_student", 1, 3, signal.SIGTERM),
        ("save_training_state", 1, 3, signal.SIGINT),
        ("restore", 1, 2, signal.SIGTERM),
        ("after_validation", 2, 4, signal.SIGTERM),
    ],
)
def test_a_run_can_be_stopped_at_any_moment(
    runs: Runs,
    straight: dict[str, Any],
    capfd: pytest.CaptureFixture[str],
    method: str,
    call: int,
    stopped_after: int,
    number: signal.Signals,
) -> None:
    halted = plain(runs, "halted")
    if not straight:
        assert runs.run(plain(runs, "straight")) == 0
        straight.update(weights=runs.weights("straight"), schedulers=runs.state("straight", TOTAL)["schedulers"])
    with runs.patch.context() as patch:
        runs.patch = patch
        owner = next(owner for owner in AMDModel.__mro__ if method in vars(owner))
        runs.once(owner, method, call, lambda: signal.raise_signal(number))
        capfd.readouterr()
        assert runs.run(halted) == 128 + number
    assert f"{number.name}: the run ends after this iteration" in capfd.readouterr().err
    told = runs.told
    assert len(runs.rates) == stopped_after
    if stopped_after:
        assert runs.states("halted")[-1] == stopped_after
        assert f"{stopped_after}.state: start the same command with --auto_resume" in told.splitlines()[-1]
    else:
        assert "before the first iteration" in told.splitlines()[-1]
    assert runs.run(halted, "--auto_resume") == 0 and len(runs.rates) == TOTAL - stopped_after
    a, b = straight["weights"], runs.weights("halted")
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert straight["schedulers"] == runs.state("halted", TOTAL)["schedulers"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_long_validation_does_not_keep_the_state(runs: Runs) -> None:
    seen = []
    runs.once(RestorationModel, "restore", 4, lambda: seen.append(runs.states("waits")))
    runs.once(RestorationModel, "restore", 2, lambda: signal.raise_signal(signal.SIGTERM))
    assert runs.run(plain(runs, "waits")) == 128 + signal.SIGTERM
    assert seen == [[2]] and runs.states("waits") == [2] and runs.validated("waits") == [2]


def test_a_second_signal_ends_at_once(runs: Runs) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    runs.once(DMDModel, "train_step", 2, twice)
    assert runs.run(plain(runs, "twice")) == 130
    assert runs.states("twice") == []
    assert not issubclass(Stopped, RuntimeError)  # which several processes take for a lost one


def wait_for_a_state(states: Path, run: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not list(states.glob("*.state")):
        assert run.poll() is None, run.communicate()[1][-3000:]
        assert time.monotonic() < deadline, "no training state was saved"
        time.sleep(0.1)


@pytest.mark.parametrize("processes", [1, 2])
def test_processes_that_are_told_to_stop(runs: Runs, processes: int) -> None:
    options = runs.options("endless", train__total_iter=1_000_000)
    options["datasets"]["train"]["batch_size_per_gpu"] = IMAGES // processes
    options["train"]["scheduler"].update(periods=[1_000_000])
    options["logger"].update(print_freq=1_000_000, save_checkpoint_freq=5, keep_checkpoints=2)
    options.pop("val")
    file = runs.folder / "endless.yml"
    file.write_text(yaml.safe_dump(options), encoding="utf-8")
    command = [str(REPOSITORY / "amd_restore/train.py"), "-opt", str(file)]
    states = runs.folder / "experiments/endless/training_states"
    pipe = subprocess.PIPE
    if processes == 1:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        run = subprocess.Popen(
            [warm_python(), *command], cwd=runs.folder, env=environment, stdout=pipe, stderr=pipe, text=True
        )
    else:
        run = torchrun([*command, "--launcher", "pytorch"], runs.folder)
    try:
        wait_for_a_state(states, run)
        # One of several is enough: they agree. Their launcher would tell all.
        os.kill(run.pid if processes == 1 else workers_of(file)[1], signal.SIGTERM)
        _, errors = run.communicate(timeout=120)
    finally:
        if run.poll() is None:
            run.kill()
    assert run.returncode == (143 if processes == 1 else 1), errors[-3000:]
    stopped = [line for line in errors.splitlines() if line.startswith("stopped by SIGTERM")]
    assert len(stopped) == 1 and not [line for line in errors.splitlines() if line.startswith("error: ")], errors
    match = re.fullmatch(
        r"stopped by SIGTERM after iteration (\d+); saved as \S+/\1\.state: start the same command with --auto_resume",
        stopped[0],
    )
    assert match, stopped[0]
    last = int(match[1])
    assert runs.states("endless")[-1] == last
    overrides = [f"train:total_iter={last + 1}", f"datasets:train:batch_size_per_gpu={IMAGES}"]
    result = run_training(options, runs.folder, "--auto_resume", "--force_yml", *overrides)
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"Resuming training from epoch: 0, iter: {last}" in result.stdout + result.stderr


def test_several_processes_end_together_when_time_is_over(runs: Runs) -> None:
    options = runs.timed("both", "0.001s")
    options["datasets"]["train"]["batch_size_per_gpu"] = 1
    file = runs.folder / "both.yml"
    file.write_text(yaml.safe_dump(options), encoding="utf-8")
    script = str(REPOSITORY / "amd_restore/train.py")
    run = torchrun([script, "-opt", str(file), "--launcher", "pytorch"], runs.folder)
    _, errors = run.communicate(timeout=240)
    assert run.returncode == 0, errors[-3000:]
    assert runs.states("both") == [1] and runs.validated("both") == [1]
    assert "Time limit: " in errors
    shutil.rmtree(runs.folder / "experiments")
