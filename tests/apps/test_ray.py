"""The parts of the cluster engine without Ray: names, stores, who gets what, and the worker in this process."""

from __future__ import annotations

import dataclasses
import errno
import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from object_store import installed
from tiny_model import save_tiny

from amd_restore import __version__
from amd_restore.apps.cli import main
from amd_restore.apps.files.plan import plan_jobs
from amd_restore.apps.files.settings import Settings
from amd_restore.apps.ray.connection import Cluster, lay_out
from amd_restore.apps.ray.packets import Packet, Packets
from amd_restore.apps.ray.plan import ClusterJob, plan_cluster_jobs, present
from amd_restore.apps.ray.storage import StorageError, check_url_writable, fetch, list_folder, may_pass, put
from amd_restore.apps.ray.worker import Loaded, Order, Worker
from amd_restore.atomic import try_lock
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import Picture, encode, write_image
from amd_restore.inference import memory


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(autouse=True)
def one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Temporary files of its own, and nobody left to packet memory with."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield
    memory.share_memory(1)


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


def picture(number: int) -> Picture:
    return Picture(np.random.default_rng(number).integers(0, 256, (12, 10, 3), np.uint8))


def load(worker: Worker, weights: Path, **settings: Any) -> Loaded | None:
    wanted = dataclasses.replace(Settings(model=str(weights), device="cpu"), **settings)
    return worker.load(wanted, 2, 1, 1, __version__)


def test_names_in_stores_are_those_in_folders(tmp_path: Path, store: fsspec.AbstractFileSystem) -> None:
    names = ["a.png", "a.jpg", "deep/B.PNG", "deep/.hidden.png", ".trash/c.png", "notes.txt", "out/old.png"]
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        store.pipe_file(f"/bucket/in/{name}", b"")
    for recursive in (False, True):
        for output, below in (("results", ""), ("in/out", "in/out"), ("in", "")):
            jobs = plan_jobs(tmp_path / "in", tmp_path / output, "_x4", "webp", recursive)
            expected = {
                (job.source.relative_to(tmp_path).as_posix(), job.target.relative_to(tmp_path).as_posix())
                for job in jobs
            }
            for source, target in (
                ("memory://bucket/in", f"memory://bucket/{output}"),
                (str(tmp_path / "in"), f"memory://bucket/{output}"),
                ("memory://bucket/in", str(tmp_path / output)),
            ):
                if below and "://" not in source + target:
                    continue
                mixed = ("://" in source) != ("://" in target)
                items = plan_cluster_jobs(source, target, "_x4", "webp", recursive)
                found = {
                    tuple(
                        name.removeprefix("memory://bucket/").removeprefix(f"{tmp_path.as_posix()}/")
                        for name in (item.source, item.target)
                    )
                    for item in items
                }
                # Elsewhere, what lies in in/out is no earlier result.
                assert (found >= expected) if mixed else (found == expected)


def test_outputs_among_the_inputs_of_a_store(store: fsspec.AbstractFileSystem) -> None:
    for name in ("a.png", "a_restored.png", "b.jpg", "b_restored_compare.png", "c_restored.png", "x.txt"):
        store.pipe_file(f"/in/{name}", b"")
    left_out = Counter[str]()
    items = plan_cluster_jobs("memory://in", "memory://in", left_out=left_out)
    names = [("a.png", "a_restored.png"), ("b.jpg", "b_restored.jpg"), ("c_restored.png", "c_restored_restored.png")]
    assert items == [ClusterJob(f"memory://in/{source}", f"memory://in/{target}") for source, target in names]
    assert +left_out == {"earlier outputs": 2, ".txt": 1}


def test_one_picture(tmp_path: Path, store: fsspec.AbstractFileSystem) -> None:
    store.pipe_file("/in/a.png", b"")
    assert plan_cluster_jobs("memory://in/a.png", "memory://out") == [
        ClusterJob("memory://in/a.png", "memory://out/a.png")
    ]
    assert plan_cluster_jobs("memory://in/a.png", "memory://out/b.jpg") == [
        ClusterJob("memory://in/a.png", "memory://out/b.jpg")
    ]
    assert plan_cluster_jobs("memory://in/a.png", "memory://in/A.png") == [
        ClusterJob("memory://in/a.png", "memory://in/A_restored.png")
    ]
    path = tmp_path / "a.png"
    path.touch()
    assert plan_cluster_jobs(path, "memory://out", suffix="_x4") == [ClusterJob(str(path), "memory://out/a_x4.png")]
    assert plan_cluster_jobs("memory://in/a.png", tmp_path) == [
        ClusterJob("memory://in/a.png", str(tmp_path / "a.png"))
    ]
    with pytest.raises(AMDRestoreError, match=r"x.gif: .gif files are written with --frames only; add it, or name a"):
        plan_cluster_jobs("memory://in/a.png", tmp_path / "x.gif")


