"""Two workers of a Ray cluster on this machine: the bytes of a local run, and nothing lost when one is killed."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from object_store import installed
from tiny_model import save_tiny

from amd_restore.apps.cli import main
from amd_restore.apps.files.outcome import Outcome
from amd_restore.apps.files.settings import Settings
from amd_restore.apps.ray.connection import Cluster, connected
from amd_restore.apps.ray.engine import RayEngine
from amd_restore.apps.ray.plan import ClusterJob, plan_cluster_jobs, present
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import Picture, write_image

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra 'ray'")
PICTURES = 30
TWO = Cluster(workers=2)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What ``teststore://`` shows, to this process and to the workers."""
    folder = tmp_path_factory.mktemp("store")
    with installed(folder / "package", folder / "bucket"):
        yield folder / "bucket"


@pytest.fixture(scope="module")
def ray(bucket: Path) -> Iterator[object]:
    """A cluster of two workers with a thread each; the engine joins it."""
    with connected(TWO, threads=1) as ray:
        yield ray


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    weights = save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")
    return Settings(model=str(weights), device="cpu", threads=1, tta=True)  # slow enough to be killed in the middle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small pictures of two sizes in two folders, and one that is none."""
    root = tmp_path_factory.mktemp("in")
    generator = np.random.default_rng(0)
    for number in range(PICTURES):
        shape = (12, 10, 3) if number % 3 else (9, 14, 3)
        name = f"{'deep/' if number % 4 == 0 else ''}{number:02}.png"
        write_image(root / name, Picture(generator.integers(0, 256, shape, np.uint8)))
    (root / "bad.png").write_bytes(b"not a picture")
    return root


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, folder: Path, settings: Settings) -> dict[str, bytes]:
    """What one process makes of them."""
    return restore_here(folder, tmp_path_factory.mktemp("out"), settings)


def restore_here(folder: Path, output: Path, settings: Settings, *options: str) -> dict[str, bytes]:
    arguments = ["-i", str(folder), "-o", str(output), "--recursive", "--device", "cpu", "--threads", "1", "--tta"]
    assert main([*arguments, "--model", str(settings.model), *options]) == 1  # one is bad
    return contents(output)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def counts(outcomes: Sequence[Outcome]) -> Counter[str]:
    """By status; fails if there are two for one picture."""
    assert len({outcome.job for outcome in outcomes}) == len(outcomes)
    return Counter(outcome.status for outcome in outcomes)


@pytest.fixture(scope="module")
def light(settings: Settings) -> Settings:
    """The same with workers that start in half the time: they do not import torch."""
    return dataclasses.replace(settings, backend="onnx")


@pytest.mark.parametrize("batch", [1, 3])
def test_the_bytes_of_one_process(
    ray: object,
    folder: Path,
    settings: Settings,
    light: Settings,
    expected: dict[str, bytes],
    tmp_path: Path,
    batch: int,
) -> None:
    if batch > 1:
        settings = light
        expected = restore_here(folder, tmp_path / "here", settings, "--batch", str(batch), "--backend", "onnx")
    engine = RayEngine(settings, TWO, batch=batch)
    items = plan_cluster_jobs(folder, tmp_path / "out", recursive=True)
    assert counts(list(engine.run(items))) == {"restored": PICTURES, "failed": 1}
    assert contents(tmp_path / "out") == expected
    assert (engine.retries, engine.lost_workers) == (0, 0)
    for name in list(expected)[::2]:
        (tmp_path / "out" / name).unlink()
    there = present(items, tmp_path / "out")
    engine.cluster = Cluster(workers=1)  # each start takes seconds, and here it is only about what is done again
    assert counts(list(engine.run(items, sorted(there, key=str)))) == {"restored": 15, "skipped": 15, "failed": 1}
    assert contents(tmp_path / "out") == expected
    assert list(engine.run(items, items)) == [Outcome(item, "skipped") for item in items]


def kill_one(engine: RayEngine, items: Sequence[ClusterJob], after: int) -> list[Outcome]:
    """Run, and kill a worker at work once ``after`` outcomes are known."""
    outcomes = []
    for outcome in engine.run(items):
        outcomes.append(outcome)
        if len(outcomes) == after:
            os.kill(engine.busy[0][1], signal.SIGKILL)
    return outcomes


