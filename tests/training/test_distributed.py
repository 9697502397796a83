"""Several processes, and a batch in several parts, give the result of one process and one part."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from distributed_setup import IMAGES, difference, make_options, make_weights, torchrun, train
from places import REPOSITORY
from training_setup import make_data

from amd_restore.data.degradations import build_degradation
from amd_restore.data.resumable import PositionSampler
from amd_restore.errors import AMDRestoreError
from amd_restore.models import distributed
from amd_restore.models.rollout import Denoising
from amd_restore.training.pipeline import start_processes

TOLERANCE = 1e-6
# Logs, gradients and the statistics of rewards hold differences of nearly equal numbers, and their quotients.
QUOTIENT_TOLERANCE = 1e-4
HALF: dict[str, Any] = {"datasets__train__batch_size_per_gpu": IMAGES // 2}
PARTS: dict[str, Any] = {"train__accumulate": 2}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "teacher": ("teacher_x4_classical", {}),
    "amd": ("amd_x4_classical", {"train__grad_clip": 0.5}),
    "spatial": ("amd_x4_real", {"distill__spatial": True}),
    "relative": (
        "amd_x4_classical",
        {
            "distill__advantage": "teacher",
            "distill__group_size": 1,
            "distill__advantage_every": 2,
            "distill__fake_updates_per_student": 1,
            "distill__spatial": True,
        },
    ),
    # Of the first steps, which are not matched, the processes have different numbers.
    "unmatched": ("amd_x4_real", {"distill__advantage": "teacher", "distill__group_size": 1}),
}
IN_TWO = {"teacher": HALF, "amd": HALF, "spatial": HALF | PARTS, "relative": HALF, "unmatched": HALF}


class Results:
    """What one process and two processes come to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.alone_: dict[str, dict[str, Any]] = {}
        (folder / "cases").mkdir()
        make_data(folder)
        make_weights(folder)
        for name, changes in IN_TWO.items():
            text = yaml.safe_dump(self.options(name, changes))
            (folder / "cases" / f"{name}.yml").write_text(text, encoding="utf-8")
        self.running = torchrun([str(REPOSITORY / "tests" / "helpers" / "distributed_setup.py"), str(folder)], folder)

    def options(self, name: str, changes: dict[str, Any]) -> dict[str, Any]:
        recipe, own = CASES[name]
        return make_options(self.folder, recipe, **own, **changes)

    def alone(self, name: str) -> dict[str, Any]:
        """One process, in one part."""
        if name not in self.alone_:
            self.alone_[name] = train(self.options(name, {}), self.folder)
        return self.alone_[name]

    def together(self, name: str) -> dict[str, Any]:
        """Two processes."""
        if self.running.poll() is None:
            _, errors = self.running.communicate(timeout=240)
            assert self.running.returncode == 0, errors[-3000:]
        result: dict[str, Any] = torch.load(self.folder / f"{name}.pt", weights_only=False)
        return result


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Any:
    threads = torch.get_num_threads()
    made = Results(tmp_path_factory.mktemp("distributed"))
    yield made
    torch.set_num_threads(threads)
    if made.running.poll() is None:
        made.running.terminate()
        made.running.wait()


@pytest.mark.parametrize("name", ["teacher", "spatial", "relative", "unmatched"])
def test_parts_give_the_result_of_the_whole(results: Results, name: str) -> None:
    in_parts = train(results.options(name, PARTS), results.folder)
    assert_equal(in_parts, results.alone(name))


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_result_of_one(results: Results, name: str) -> None:
    assert_equal(results.together(name), results.alone(name))


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Weights, averages, optimizers, reward statistics and logs."""
    assert found.keys() == expected.keys() and expected["logs"][0]
    differences = {key: difference(found[key], expected[key]) for key in expected}
    assert max(differences.pop(key) for key in ("logs", "moments", "extra")) <= QUOTIENT_TOLERANCE, differences
    assert max(differences.values()) <= TOLERANCE, differences


def test_the_batches_of_an_iteration_follow_one_another() -> None:
    whole = list(PositionSampler(0, 12, batch=4))
    shares = [list(PositionSampler(0, 6, rank, 2, batch=2)) for rank in (0, 1)]
    joined = [p for i in range(0, 6, 2) for share in shares for p in share[i : i + 2]]
    assert whole == joined == list(range(12))


def test_a_process_draws_its_rows_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.arange(12)
    drawn: list[int] = []

    def draw(n: int) -> torch.Tensor:
        drawn.append(n)
        return whole[:n]

    assert torch.equal(distributed.own_rows(draw, 12), whole)
    monkeypatch.setattr(distributed, "process_count", lambda: 3)
    found = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "process_rank", lambda rank=rank: rank)
        found.append(distributed.own_rows(draw, 4))
    assert torch.equal(torch.cat(found), whole) and drawn == [12] * 4


def test_parts_of_a_batch_hold_its_rows() -> None:
    x0, t = torch.rand(5, 2, 3, 3), torch.rand(5)
    batch = Denoising(x0=x0, noise=-x0, t=t, cond=2 * x0)
    assert batch.parts(1) == [batch]
    parts = batch.parts(2)
    assert [len(part) for part in parts] == [3, 2] and all(part.keep is None for part in parts)
    for name in ("x0", "noise", "t", "cond"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
        assert torch.equal(getattr(batch[torch.tensor([4, 0])], name), getattr(batch, name)[[4, 0]])


def test_a_degradation_can_start_within_a_batch() -> None:
    degradation = build_degradation({"type": "second_order"}, 4)
    images = torch.rand(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    degradation.reseed(7)
    whole = degradation(images)
    degradation.reseed(7, before=3)
    assert torch.equal(degradation(images[3:]), whole[3:])


def test_parts_that_do_not_divide_the_batch_are_refused(results: Results) -> None:
    message = "train.accumulate: must divide datasets.train.batch_size_per_gpu (4), got 3"
    with pytest.raises(AMDRestoreError, match=re.escape(message)):
        train(results.options("teacher", {"train__accumulate": 3}), results.folder)


def test_processes_need_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AMDRestoreError, match="start it with torchrun"):
        start_processes({"num_gpu": 0}, "pytorch")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(AMDRestoreError, match="backend: nccl needs GPUs"):
        start_processes({"num_gpu": 0, "dist_params": {"backend": "nccl"}}, "pytorch")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(AMDRestoreError, match="3 processes for 2 GPUs"):
        start_processes({"num_gpu": 2}, "pytorch")