def test_what_is_there_is_known_from_one_listing(store: fsspec.AbstractFileSystem) -> None:
    items = [ClusterJob(f"memory://in/{i}.png", f"memory://out/{'deep/' if i % 2 else ''}{i}.png") for i in range(6)]
    assert present(items, "memory://out/") == set()
    for item in items[:3]:
        store.pipe_file(item.target.removeprefix("memory:/"), b"x")
    assert present(items, "memory://out/") == set(items[:3])
    assert present(items[:1], items[0].target) == set(items[:1])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("memory://nowhere", "no image there"),
        ("nonsense://bucket/in", "not understood"),
        ("zip://a.png::memory://in.zip", "chained URLs are not supported"),
    ],
)
def test_urls_that_lead_nowhere(source: str, message: str, store: fsspec.AbstractFileSystem) -> None:
    with pytest.raises(AMDRestoreError, match=message) as caught:
        plan_cluster_jobs(source, "memory://out")
    assert str(caught.value).startswith(source) and "\n" not in str(caught.value)


def test_a_store_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(AMDRestoreError, match="further package .Install s3fs"):
        list_folder("s3://bucket/in", True)


def test_errors_that_may_pass(tmp_path: Path, store: fsspec.AbstractFileSystem) -> None:
    with pytest.raises(AMDRestoreError, match="memory://a.png: cannot be read .no such file") as caught:
        fetch("memory://a.png", tmp_path / "a.png")
    assert not may_pass(caught.value)
    wrapped = AMDRestoreError("cannot write")
    wrapped.__cause__ = OSError(errno.ENOSPC, "no space left")
    assert may_pass(wrapped)
    wrapped.__cause__ = OSError("image file is truncated")  # as Pillow says it
    assert not may_pass(wrapped)
    assert not may_pass(AMDRestoreError("bad picture"))
    assert not may_pass(PermissionError(errno.EACCES, "no"))


def test_what_is_put_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"0123456789")
    with installed(tmp_path / "package", tmp_path / "bucket"):
        put(tmp_path / "a.png", "teststore://deep/er/a.png")
        assert (tmp_path / "bucket/deep/er/a.png").read_bytes() == b"0123456789"

        def breaks(self: object, lpath: str, rpath: str) -> None:
            (tmp_path / "bucket" / rpath).write_bytes(b"0123")
            raise ConnectionResetError("the connection was reset")

        monkeypatch.setattr("object_store.ObjectStore.put_file", breaks)
        for name in ("deep/er/a.png", "deep/b.png"):
            with pytest.raises(StorageError, match="connection was reset"):
                put(tmp_path / "a.png", f"teststore://{name}")
    left = {path.relative_to(tmp_path / "bucket").as_posix() for path in (tmp_path / "bucket").rglob("*.*")}
    assert left == {"deep/er/a.png", "puts.log"}
    assert (tmp_path / "bucket/deep/er/a.png").read_bytes() == b"0123456789"


def test_a_place_to_write_is_tried(
    tmp_path: Path, store: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_url_writable("memory://out", tmp_path)
    assert list_folder("memory://out", True) == []

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "read only")

    monkeypatch.setattr(type(store), "put_file", refuse)
    message = r"^memory://out: cannot be written \(.*read only\); check the URL .*; name another place with -o$"
    with pytest.raises(AMDRestoreError, match=message):
        check_url_writable("memory://out", tmp_path)


