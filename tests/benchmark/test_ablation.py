"""Ablations: planning, training in miniature, resuming, failures, and the numbers of the tables."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from places import REPOSITORY
from training_setup import load_miniature, make_data, run_training
from warm_python import warm_python

from amd_restore.benchmark.ablation.__main__ import main
from amd_restore.benchmark.ablation.evaluation import ArmResult
from amd_restore.benchmark.ablation.options import EndpointOptions, load_ablation_options, slug
from amd_restore.benchmark.ablation.processes import ChildProcess, last_line, run_processes
from amd_restore.benchmark.ablation.runs import last_seconds, plan
from amd_restore.benchmark.ablation.summary import compare_arms, split_metrics, summarise_arms
from amd_restore.benchmark.ablation.tables import write_tables
from amd_restore.errors import AMDRestoreError

SHIPPED = sorted((REPOSITORY / "options" / "ablation").glob("*.yml"))
ARMS: dict[str, Any] = {
    "DMD": {"distill": {"adaptation_strength": 0.0, "sharpening_strength": 0.0}},
    "+ both": {"distill": {"adaptation_strength": 0.5, "sharpening_strength": 0.5}},
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> str:
    folder = tmp_path_factory.mktemp("teacher")
    make_data(folder)
    options = load_miniature("regression_x4_classical", folder, iterations=2)
    result = run_training(options, folder)
    assert result.returncode == 0, result.stderr
    return str(folder / "experiments" / options["name"] / "models" / "net_g_latest.pth")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with miniature data and images to measure."""
    make_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", warm_python())
    return tmp_path


def write_ablation(place: Path, teacher: str, **changes: Any) -> Path:
    base = load_miniature("amd_x4_classical", place, teacher=teacher)
    del base["val"]
    del base["datasets"]["val"]
    (place / "base.yml").write_text(yaml.safe_dump(base), encoding="utf-8")
    options = {
        "name": "mini",
        "base": "base.yml",
        "arms": ARMS,
        "seeds": [0, 1],
        "total_iter": 2,
        "processes": 2,
        "evaluation": {
            "datasets": {"val": {"gt": str(place / "val")}},
            "metrics": ["psnr_y", "consistency"],
            "steps": [1],
        },
        **changes,
    }
    file = place / "mini.yml"
    file.write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
    return file


# ---- options and planning ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_ablations_plan_their_runs(file: Path) -> None:
    options = load_ablation_options(file)
    runs = plan(options, file)
    assert len(runs) == len(options.arms) * len(options.seeds) == len({run.name for run in runs})
    for run in runs:
        assert run.total_iter == options.total_iter == sum(run.options["train"]["scheduler"]["periods"])
        assert run.options["manual_seed"] == run.seed and run.options["num_threads"] == options.num_threads
    assert len({json.dumps(run.relevant(), sort_keys=True) for run in runs}) == len(runs), "two arms are the same"


def test_arms_of_the_ablation_differ_in_distillation_only() -> None:
    file = REPOSITORY / "options/ablation/x4_classical.yml"
    runs = plan(load_ablation_options(file), file, seeds=[0])
    different = {
        run.arm: {key for key in run.options if key not in ("name", "distill") and run.options[key] != first[key]}
        for first in [runs[0].options]
        for run in runs
    }
    assert len(runs) == 13
    # Two variations are about something else.
    assert {arm: keys for arm, keys in different.items() if keys} == {
        "AMD, group of 8": {"datasets"},
        "AMD, LPIPS only": {"rewards"},
    }


