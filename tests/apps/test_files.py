"""Folders at scale: killed at any moment, the same command goes on; nothing is lost, doubled or left over."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny_model import save_tiny

from amd_restore.apps.cli import main
from amd_restore.apps.files.engine import Engine
from amd_restore.apps.files.needs import Need
from amd_restore.apps.files.outcome import failed
from amd_restore.apps.files.plan import Job, plan_jobs
from amd_restore.apps.files.restorer import Finish, Restorer, Source
from amd_restore.apps.files.settings import Settings
from amd_restore.atomic import _host
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import Picture, write_image
from amd_restore.inference.memory import Account
from amd_restore.pipeline import RestorationPipeline

KILLS = 20


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty small pictures of two sizes, in two folders."""
    root = tmp_path_factory.mktemp("in")
    generator = np.random.default_rng(0)
    for i in range(40):
        shape = (12, 10, 3) if i % 3 else (9, 14, 3)
        name = f"{'deep/' if i % 4 == 0 else ''}{i:02}.png"
        write_image(root / name, Picture(generator.integers(0, 256, shape, np.uint8)))
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def restore_in_child(arguments: list[str]) -> None:
    import torch

    torch.set_num_threads(1)
    raise SystemExit(main(arguments))


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("batch", [1, 3])
def test_killed_at_random_moments(tmp_path: Path, folder: Path, weights: Path, batch: int) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["amd_restore.inference.check", "amd_restore.apps.files.restorer", "amd_restore.apps.cli"]
    )
    moments = random.Random(batch)
    common = ["-i", str(folder), "--recursive", "--model", str(weights), "--workers", "3", "--batch", str(batch)]

    def run(output: Path, kill_after: float | None) -> int | None:
        child = context.Process(target=restore_in_child, args=([*common, "-o", str(output), "--resume"],))
        child.start()
        child.join(kill_after)
        child.kill()  # nothing happens to one that has just ended
        child.join()
        return child.exitcode

    assert run(tmp_path / "warm_up", None) == 0  # the first run waits for the server that forks
    start = time.perf_counter()
    assert run(tmp_path / "undisturbed", None) == 0
    whole = time.perf_counter() - start
    start = time.perf_counter()
    assert run(tmp_path / "undisturbed", None) == 0  # all there: what starting up takes
    startup = time.perf_counter() - start
    expected = contents(tmp_path / "undisturbed")
    assert len(expected) == 40
    killed = rounds = 0
    while killed < KILLS // 2:
        output = tmp_path / f"killed_{rounds}"
        rounds += 1
        while run(output, startup * 0.8 + moments.random() * max(whole - startup, 0.05)) != 0:
            killed += 1
            half = contents(output) if output.exists() else {}
            finished = {name: data for name, data in half.items() if not name.endswith(".part")}
            assert finished.items() <= expected.items()
        assert contents(output) == expected
        assert rounds < 5 * KILLS, "never killed in the middle"


def test_batches_do_not_depend_on_what_is_there(tmp_path: Path, folder: Path, weights: Path) -> None:
    common = ["-i", str(folder), "--recursive", "--model", str(weights)]
    assert main([*common, "-o", str(tmp_path / "three"), "--batch", "3"]) == 0
    whole = contents(tmp_path / "three")
    for name in list(whole)[::2]:
        (tmp_path / "three" / name).unlink()
    assert main([*common, "-o", str(tmp_path / "three"), "--batch", "3", "--json", str(tmp_path / "report.json")]) == 0
    assert contents(tmp_path / "three") == whole
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["counts"] == {"restored": 20, "skipped": 20, "failed": 0, "open": 0}


@pytest.mark.parametrize("options", [(), ("--suffix", "_x4"), ("--suffix", "_x4", "--ext", "webp", "--compare")])
@pytest.mark.parametrize("output", ["in", "in/out", "in/deep", ".", "out"])
def test_any_output_folder_again_and_again(
    tmp_path: Path, weights: Path, output: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "a.jpg", "deep/b_x4b.png"):
        write_image(tmp_path / "in" / name, Picture(np.full((5, 7, 3), 90, np.uint8)))
    inputs, count = contents(tmp_path), 2 if output == "in/deep" else 3
    common = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / output), "--recursive", "--model", str(weights)]
    assert main([*common, *options]) == 0
    expected = contents(tmp_path)
    assert expected.items() > inputs.items() and len(expected) == 3 + count * (2 if "--compare" in options else 1)
    capsys.readouterr()
    assert main([*common, *options]) == 0
    summary = capsys.readouterr().out
    assert f"restored 0 of {count} images" in summary and f"{count} skipped" in summary
    assert ("in the output folder" in summary) == (output in ("in/deep", "in/out"))
    for name in list(expected.keys() - inputs.keys())[::2]:
        (tmp_path / name).unlink()  # as if the first run had been stopped
    assert main([*common, *options]) == 0
    assert main([*common, *options, "--overwrite"]) == 0
    assert contents(tmp_path) == expected


