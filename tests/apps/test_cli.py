"""The command line as a user meets it: exit codes, one line per failure, nothing lost and nothing half-written."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from places import REPOSITORY
from tiny_model import save_tiny
from warm_python import warm_python

from amd_restore.apps.cli import main
from amd_restore.apps.files.plan import plan_jobs
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import Frame, Picture, encode, read_image, write_frames, write_image
from amd_restore.pipeline import RestorationPipeline

CAN_WRITE_ANYWHERE = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory with two small pictures in ``in``."""
    monkeypatch.chdir(tmp_path)
    for name in ("one.png", "zwei ☃.jpg"):
        write_image(tmp_path / "in" / name, Picture(pixels(12, 10)))
    return tmp_path


def pixels(height: int, width: int, channels: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def command(*arguments: str | Path, cwd: Path, python: str = "") -> subprocess.CompletedProcess[str]:
    """Run inference.py as a user does, from any folder and without PYTHONPATH."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [python or warm_python(), str(REPOSITORY / "inference.py"), *map(str, arguments)],
        cwd=cwd, env=environment | {"PYTHONUTF8": "1"}, capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_folder(folder: Path, weights: Path) -> None:
    result = command("-i", "in", "--model", weights, "--device", "cpu", cwd=folder, python=sys.executable)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("restored 2 of 2 images into results/ in ")
    assert files(folder / "results") == ["one.png", "zwei ☃.jpg"]
    # The file holds what the Python door gives.
    expected = RestorationPipeline.from_pretrained(weights, "cpu").restore_image(pixels(12, 10))
    assert np.array_equal(read_image(folder / "results" / "one.png").pixels, expected)


def test_options_reach_the_pipeline(folder: Path, weights: Path) -> None:
    arguments = ["-i", "in/one.png", "-o", "out", "--model", str(weights), "--steps", "2", "--seed", "9"]
    arguments += [
        "--dtype",
        "fp32",
        "--tile",
        "5",
        "--halo",
        "8",
        "--suffix",
        "_x4",
        "--ext",
        "webp",
        "--device",
        "cpu",
    ]
    assert main(arguments) == 0
    assert files(folder / "out") == ["one_x4.webp"]
    assert main([*arguments[:-4], "--ext", "png", "--threads", str(torch.get_num_threads())]) == 0
    expected = RestorationPipeline.from_pretrained(weights, "cpu", torch.float32).restore_image(
        pixels(12, 10), num_steps=2, seed=9, tile=5, halo=8
    )
    assert np.array_equal(read_image(folder / "out" / "one_x4.png").pixels, expected)


def test_same_seed_same_bytes(folder: Path, weights: Path) -> None:
    for output in ("a", "b"):
        assert main(["-i", "in", "-o", output, "--model", str(weights)]) == 0
    assert main(["-i", "in", "-o", "c", "--model", str(weights), "--seed", "1"]) == 0
    first, second, third = ((folder / name / "one.png").read_bytes() for name in "abc")
    assert first == second != third


def test_bad_images_do_not_stop_the_others(folder: Path, weights: Path) -> None:
    (folder / "in" / "empty.png").write_bytes(b"")
    (folder / "in" / "text.png").write_text("no pixels")
    whole = encode(Picture(pixels(60, 60)), ".jpg")
    (folder / "in" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    write_image(folder / "in" / "dot.bmp", Picture(pixels(1, 1)))
    result = command("-i", "in", "-o", "out", "--model", weights, cwd=folder, python=sys.executable)
    assert result.returncode == 1
    assert "restored 3 of 6 images into out/ in " in result.stdout and ", 3 failed\n" in result.stdout
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    for line, name, word in zip(
        lines, ("cut.jpg", "empty.png", "text.png"), ("truncated", "0 bytes", "no image"), strict=True
    ):
        assert line.startswith(f"{Path('in') / name}: ") and word in line
    assert files(folder / "out") == ["dot.bmp", "one.png", "zwei ☃.jpg"]
    assert read_image(folder / "out" / "dot.bmp").pixels.shape == (4, 4, 3)


@pytest.mark.parametrize("name", ["empty.png", "text.png", "cut.jpg"])
def test_single_bad_image(folder: Path, weights: Path, name: str) -> None:
    whole = encode(Picture(pixels(60, 60)), ".jpg")
    content = {"empty.png": b"", "text.png": b"no pixels", "cut.jpg": whole[: len(whole) // 2]}[name]
    (folder / name).write_bytes(content)
    result = command("-i", name, "--model", weights, cwd=folder)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith(f"{name}: ")
    assert files(folder) == sorted([name, "in/one.png", "in/zwei ☃.jpg"])


SETUP_ERRORS = {
    "missing path": (["-i", "nowhere"], "nowhere: no such file or folder"),
    "empty folder": (["-i", "void"], "void: no image in this folder"),
    "steps 0": (["-i", "in", "--steps", "0"], "--steps: must be a whole number from 1 to 1000, not '0'"),
    "no input": ([], "required: -i/--input"),
    "no file of weights": (
        ["-i", "in", "--model", "halve.safetensors"],
        "no such weights file; did you mean 'half.safe",
    ),
    "unknown model": (
        ["-i", "in", "--model", "x4-reel"],
        "x4-reel: no released model has this name; did you mean 'x4-re",
    ),
    "no -i": (["in"], "amd-restore: inputs are named with -i: -i in;"),
    "no -i, no file": (["restore", "photo.jpg"], "inputs are named with -i: -i photo.jpg;"),
    "training": (["train"], "amd-restore: no command 'train'; it is python amd_restore/train.py -opt FILE;"),
    "no command": (["exprt"], "amd-restore: no command 'exprt'; did you mean 'export'?;"),
    "half weights": (["-i", "in", "--model", "half.safetensors"], "half.safetensors: not a complete safetensors file"),
    "pickle": (["-i", "in", "--model", "net.pth"], "net.pth: not a complete safetensors file"),
    "no device": (["-i", "in", "--device", "cuda:77"], "device 'cuda:77' is not available"),
    "output is a file": (["-i", "in", "-o", "note.txt"], "note.txt: cannot make this folder: file exists;"),
    "output under a file": (["-i", "in", "-o", "note.txt/out"], "note.txt/out: cannot make this folder: not"),
}


@pytest.mark.parametrize("case", SETUP_ERRORS)
def test_setup_errors(folder: Path, weights: Path, case: str) -> None:
    arguments, message = SETUP_ERRORS[case]
    (folder / "void").mkdir()
    (folder / "note.txt").write_text("keep me")
    (folder / "half.safetensors").write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    torch.save({"a": torch.zeros(1)}, folder / "net.pth")
    before = files(folder)
    if "--model" not in arguments:
        arguments = [*arguments, "--model", str(weights)]
    result = command(*arguments, cwd=folder)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr
    assert files(folder) == before and not (folder / "results").exists()


@pytest.mark.skipif(CAN_WRITE_ANYWHERE, reason="root may write everywhere")
def test_output_without_permission(folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "locked").mkdir(mode=0o500)
    assert main(["-i", "in", "-o", "locked", "--model", str(weights)]) == 2
    assert capsys.readouterr().err == ("locked: cannot write there (permission denied); name another folder with -o\n")


def test_disk_full_leaves_no_half_files(
    folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = os.fsync
    calls: list[int] = []

    def full_after_the_probe(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("os.fsync", full_after_the_probe)
    assert main(["-i", "in", "-o", "out", "--model", str(weights)]) == 1
    assert files(folder / "out") == []
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("no space left on device" in line for line in lines)


def test_traceback_only_with_debug(folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-i", "in", "--model", str(folder / "in" / "one.png")]
    assert main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main([*arguments, "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_reported_and_costs_one_image(
    folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = RestorationPipeline.restore_image
    calls: list[int] = []

    def sometimes(self: RestorationPipeline, *arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError("oops")
        return real(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(RestorationPipeline, "restore_image", sometimes)
    assert main(["-i", "in", "-o", "out", "--model", str(weights)]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        f"{Path('in') / 'one.png'}: unexpected ZeroDivisionError (oops); run with --debug and report it"
    ]
    assert "restored 1 of 2 images" in captured.out


def test_interruption(
    folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RestorationPipeline, "restore_image", interrupt)
    assert main(["-i", "in", "-o", "out", "--model", str(weights)]) == 130
    assert files(folder / "out") == []
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_existing_outputs_are_skipped_unless_told(
    folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "results").mkdir()
    (folder / "results" / "one.png").write_text("precious")
    arguments = ["-i", "in", "--model", str(weights)]
    assert main(arguments) == 0
    assert "restored 1 of 2 images into results/" in (out := capsys.readouterr().out)
    assert "1 skipped (already there; --overwrite replaces them)" in out
    assert (folder / "results" / "one.png").read_text() == "precious"
    assert main([*arguments, "--overwrite"]) == 0
    assert read_image(folder / "results" / "one.png").pixels.shape == (48, 40, 3)
    assert main(arguments) == 0
    assert "restored 0 of 2 images" in capsys.readouterr().out.splitlines()[-1]


def test_output_into_the_input_folder_keeps_the_inputs(folder: Path, weights: Path) -> None:
    before = {path.name: path.read_bytes() for path in (folder / "in").iterdir()}
    assert main(["-i", "in", "-o", "in", "--model", str(weights), "--overwrite"]) == 0
    assert files(folder / "in") == ["one.png", "one_restored.png", "zwei ☃.jpg", "zwei ☃_restored.jpg"]
    assert all((folder / "in" / name).read_bytes() == content for name, content in before.items())


@pytest.mark.parametrize("options", [["--compare"], ["--uncertainty"], ["--n-samples", "2"], ["--json", "own.png"]])
def test_no_further_output_replaces_the_input(
    folder: Path, weights: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = {"--compare": "a_compare", "--uncertainty": "a_uncertainty", "--json": "own"}.get(options[0], "a_sample2")
    write_image(folder / f"{name}.png", Picture(pixels(5, 6)))
    before = (folder / f"{name}.png").read_bytes()
    assert main(["-i", f"{name}.png", "-o", "a.png", *options, "--model", str(weights)]) == 2
    assert (folder / f"{name}.png").read_bytes() == before
    assert "would replace another picture" in (line := capsys.readouterr().err) or "the name of a picture" in line


def test_names_do_not_collide(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "A.webp", "b.png", "note.txt", ".hidden.png", "deep/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    out = tmp_path / "out"

    def targets(**options: str | bool) -> list[str]:
        jobs = plan_jobs(tmp_path, out, **options)  # type: ignore[arg-type]
        return [job.target.relative_to(out).as_posix() for job in jobs]

    assert targets() == ["A.webp", "a.jpg", "a.png", "b.png"]
    assert targets(ext="png") == ["A_webp.png", "a_jpg.png", "a_png.png", "b.png"]
    assert targets(suffix="_x4", recursive=True) == ["A_x4.webp", "a_x4.jpg", "a_x4.png", "b_x4.png", "deep/a_x4.png"]


def test_results_inside_the_input_are_not_restored_again(tmp_path: Path) -> None:
    for name in ("a.png", "results/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    jobs = plan_jobs(tmp_path, tmp_path / "results", recursive=True)
    assert [job.source.name for job in jobs] == ["a.png"]
    # Asked for by name, they are inputs.
    assert len(plan_jobs(tmp_path / "results", tmp_path / "results")) == 1


def test_output_above_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("photos/in/a.png", "photos/in/deep/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path / "photos")
    assert [(job.source, job.target) for job in plan_jobs(Path("in"), Path("."))] == [(Path("in/a.png"), Path("a.png"))]
    jobs = plan_jobs(tmp_path / "photos" / "in", tmp_path, recursive=True)
    assert [job.target.relative_to(tmp_path).as_posix() for job in jobs] == ["a.png", "deep/a.png"]


def test_folder_without_images_points_deeper(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.png").touch()
    with pytest.raises(AMDRestoreError, match="no image in this folder; left out: folders 1; .* --recursive"):
        plan_jobs(tmp_path, tmp_path / "out")
    assert len(plan_jobs(tmp_path, tmp_path / "out", recursive=True)) == 1


def test_any_suffix_of_a_single_file(folder: Path, weights: Path) -> None:
    (folder / "picture.dat").write_bytes(encode(Picture(pixels(5, 6)), ".png"))
    assert main(["-i", "picture.dat", "--model", str(weights)]) == 0
    assert files(folder / "results") == ["picture.png"]


def test_what_a_format_cannot_hold_is_said_before_the_work(
    folder: Path, weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RestorationPipeline, "restore_image", lambda *_, **__: pytest.fail("restored first"))
    frames = [Frame(Picture(np.full((2, 4200, 3), value, np.uint8)), 10) for value in (0, 99)]
    write_frames(folder / "moving.webp", frames)
    write_image(folder / "wide.webp", Picture(pixels(2, 4200)))
    write_image(folder / "hdr.png", Picture(pixels(5, 6), signal=(9, 16)))
    hdr = "its colours are PQ (HDR), which this format cannot say; write png, avif or heic"
    wide = "WEBP cannot hold 16800x8 pixels, at most 16383 a side; write png or tiff"
    for arguments, message in (
        (("wide.webp",), wide),
        (("moving.webp", "--frames"), wide),
        (
            ("moving.webp", "--frames", "--ext", "jpg"),
            "cannot write '.jpg' animations; use one of .png, .apng, .webp, .gif",
        ),
        (("hdr.png", "--ext", "jpg"), hdr),
    ):
        assert main(["-i", *arguments, "--model", str(weights)]) == 1
        assert capsys.readouterr().err == f"{arguments[0]}: {message}\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((folder / "hdr.png").read_bytes())))
    assert main(["-i", "-", "-o", "x.jpg", "--model", str(weights)]) == 2
    assert "its colours are PQ (HDR)" in capsys.readouterr().err


def test_alpha_that_hides_nothing_is_no_obstacle(folder: Path, weights: Path) -> None:
    opaque = np.dstack([pixels(5, 6), np.full((5, 6, 1), 255, np.uint8)])
    write_image(folder / "a.png", Picture(opaque))
    assert main(["-i", "a.png", "--ext", "jpg", "--model", str(weights)]) == 0
    assert read_image(folder / "results" / "a.jpg").pixels.shape == (20, 24, 3)


def test_options_hold_for_standard_input_too(
    folder: Path, weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(Picture(pixels(5, 6)), ".png")
    for options, name in ((["--ext", "jpg"], "x.jpg"), (["--suffix", "_x4"], "x_x4.jfif"), ([], "x.jfif")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert main(["-i", "-", "-o", "x.jfif", *options, "--model", str(weights)]) == 0
        assert (folder / name).read_bytes()[:2] == b"\xff\xd8"
    for option in (["--n-samples", "2"], ["--frames"], ["--compare"]):
        assert main(["-i", "-", "-o", "x.png", *option, "--model", str(weights)]) == 2
        assert capsys.readouterr().err == f"{option[0]} needs files; it cannot be used with -\n"


def test_alpha_into_jpeg_is_refused_with_advice(
    folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(folder / "a.png", Picture(pixels(5, 6, 4)))
    assert main(["-i", "a.png", "--ext", "jpg", "--model", str(weights)]) == 1
    assert capsys.readouterr().err == "a.png: JPEG has no transparency; write png, webp or tiff\n"


def test_untrained_step_counts_are_noted(folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-i", "in", "--model", str(weights), "--steps", "3"]) == 0
    assert "made for 1, 2, 4 steps, not 3" in capsys.readouterr().err


def test_help_and_version_need_no_torch() -> None:
    program = """
import sys
from amd_restore.apps.cli import main
try:
    main(["--help"])
finally:
    assert "torch" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for option in ("--input", "--steps", "--seed", "--tile", "--recursive", "--overwrite", "--debug"):
        assert option in result.stdout