def test_names_of_arms_in_paths() -> None:
    assert slug("+ score adaptation") == "score_adaptation"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": {}}, "arm: unknown key; did you mean 'arms'?"),
        ({"arms": {"A": {"distil": {}}}}, "arm 'A': distil: unknown key; did you mean 'distill'?"),
        ({"arms": {"a b": {}, "A+B": {}}}, "would have the same folder"),
        ({"seeds": [1, 1]}, "given twice"),
        ({"compare_to": ["DMX"]}, "did you mean 'DMD'?"),
        ({"base": "nothing.yml"}, "no such option file"),
        (
            {"overrides": {"train": {"time_limit": "10s"}}},
            "time_limit of the base would end the runs",
        ),
        ({"evaluation": {"datasets": {"A": {"gt": "x"}}, "metrics": ["psnr"]}}, "did you mean 'psnr_y'?"),
        ({"evaluation": {"datasets": {"A": {"gt": "nowhere"}}}}, "nowhere: no such folder"),
    ],
)
def test_bad_options_are_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    file = write_ablation(place, "teacher.pth", **changes)
    assert main(["-opt", str(file)]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1 and message in error[0]
    assert not (place / "experiments").exists()


def test_unknown_arms_and_seeds_are_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_ablation(place, "teacher.pth")
    assert main(["-opt", str(file), "--only", "DMS"]) == 2 and "did you mean 'DMD'" in capsys.readouterr().err
    assert main(["-opt", str(file), "--seeds", "7"]) == 2 and "no seed 7" in capsys.readouterr().err
    assert main(["-opt", str(file), "--evaluate_only"]) == 2 and "no run is finished" in capsys.readouterr().err


# ---- from end to end -----------------------------------------------------------------------------------------------


def test_ablation_from_end_to_end(place: Path, teacher: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_ablation(place, teacher)
    assert main(["-opt", str(file), "--only", "DMD"]) == 0, capsys.readouterr()
    assert "4 runs" not in capsys.readouterr().out
    records = {path.stem: json.loads(path.read_text()) for path in (place / "experiments/mini").glob("*.json")}
    assert set(records) == {"mini_dmd_s0", "mini_dmd_s1"}
    assert all(record["iterations"] == 2 and len(record["sessions"]) == 1 for record in records.values())

    assert main(["-opt", str(file)]) == 0, capsys.readouterr()
    out = capsys.readouterr().out
    assert "4 runs, 2 of them finished" in out
    text = (place / "benchmarks/mini/mini.md").read_text(encoding="utf-8")
    assert text in out
    content = json.loads((place / "benchmarks/mini/mini.json").read_text(encoding="utf-8"))
    assert [(one["arm"], one["seeds"]) for one in content["results"]] == [("DMD", [0, 1]), ("+ both", [0, 1])]
    assert np.shape(content["results"][0]["values"]["psnr_y"]) == (2, 2)
    assert len(content["differences"]) == 2 and {cost["iterations"] for cost in content["costs"].values()} == {2}
    # PSNR is a reward of the miniature: it stands apart from the held-out metric.
    held_out = text.split("## val")[1].split("Rewards or losses")[0]
    assert "LQ-PSNR" in held_out and "PSNR-Y" not in held_out
    assert "PSNR-Y" not in text.split("## val")[0]

    # Nothing is left to do, and nothing is done.
    before = {path: path.stat().st_mtime_ns for path in (place / "experiments").rglob("*")}
    assert main(["-opt", str(file)]) == 0
    assert {path: path.stat().st_mtime_ns for path in (place / "experiments").rglob("*")} == before
    assert (place / "benchmarks/mini/mini.md").read_text(encoding="utf-8").split("## Protocol")[0] in text

    # The tables of a command for some runs have the others, too, unless their options are no longer those of the file.
    assert main(["-opt", str(file), "--only", "DMD", "--seeds", "1", "--evaluate_only"]) == 0
    kept = (place / "benchmarks/mini/mini.md").read_text(encoding="utf-8")
    assert kept.split("## Protocol")[0] == text.split("## Protocol")[0]
    stronger = {**ARMS, "+ both": {"distill": {**ARMS["+ both"]["distill"], "sharpening_strength": 0.7}}}
    assert main(["-opt", str(write_ablation(place, teacher, arms=stronger)), "--only", "DMD", "--evaluate_only"]) == 0
    assert "| + both |" not in (place / "benchmarks/mini/mini.md").read_text(encoding="utf-8")

    # Another option under the same name is refused, whatever does not matter is not.
    assert main(["-opt", str(write_ablation(place, teacher, num_threads=2)), "--evaluate_only"]) == 0
    capsys.readouterr()
    changed = {"DMD": {"distill": {**ARMS["DMD"]["distill"], "guidance_scale": 2.0}}}
    assert main(["-opt", str(write_ablation(place, teacher, arms=changed))]) == 2
    error = capsys.readouterr().err
    assert "distill.guidance_scale: 1.0 then, 2.0 now" in error and "another name" in error


def test_interrupted_run_is_resumed(place: Path, teacher: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_ablation(place, teacher, arms={"DMD": ARMS["DMD"]}, seeds=[0], total_iter=90000)
    command = [sys.executable, "-m", "amd_restore.benchmark.ablation", "-opt", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        command,
        cwd=place,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # ignored where the tests run in the background
    )
    states = place / "experiments/mini_dmd_s0/training_states"
    deadline = time.monotonic() + 240
    while not list(states.glob("*.state")) and time.monotonic() < deadline:
        time.sleep(0.1)
    second = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=240)
    assert second.returncode == 2 and "is being trained by another process" in second.stderr
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130 and "interrupted" in error
    saved = max(int(path.stem) for path in states.glob("*.state"))
    size = (place / "experiments/mini/mini_dmd_s0.log").stat().st_size
    time.sleep(0.5)
    assert (place / "experiments/mini/mini_dmd_s0.log").stat().st_size == size, "the training still runs"

    # The rest of 90000 iterations would take long: what is tested is that it goes on where it was.
    record = place / "experiments/mini/mini_dmd_s0.json"
    record.write_text(record.read_text().replace(": 90000", f": {saved + 1}").replace("90000\n", f"{saved + 1}\n"))
    file = write_ablation(place, teacher, arms={"DMD": ARMS["DMD"]}, seeds=[0], total_iter=saved + 1)
    assert main(["-opt", str(file), "--train_only"]) == 0, capsys.readouterr()
    assert f"iter: {saved}" in (place / "experiments/mini/mini_dmd_s0.log").read_text(encoding="utf-8")


def test_others_go_on_when_a_run_fails(place: Path, teacher: str, capsys: pytest.CaptureFixture[str]) -> None:
    arms = {"broken": {"path": {"pretrain_network_g": "not/there.pth"}}, "DMD": ARMS["DMD"]}
    file = write_ablation(place, teacher, arms=arms, seeds=[0], processes=1)
    assert main(["-opt", str(file)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("failed: mini_broken_s0: training ended with code 2: error: not/there.pth: no such")
    content = json.loads((place / "benchmarks/mini/mini.json").read_text(encoding="utf-8"))
    assert [one["arm"] for one in content["results"]] == ["DMD"]
    assert "| mini_broken_s0 | not finished | 0 |" in captured.out


def test_foreign_experiment_of_the_same_name_is_left_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "experiments/mini_dmd_s0").mkdir(parents=True)
    assert main(["-opt", str(write_ablation(place, "teacher.pth"))]) == 2
    assert "not made by this ablation" in capsys.readouterr().err


# ---- jobs ----------------------------------------------------------------------------------------------------------


def test_jobs_run_together_and_follow_ups_come_first(tmp_path: Path) -> None:
    order: list[str] = []

    def job(name: str, *after: ChildProcess, code: int = 0) -> ChildProcess:
        def done(status: int, seconds: float) -> list[ChildProcess]:
            order.append(f"{name} {status}")
            return list(after)

        command = [sys.executable, "-c", f"print('{name}'); raise SystemExit({code})"]
        return ChildProcess(name, command, tmp_path / f"{name}.log", 1, done)

    run_processes([job("a", job("a2")), job("b", code=3)], processes=1)
    assert order == ["a 0", "a2 0", "b 3"]
    assert last_line(tmp_path / "a2.log") == "a2" and last_line(tmp_path / "none.log") == "it wrote nothing"


def test_running_jobs_are_stopped_by_an_exception(tmp_path: Path) -> None:
    def fail(code: int, seconds: float) -> list[ChildProcess]:
        raise KeyboardInterrupt

    log = tmp_path / "slow.log"
    slow = "import os, time; print(os.getpid()); time.sleep(600)"
    fast = f"import os, time\nwhile not os.path.getsize({str(log)!r}): time.sleep(0.01)"
    jobs = [
        ChildProcess("slow", [sys.executable, "-c", slow], log, 1, lambda code, seconds: []),
        ChildProcess("fast", [sys.executable, "-c", fast], tmp_path / "fast.log", 1, fail),
    ]
    with pytest.raises(KeyboardInterrupt):
        run_processes(jobs, processes=2)
    assert not psutil.pid_exists(int(last_line(log)))


# ---- numbers -------------------------------------------------------------------------------------------------------


def arm_result(arm: str, values: np.ndarray, seeds: tuple[int, ...], rewards: tuple[str, ...] = ("niqe",)) -> ArmResult:
    images = tuple(map(str, range(values.shape[1])))
    return ArmResult(arm, 1, "val", seeds, images, rewards, {"psnr_y": values, "niqe": -values}, 0.1)


def test_differences_and_intervals() -> None:
    """Photographs differ far more than arms do, and training seeds more than noise."""
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 5, (1, 60))
    seeds = tuple(range(8))
    values = {
        name: difficulty + shift + rng.normal(0, 0.02, (8, 1)) for name, shift in (("A", 0), ("B", 0.2), ("C", 0))
    }
    results = [arm_result(name, of_arm, seeds) for name, of_arm in values.items()]
    cell = {(cell.arm, cell.metric): cell for cell in summarise_arms(results)}["A", "psnr_y"]
    assert cell.mean == pytest.approx(values["A"].mean()) and cell.own.high - cell.own.low < 0.1
    endpoint = EndpointOptions(dataset="val", steps=1, metric="psnr_y")
    found = {(one.arm, one.metric): one for one in compare_arms(results, ["A"], endpoint)}
    better, level, trained_on = found["B", "psnr_y"], found["C", "psnr_y"], found["B", "niqe"]
    assert better.difference.mean == pytest.approx(0.2, abs=0.05) and better.is_endpoint
    assert (better.verdict, level.verdict) == ("better", "undecided")
    assert better.p >= 2 * better.difference.p * (1 - 1e-9), "two arms are compared at the endpoint"
    assert np.isnan(trained_on.p) and trained_on.verdict == "undecided", "a reward decides nothing"
    assert split_metrics(["psnr_y", "niqe"], results) == (["psnr_y"], ["niqe"])


def test_three_seeds_of_one_sign_are_no_finding() -> None:
    """What a bootstrap over three seeds called decided: it is as often a coin that falls alike three times."""
    difference = np.array([[0.28], [0.03], [0.41]])
    base = np.random.default_rng(0).normal(25, 4, (3, 60))
    results = [arm_result("DMD", base, (0, 1, 2)), arm_result("AMD", base + difference, (0, 1, 2))]
    psnr = compare_arms(results, ["DMD"])[0]
    assert psnr.verdict == "undecided"
    assert (psnr.difference.low, psnr.difference.high) == pytest.approx((-0.2398, 0.7198), abs=1e-4)


def test_an_endpoint_must_be_evaluated(place: Path, teacher: str) -> None:
    file = write_ablation(place, teacher, endpoint={"dataset": "val", "steps": 1, "metric": "lpips"})
    with pytest.raises(AMDRestoreError, match=r"endpoint.metric: lpips is not evaluated; evaluation has \["):
        load_ablation_options(file)


def test_only_common_seeds_are_compared() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (3, 20))
    shifted = values + np.array([[1.0], [1.0], [50.0]])
    results = [arm_result("A", values[:2], (0, 1)), arm_result("B", shifted[[1, 2]], (1, 2))]
    difference = compare_arms(results, ["A"])[0]
    assert difference.difference.mean == pytest.approx(1.0)


def test_one_training_seed_has_no_interval(place: Path, teacher: str) -> None:
    endpoint = {"dataset": "val", "steps": 1, "metric": "psnr_y"}
    options = load_ablation_options(write_ablation(place, teacher, endpoint=endpoint, seeds=[0]))
    values = np.random.default_rng(0).normal(25, 1, (1, 4))
    results = [
        dataclasses.replace(arm_result(arm, values, (0,), ()), values=dict.fromkeys(options.evaluation.metrics, values))
        for arm in options.arms
    ]
    text = write_tables(place, options, results, [], {})
    assert "inf" not in text and text.count("one seed |") >= 3 and "+0.000 (one seed)" in text


def test_training_time_is_read_from_diagnostics(tmp_path: Path) -> None:
    file = tmp_path / "diagnostics.jsonl"
    assert last_seconds(file) is None
    file.write_text('{"iter": 1, "seconds": 5.5, "values": {}}\n{"iter": 2, "seco', encoding="utf-8")
    assert last_seconds(file) == 5.5


def test_errors_are_the_packages_own(tmp_path: Path) -> None:
    with pytest.raises(AMDRestoreError, match="no such option file"):
        load_ablation_options(tmp_path / "none.yml")