@pytest.mark.parametrize("output", ["in", "out"])
def test_no_output_goes_through_a_broken_link_into_the_inputs(tmp_path: Path, weights: Path, output: str) -> None:
    write_image(tmp_path / "in" / "a.png", Picture(np.full((5, 7, 3), 90, np.uint8)))
    (tmp_path / output).mkdir(exist_ok=True)
    link = tmp_path / output / ("a_restored.png" if output == "in" else "a.png")
    link.symlink_to(tmp_path / "in" / "nothing.png")
    command = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / output), "--model", str(weights)]
    assert main(command) == 0
    expected = contents(tmp_path)
    assert len(expected) == 2 and link.is_symlink() and not link.exists()
    assert main([*command, "--overwrite"]) == 0
    assert contents(tmp_path) == expected


def test_all_names_of_a_format_and_what_is_left_out(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a.JPG", "b.jfif", "c.jpe", "d.jif", "e.pjpeg", "f.mpo", "g.dib", "h.png", "i.apng"]
    for name in names:
        write_image(tmp_path / "in" / name, Picture(np.full((5, 7, 3), 90, np.uint8)))
    for name in ("notes.txt", "more.TXT", "photo.psd", "plain", "._a.jpg", "deep/z.png"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "in" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    report = tmp_path / "report.json"
    arguments = ["-i", str(tmp_path / "in"), "--model", str(weights), "-o"]
    assert main([*arguments, str(tmp_path / "out"), "--json", str(report)]) == 0
    left_out = {".txt": 2, ".psd": 1, "without suffix": 1, "hidden": 1, "folders": 1, "broken links": 1}
    assert json.loads(report.read_text())["left_out"] == left_out
    summary = capsys.readouterr().out.strip()
    assert summary.endswith("; left out: .psd 1, .txt 2, broken links 1, folders 1, hidden 1, without suffix 1")
    assert sorted(contents(tmp_path / "out")) == names
    assert main(["-i", str(tmp_path / "in" / "b.jfif"), "--model", str(weights), "-o", str(tmp_path / "x.jfif")]) == 0
    for path in (tmp_path / "x.jfif", tmp_path / "out" / "c.jpe"):
        assert path.read_bytes()[:2] == b"\xff\xd8"


def test_a_name_of_two_files_of_which_one_is_broken(tmp_path: Path, weights: Path) -> None:
    source = tmp_path / "in"
    write_image(source / "a.png", Picture(np.zeros((8, 9, 3), np.uint8)))
    (source / "A.PNG").write_bytes(b"no image")
    if len(list(source.iterdir())) == 1:
        pytest.skip("a file system without letter case")
    arguments = ["-i", str(source), "-o", str(source), "--model", str(weights), "--overwrite"]
    assert main(arguments) == 1
    before = contents(source)
    assert sorted(before) == ["A.PNG", "a.png", "a_restored_png_restored.png"]
    assert main(arguments) == 1 and contents(source) == before


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode")
def test_a_name_that_is_no_unicode_does_not_end_the_report(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "in").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/in/a\xff.png")).write_bytes(b"no image")
    report = tmp_path / "report.json"
    assert main(["-i", str(tmp_path / "in"), "-o", str(tmp_path), "--model", str(weights), "--json", str(report)]) == 1
    (image,) = json.loads(report.read_bytes())["images"]
    assert "a?.png: no image file" in image["message"]


def test_memory_that_torch_misses_is_no_bug(tmp_path: Path) -> None:
    job = Job(tmp_path / "a.png", tmp_path / "b.png")
    for error in (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), MemoryError()):
        assert failed(job, error).message.startswith(f"{job.source}: out of memory; lower --workers")
    assert "unexpected RuntimeError (odd)" in failed(job, RuntimeError("odd")).message


def test_what_a_run_left_that_was_killed_while_it_wrote_its_report(tmp_path: Path, weights: Path) -> None:
    write_image(tmp_path / "in" / "a.png", Picture(np.zeros((8, 9, 3), np.uint8)))
    arguments = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(weights)]
    assert main(arguments) == 0
    (tmp_path / f".amd-restore-{_host()}-0000.part").touch()
    assert main([*arguments, "--json", str(tmp_path / "report.json")]) == 0  # nothing to do but the report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "report.json"]