def test_a_worker_killed_in_the_middle(
    ray: object,
    folder: Path,
    settings: Settings,
    expected: dict[str, bytes],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    lines: list[str] = []
    engine = RayEngine(settings, TWO, notify=lines.append)
    outcomes = kill_one(engine, plan_cluster_jobs(folder, tmp_path / "out", recursive=True), after=5)
    assert counts(outcomes) == {"restored": PICTURES, "failed": 1}
    assert [str(outcome.job.source) for outcome in outcomes if outcome.status == "failed"] == [str(folder / "bad.png")]
    assert {name: data for name, data in contents(tmp_path / "out").items() if ".part" not in name} == expected
    assert engine.lost_workers == 1 and engine.retries <= 16
    lines = [line for line in lines if "no worker is ready yet" not in line]  # said where processors are busy
    assert len(lines) == 1 and (found := re.fullmatch(r"lost worker \d+ on \S+ \(\w+\); (\d+) pictures .*", lines[0]))
    assert int(found[1]) > 0
    assert capfd.readouterr() == ("", "")


def test_without_retries_what_was_at_work_is_listed(
    ray: object, folder: Path, settings: Settings, expected: dict[str, bytes], tmp_path: Path
) -> None:
    engine = RayEngine(settings, Cluster(workers=2, retries=0))
    outcomes = kill_one(engine, plan_cluster_jobs(folder, tmp_path / "out", recursive=True), after=5)
    failed = [
        outcome for outcome in outcomes if outcome.status == "failed" and "bad.png" not in str(outcome.job.source)
    ]
    assert counts(outcomes) == {"restored": PICTURES - len(failed), "failed": 1 + len(failed)}
    assert failed and all("tried 1 times; each time its worker was lost" in outcome.message for outcome in failed)
    finished = {name: data for name, data in contents(tmp_path / "out").items() if ".part" not in name}
    assert finished.items() <= expected.items() and len(finished) >= PICTURES - len(failed)


def test_an_object_store_with_faults(ray: object, bucket: Path, folder: Path, light: Settings, tmp_path: Path) -> None:
    """Two transfers fail and pass the third time; a picture that kills its workers does not stop the run."""
    expected = restore_here(folder, tmp_path, light, "--backend", "onnx")
    for path in sorted(folder.glob("[01]*.png")):
        kind = {"01.png": "flaky", "02.png": "poison"}.get(path.name, "plain")
        put = bucket / "in" / f"{kind}_{path.name}"
        put.parent.mkdir(parents=True, exist_ok=True)
        put.write_bytes(path.read_bytes())
    number = len(list((bucket / "in").iterdir()))
    lines: list[str] = []
    engine = RayEngine(light, TWO, notify=lines.append)
    outcomes = list(engine.run(plan_cluster_jobs("teststore://in", "teststore://out")))
    assert counts(outcomes) == {"restored": number - 1, "failed": 1}
    (failed,) = [outcome for outcome in outcomes if outcome.status == "failed"]
    assert failed.message.startswith("teststore://in/poison_02.png: tried 3 times; each time its worker was lost")
    assert engine.lost_workers == 3
    assert sum(line.startswith("lost worker") for line in lines) == 3  # a busy machine may add that workers start late
    restored = {name.split("_")[1]: data for name, data in contents(bucket / "out").items()}
    assert restored == {name: expected[name] for name in restored} and len(restored) == number - 1
    assert (bucket / "faults.log").read_text().count("fault") == 2
    assert engine.retries >= 2 + 2  # the flaky one twice, the poisonous one twice, and what shared its first packet
    assert {f"out/{name}" for name in contents(bucket / "out")} == set((bucket / "puts.log").read_text().split())


def test_a_model_that_is_not_there(ray: object, folder: Path, tmp_path: Path) -> None:
    items = plan_cluster_jobs(folder, tmp_path / "out")
    for wrong in (Settings(model=str(tmp_path / "no.safetensors")), Settings(consistency=True, device="nonsense")):
        with pytest.raises(AMDRestoreError) as caught:
            list(RayEngine(wrong, Cluster(workers=1)).run(items))
        assert "\n" not in str(caught.value) and len(str(caught.value)) > 20
    assert not (tmp_path / "out").exists()