def test_a_worker_reads_and_writes_stores(tmp_path: Path, weights: Path, store: fsspec.AbstractFileSystem) -> None:
    for number in range(4):
        write_image(tmp_path / f"in/{number}.png", picture(number))
        store.pipe_file(f"/in/{number}.png", encode(picture(number), ".png"))
    store.pipe_file("/in/bad.png", b"")
    common = ["--model", str(weights), "--device", "cpu", "--n-samples", "2", "--compare"]
    assert main(["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *common]) == 0
    worker = Worker()
    loaded = load(worker, weights, n_samples=2, compare=True)
    assert loaded is not None and (loaded.process, loaded.advice) == (os.getpid(), None)
    items = plan_cluster_jobs("memory://in", "memory://out")
    orders = [Order(number, item, wanted=number != 2) for number, item in enumerate(items)]
    answers = {answer.number: answer for answer in worker.restore(orders)}
    assert {number: answer.status for number, answer in answers.items()} == {
        0: "restored", 1: "restored", 3: "restored", 4: "failed",
    }  # fmt: skip
    assert answers[4].message.startswith("memory://in/bad.png: the file is empty") and not answers[4].passing
    assert "AMDRestoreError" in answers[4].trace
    expected = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.name[0] != "2"}
    assert len(expected) == 9
    assert {name.removeprefix("/out/"): store.cat_file(name) for name in store.find("/out")} == expected
    staged = [path.name for path in (tmp_path / "temporary").rglob("*") if path.is_file()]
    assert staged == ["lock"]


def test_a_large_picture_is_streamed_into_a_store(
    tmp_path: Path, weights: Path, store: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amd_restore.apps.files.restorer.STREAM_PIXELS", 1000)
    store.pipe_file("/in/a.png", encode(picture(0), ".png"))
    write_image(tmp_path / "a.png", picture(0))
    worker = Worker()
    load(worker, weights)
    for source, target in (
        ("memory://in/a.png", "memory://out/a.png"),
        (str(tmp_path / "a.png"), str(tmp_path / "b.png")),
    ):
        assert [answer.restored_size for answer in worker.restore([Order(0, ClusterJob(source, target))])] == [(48, 40)]
    assert store.cat_file("/out/a.png") == (tmp_path / "b.png").read_bytes()


def test_weights_travel_to_machines_that_lack_them(tmp_path: Path, weights: Path) -> None:
    worker = Worker()
    elsewhere = Settings(model=str(tmp_path / "not here" / "tiny.safetensors"), device="cpu")
    assert worker.load(elsewhere, 2, 1, 1, __version__) is None
    content = (weights.name, weights.read_bytes())
    assert worker.load(elsewhere, 2, 1, 1, __version__, content) is not None
    write_image(tmp_path / "a.png", picture(0))
    there = [Order(0, ClusterJob(str(tmp_path / "a.png"), str(tmp_path / "there.png")))]
    here = [Order(0, ClusterJob(str(tmp_path / "a.png"), str(tmp_path / "here.png")))]
    assert [answer.status for answer in worker.restore(there)] == ["restored"]
    load(worker, weights)
    assert [answer.status for answer in worker.restore(here)] == ["restored"]
    assert (tmp_path / "there.png").read_bytes() == (tmp_path / "here.png").read_bytes()
    with pytest.raises(AMDRestoreError, match=f"has amd-restore {__version__} and the program that asks 0.0; install"):
        worker.load(elsewhere, 2, 1, 1, "0.0")


def test_copies_of_a_killed_worker_are_cleared(tmp_path: Path, weights: Path) -> None:
    dead, alive = tmp_path / "temporary" / "amd-restore-stage-x", tmp_path / "temporary" / "amd-restore-stage-y"
    for folder in (dead, alive):
        (folder / "1" / "in").mkdir(parents=True)
        (folder / "lock").touch()
    with open(alive / "lock", "rb") as lock:
        assert try_lock(lock)
        load(Worker(), weights)
        assert not dead.exists() and alive.exists()


def test_workers_divide_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(memory, "available_memory", lambda device: 8 * 2**30)
    budgets: list[float] = []

    def choose(job: memory.Workload, budget: float) -> tuple[int, int]:
        budgets.append(budget)
        return 8, 8

    monkeypatch.setattr(memory, "choose_tile", choose)
    for processes in (1, 4):
        memory.share_memory(processes)
        memory.plan_tile(memory.Workload(100, 100, 1, 4, 16, 2000.0), torch.device("cpu"), None, 0)
    assert budgets == [4 * 2**30, 2**30]


class FakeRay:
    """A cluster of given machines."""

    def __init__(self, *nodes: dict[str, float]) -> None:
        self._nodes = nodes

    def nodes(self) -> list[dict[str, object]]:
        return [{"Alive": True, "Resources": node} for node in self._nodes] + [
            {"Alive": False, "Resources": {"CPU": 9}}
        ]


@pytest.mark.parametrize(
    ("nodes", "wanted", "threads", "layout"),
    [
        ([{"CPU": 16}, {"CPU": 6}], None, None, (5, 4, 0.0, 4)),
        ([{"CPU": 2}], None, None, (1, 2, 0.0, 1)),
        ([{"CPU": 2}], 2, None, (2, 1, 0.0, 2)),
        ([{"CPU": 16}, {"CPU": 16}], None, 8, (4, 8, 0.0, 2)),
        ([{"CPU": 16, "GPU": 2}, {"CPU": 8}], None, None, (2, 12, 1.0, 1)),
        ([{"CPU": 16, "GPU": 2}], 4, None, (4, 4, 0.5, 2)),
    ],
)
def test_layout(
    nodes: list[dict[str, float]], wanted: int | None, threads: int | None, layout: tuple[float, ...]
) -> None:
    found = lay_out(FakeRay(*nodes), Cluster(workers=wanted), "auto", threads, 1000)
    assert (found.workers, found.threads, found.gpus, found.neighbours) == layout
    assert lay_out(FakeRay(*nodes), Cluster(workers=wanted), "auto", threads, 1).workers == 1
    with pytest.raises(AMDRestoreError, match="--device cuda:1: Ray chooses"):
        lay_out(FakeRay(*nodes), Cluster(), "cuda:1", None, 5)


def test_shares_shrink_towards_the_end_and_keep_batches() -> None:
    batches = [tuple(range(i, min(i + 3, 200))) for i in range(0, 200, 3)]
    packets = Packets(batches, set(range(200)) - {1}, retries=2)
    sizes, seen = [], []
    while (packet := packets.take(2, 0.0)) is not None:
        sizes.append(len(packet.batches))
        seen += packet.numbers
        assert all(batch in batches for batch in packet.batches)
        for number in sorted(packet.open):
            assert packets.answered(packet, number)
    assert seen == list(range(200)) and not packets.open
    assert sizes[0] == 8 and sizes[-1] == 1 and sizes == sorted(sizes, reverse=True)


def test_shares_under_random_faults() -> None:
    generator = random.Random(0)
    for round_ in range(200):
        count, batch, workers, retries = (generator.randint(1, high) for high in (40, 4, 3, 3))
        batches = [tuple(range(i, min(i + batch, count))) for i in range(0, count, batch)]
        wanted = {number for number in range(count) if generator.random() < 0.8}
        packets, now = Packets(batches, wanted, retries), 0.0
        queues: list[list[Packet]] = [[] for _ in range(workers)]
        final: Counter[int] = Counter()
        for _ in range(100_000):
            if not packets.open:
                break
            now += 1.0
            for queue in queues:
                while len(queue) < 2 and (packet := packets.take(workers, now)) is not None:
                    queue.append(packet)
            queue = generator.choice(queues)
            if not queue:
                continue
            if generator.random() < 0.05:
                final.update(given_up := packets.lost(queue, now))
                packets.open -= set(given_up)
                queue.clear()
            elif not queue[0].open:
                queue.pop(0)
            else:
                number = min(queue[0].open)
                if generator.random() < 0.1 and packets.failed(queue[0], number, now):
                    continue
                assert packets.answered(queue[0], number)
                final[number] += 1
        assert final == Counter(dict.fromkeys(wanted, 1)), f"round {round_}"
        assert all(packets.tries(number) <= retries + 1 for number in wanted)


def test_a_pause_before_the_second_try() -> None:
    packets = Packets([(0,)], {0}, retries=2)
    packet = packets.take(1, 0.0)
    assert packet is not None and packets.failed(packet, 0, 10.0)
    assert packets.take(1, 10.5) is None and packets.pause(10.5) == 0.5
    packet = packets.take(1, 11.0)
    assert packet is not None and packets.failed(packet, 0, 20.0)
    assert packets.pause(20.0) == 2.0
    packet = packets.take(1, 22.0)
    assert packet is not None and not packets.failed(packet, 0, 30.0)
    assert (packets.given_again, packets.tries(0)) == (2, 3)


def test_only_the_share_at_work_counts_as_tried() -> None:
    packets = Packets([(number,) for number in range(16)], set(range(16)), retries=0)
    working, waiting = packets.take(1, 0.0), packets.take(1, 0.0)
    assert working is not None and waiting is not None
    packets.answered(working, 0)
    assert packets.lost([working, waiting], 1.0) == working.numbers[1:]
    again = packets.take(1, 1.0)
    assert again is not None and again.numbers == waiting.numbers and packets.given_again == 0