def test_what_counts_as_done(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty file that another program left is none, nor is a folder of that name."""
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name, Picture(np.zeros((5, 7, 3), np.uint8)))
    (tmp_path / "out" / "b.png").mkdir(parents=True)
    (tmp_path / "out" / "a.png").touch()
    assert main(["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(weights)]) == 1
    captured = capsys.readouterr()
    assert (tmp_path / "out" / "a.png").stat().st_size > 0
    assert "restored 1 of 2 images" in captured.out and "it is a folder" in captured.err


def test_names_and_reports_that_cannot_be_are_said_before_the_work(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RestorationPipeline, "restore_image", lambda *_, **__: pytest.fail("restored first"))
    long = tmp_path / f"{'n' * 243}.png"
    write_image(long, Picture(np.zeros((5, 7, 3), np.uint8)))
    common = ["-o", str(tmp_path / "out"), "--model", str(weights)]
    for options, length in (["--suffix", "_restored2"], 257), (["--compare", "--suffix", "_2345"], 260):
        assert main(["-i", str(long), *common, *options]) == 1
        message = f"the output would have a name of {length} bytes, at most 255 can be; rename it"
        assert message in capsys.readouterr().err
    assert main(["-i", str(long), *common, "--json", str(long / "report.json")]) == 2
    assert "report.json: not a directory" in capsys.readouterr().err
    for folder in (long.name, f"{long.stem}_sample2.png"):
        (tmp_path / "out" / folder).mkdir(parents=True)
        assert main(["-i", str(long), *common, "--n-samples", "2"]) == 1
        assert f"{folder}: it is a folder" in capsys.readouterr().err
        (tmp_path / "out" / folder).rmdir()


def test_the_place_is_named_as_what_it_is(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "a  b.png", Picture(np.zeros((5, 7, 3), np.uint8)))
    arguments = ["-i", f"file://{tmp_path}/a%20%20b.png", "-o", str(tmp_path / "x.webp"), "--model", str(weights)]
    assert main([*arguments, "--max-pixels", "0.00001"]) == 1
    captured = capsys.readouterr()
    assert "a  b.png: 7x5 pixels are 0.000035 megapixels, the limit is 1e-05 megapixels" in captured.err
    assert f"restored 0 of 1 image into {tmp_path}/x.webp in " in captured.out
    assert main([*arguments, "--ext", "png", "--suffix", "_s"]) == 0
    assert f"restored 1 of 1 image into {tmp_path}/x_s.png in " in capsys.readouterr().out
    assert (tmp_path / "x_s.png").is_file()


@pytest.mark.parametrize("arguments", [["-i", ""], ["-i", "{folder}", "-o", ""]])
def test_an_empty_path_is_not_the_current_folder(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.png", Picture(np.zeros((5, 7, 3), np.uint8)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main([argument.format(folder=tmp_path) for argument in arguments])
    assert "must not be empty" in capsys.readouterr().err


def test_a_file_of_animations_is_no_folder(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", Picture(np.zeros((5, 7, 3), np.uint8)))
    with pytest.raises(AMDRestoreError, match=r"x.gif: .gif files are written with --frames only; add it, or name a"):
        plan_jobs(tmp_path / "a.png", tmp_path / "x.gif")
    assert plan_jobs(tmp_path / "a.png", tmp_path / "x.gif", frames=True)[0].target == tmp_path / "x.gif"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_as_input_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AMDRestoreError, match="pipe: neither a file nor a folder; read a pipe with -i -"):
        plan_jobs(tmp_path / "pipe", tmp_path / "out")


def test_report(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "in" / "good.png", Picture(np.zeros((5, 7, 3), np.uint8)))
    write_image(tmp_path / "in" / "made.png", Picture(np.zeros((5, 7, 3), np.uint8)))
    write_image(tmp_path / "out" / "made.png", Picture(np.zeros((1, 1, 3), np.uint8)))
    (tmp_path / "in" / "bad.png").write_bytes(b"")
    arguments = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(weights), "--seed", "3"]
    assert main([*arguments, "--json", "-"]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("restored 1 of 3 images into ")
    report = json.loads(captured.out)
    assert report["counts"] == {"restored": 1, "skipped": 1, "failed": 1, "open": 0}
    assert report["settings"] == {"model": str(weights), "seed": 3}
    bad, good, made = report["images"]
    assert bad["status"] == "failed" and "0 bytes" in bad["message"]
    assert good["size"] == {"width": 7, "height": 5} and good["restored_size"] == {"width": 28, "height": 20}
    assert good["seconds"] > 0 and made["status"] == "skipped"


class SlowRestorer(Restorer):
    """Stands for a real one: each stage takes a known time and notes when."""

    def __init__(self) -> None:
        self.spans: dict[str, list[tuple[float, float]]] = {"read": [], "restore": [], "write": []}
        self.lock = threading.Lock()
        self.account = Account(100)

    def need(self, job: Job) -> Need:
        return Need(1, 1, 1)

    def written(self, source: Source) -> int:
        return 1

    def stage(self, name: str) -> None:
        start = time.perf_counter()
        time.sleep(0.03)
        with self.lock:
            self.spans[name].append((start, time.perf_counter()))

    def read(self, job: Job) -> Source:
        self.stage("read")
        return Source(job, Picture(np.zeros((2, 2, 3), np.uint8)), 0.0)

    def groups(self, sources: Sequence[Source]) -> list[list[Source]]:
        return [[source] for source in sources]

    def restore(self, group: Sequence[Source], progress: Callable[[int, int], None] | None = None) -> list[Finish]:
        self.stage("restore")

        def write() -> tuple[int, int]:
            self.stage("write")
            return 8, 8

        return [write for _ in group]


def overlap(one: list[tuple[float, float]], other: list[tuple[float, float]]) -> float:
    return sum(max(0.0, min(a1, b1) - max(a0, b0)) for a0, a1 in one for b0, b1 in other)


def test_reading_and_writing_overlap_the_work(tmp_path: Path) -> None:
    restorer = SlowRestorer()
    jobs = [Job(tmp_path / f"{i}.png", tmp_path / "out" / f"{i}.png") for i in range(10)]
    outcomes = list(Engine(restorer).run(jobs))
    assert [outcome.job for outcome in outcomes] == jobs
    assert {outcome.status for outcome in outcomes} == {"restored"}
    working = sum(end - start for start, end in restorer.spans["restore"])
    assert overlap(restorer.spans["read"], restorer.spans["restore"]) > 0.5 * working
    assert overlap(restorer.spans["write"], restorer.spans["restore"]) > 0.5 * working
    # Reading does not run away either: at most the picture at work and a few ahead are in memory.
    started = [sum(read[0] < work[0] for read in restorer.spans["read"]) for work in restorer.spans["restore"]]
    assert all(count <= i + 5 for i, count in enumerate(started))


def test_stopping_in_the_middle_reads_no_further(tmp_path: Path) -> None:
    restorer = SlowRestorer()
    jobs = [Job(tmp_path / f"{i}.png", tmp_path / "out" / f"{i}.png") for i in range(50)]
    running = Engine(restorer).run(jobs)
    next(running)
    running.close()
    assert len(restorer.spans["read"]) < 10
    assert len(restorer.spans["write"]) <= len(restorer.spans["restore"])


def test_a_link_in_a_circle_and_a_locked_folder(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "a.png").touch()
    (tmp_path / "in" / "deep" / "again").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "in" / "folder.png").mkdir()
    jobs = plan_jobs(tmp_path / "in", tmp_path / "out", recursive=True)
    assert [job.source.relative_to(tmp_path / "in") for job in jobs] == [Path("deep/a.png")]


def test_settings_that_contradict_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").touch()
    assert main(["-i", str(tmp_path), "--outscale", "2", "--width", "100"]) == 2
    assert capsys.readouterr().err == "--outscale and --width contradict each other; give one\n"
    with pytest.raises(SystemExit) as stop:
        main(["-i", str(tmp_path), "--resume", "--overwrite"])
    assert stop.value.code == 2
    assert Settings(steps=2).record() == {"steps": 2}
