"""Options that change what comes out: sizes, controls, further outputs, standard input and output."""

from __future__ import annotations

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
from amd_restore.image_io import Picture, decode, encode, read_image, write_image
from amd_restore.pipeline import RestorationPipeline
from amd_restore.postprocess import downscale

PIXELS = np.random.default_rng(0).integers(100, 156, (10, 14, 3), np.uint8)  # far from black and white: no clipping


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    return save_tiny(path, degradation="bicubic")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "a.png", Picture(PIXELS))
    return tmp_path


def restored(weights: Path, *arguments: str, name: str = "a.png") -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    assert main(["-i", "a.png", "-o", "out", "--overwrite", "--model", str(weights), *arguments]) == 0
    return read_image(Path("out") / name).pixels


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        (["-s", "4"], (40, 56)),
        (["--outscale", "2.5"], (25, 35)),
        (["-s", "1.25"], (13, 18)),  # 12.5 and 17.5, halves up
        (["-s", "6"], (60, 84)),
        (["--width", "100"], (71, 100)),
        (["--max-side", "30"], (21, 30)),
        (["--max-side", "3000"], (40, 56)),
        (["-s", "0.01"], (1, 1)),
    ],
)
def test_sizes(folder: Path, weights: Path, arguments: list[str], size: tuple[int, int]) -> None:
    assert restored(weights, *arguments).shape == (*size, 3)


def test_fidelity_turns_the_noise_down(folder: Path, weights: Path) -> None:
    sample = restored(weights)
    assert np.array_equal(restored(weights, "--fidelity", "0"), sample)
    one, other = (restored(weights, "--fidelity", "1", "--seed", seed) for seed in ("0", "5"))
    assert np.array_equal(one, other) and not np.array_equal(one, sample)


def test_consistency_returns_the_input(folder: Path, weights: Path) -> None:
    def misses(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> float:
        small = downscale(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255, 4)
        return float((small - torch.from_numpy(PIXELS).permute(2, 0, 1)[None] / 255).abs().mean()) * 255

    assert misses(restored(weights, "--consistency")) < 0.5 < misses(restored(weights))


def test_consistency_is_refused_where_it_means_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_tiny(tmp_path / "real.safetensors", degradation="second_order")
    assert main(["-i", "a.png", "--model", str(path), "--consistency"]) == 2
    assert "--consistency: tiny was not trained on inputs that were only scaled down" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["wavelet", "adain"])
def test_colour_fix(folder: Path, weights: Path, kind: str) -> None:
    plain, fixed = restored(weights), restored(weights, "--color-fix", kind)
    target = PIXELS.astype(float).mean((0, 1))
    errors = [np.abs(pixels.astype(float).mean((0, 1)) - target).max() for pixels in (plain, fixed)]
    assert errors[1] < 0.3 < errors[0]  # of 255


@pytest.mark.parametrize("shape", [(10, 14, 1), (10, 14, 2), (10, 14, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_whole_picture_controls_keep_the_kind(
    folder: Path, weights: Path, shape: tuple[int, ...], dtype: type[np.uint8]
) -> None:
    pixels = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, shape, dtype)
    write_image(folder / "a.png", Picture(pixels))
    answer = restored(weights, "--color-fix", "adain", "--uncertainty", "-s", "3")
    assert answer.dtype == dtype and answer.shape == (30, 42, shape[2])
    assert read_image(folder / "out" / "a_uncertainty.png").pixels.shape == (30, 42, 3)


def test_samples_have_their_own_seeds(folder: Path, weights: Path) -> None:
    first = restored(weights, "--seed", "3", "--n-samples", "3")
    others = [read_image(folder / "out" / f"a_sample{number}.png").pixels for number in (2, 3)]
    for seed, pixels in zip((3, 4, 5), (first, *others), strict=True):
        assert np.array_equal(restored(weights, "--seed", str(seed)), pixels)


def test_extras_do_not_replace_other_pictures(folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("in/a.png", "in/a_compare.png"):
        write_image(folder / name, Picture(PIXELS))
    assert main(["-i", "in", "--compare", "--model", str(weights)]) == 2
    assert "would replace another picture; choose a --suffix" in capsys.readouterr().err
    assert main(["-i", "in", "--compare", "--suffix", "_x4", "--model", str(weights)]) == 0
    assert sorted(path.name for path in (folder / "results").iterdir()) == [
        "a_compare_x4.png",
        "a_compare_x4_compare.png",
        "a_x4.png",
        "a_x4_compare.png",
    ]


def test_orientations_are_averaged(folder: Path, weights: Path) -> None:
    pipeline = RestorationPipeline.from_pretrained(weights, "cpu", "fp32")
    expected = pipeline.restore_image(PIXELS, tta=True)
    assert np.array_equal(restored(weights, "--tta", "--dtype", "fp32"), expected)
    assert not np.array_equal(restored(weights, "--dtype", "fp32"), expected)


def test_quality(folder: Path, weights: Path) -> None:
    sizes = []
    for quality in ("30", "95"):
        assert main(["-i", "a.png", "-o", f"q{quality}.jpg", "--quality", quality, "--model", str(weights)]) == 0
        sizes.append((folder / f"q{quality}.jpg").stat().st_size)
    assert sizes[0] < sizes[1]


def test_one_image_to_a_named_file(folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-i", "a.png", "-o", "deep/b.webp", "--model", str(weights)]) == 0
    assert "restored 1 of 1 image into deep/b.webp in " in capsys.readouterr().out
    assert read_image(folder / "deep" / "b.webp").pixels.shape == (40, 56, 3)
    # A picture is never written over itself.
    assert main(["-i", "a.png", "-o", "a.png", "--model", str(weights), "--overwrite"]) == 0
    assert np.array_equal(read_image(folder / "a.png").pixels, PIXELS)
    assert read_image(folder / "a_restored.png").pixels.shape == (40, 56, 3)


def test_standard_input_and_output(folder: Path, weights: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "inference.py"), "--model", str(weights), "-i", "-", "-o"]
    whole = encode(Picture(PIXELS), ".png")
    piped = subprocess.run([*command, "-"], input=whole, capture_output=True, check=True)
    assert piped.stderr == b""
    assert np.array_equal(decode(piped.stdout).pixels, restored(weights))
    command[0] = warm_python()
    to_file = subprocess.run([*command, "named.jpg"], input=whole, capture_output=True, check=True)
    assert b"restored standard input into named.jpg" in to_file.stdout
    assert read_image(folder / "named.jpg").pixels.shape == (40, 56, 3)
    for data, line in ((whole[:-40], b"standard input: the image data are truncated"), (b"", b"nothing came in")):
        broken = subprocess.run([*command, "-"], input=data, capture_output=True, check=False)
        assert broken.returncode == 2 and broken.stdout == b""
        assert line in broken.stderr and broken.stderr.count(b"\n") == 1


def test_too_many_pixels(folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-i", "a.png", "--max-pixels", "0.0001", "--model", str(weights)]) == 1
    assert "--max-pixels" in capsys.readouterr().err
    assert not (folder / "results" / "a.png").exists()


def test_other_backends_give_the_same_picture(folder: Path, weights: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    plain = restored(weights, "--dtype", "fp32").astype(int)
    answer = restored(weights, "--dtype", "fp32", "--backend", "onnx").astype(int)
    assert np.abs(answer - plain).max() <= 1


@pytest.mark.parametrize("text", ["x", "0", "-1", "1Q"])
def test_odd_sizes_of_memory(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["-i", "a.png", f"--max-memory={text}"])
    assert stop.value.code == 2
    assert "must be a size such as 800M or 2G" in capsys.readouterr().err


def test_a_large_output_is_streamed_and_the_same(folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = restored(weights)
    monkeypatch.setattr("amd_restore.apps.files.restorer.STREAM_PIXELS", 100)
    monkeypatch.setattr(RestorationPipeline, "restore_image", lambda *_, **__: pytest.fail("not streamed"))
    assert np.array_equal(restored(weights), whole)
