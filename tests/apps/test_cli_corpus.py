"""The command over the whole corpus: each file becomes the right picture or one clear line; nothing is lost."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from corpus import Case, build
from PIL import Image
from tiny_model import save_tiny

from amd_restore.apps.cli import main
from amd_restore.image_io import READABLE_SUFFIXES, read_image

SCALE = 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def listed(case: Case) -> bool:
    """Whether a folder's listing takes the case for an image."""
    return case.path.suffix.lower() in READABLE_SUFFIXES and case.path.is_file()


def test_whole_corpus(tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cases = build(tmp_path / "in")
    before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir() if path.is_file()}
    arguments = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(weights)]
    assert main([*arguments, "--json", str(tmp_path / "report.json")]) == 1
    captured = capfd.readouterr()
    report = {image["source"]: image for image in json.loads((tmp_path / "report.json").read_text())["images"]}
    wanted = [case for case in cases if listed(case)]
    assert len(wanted) >= 60
    assert {str(case.path) for case in wanted} == set(report)
    failures = 0
    for case in wanted:
        image = report[str(case.path)]
        if case.error is None:
            assert image["status"] == "restored", image
            assert case.pixels is not None
            height, width = case.pixels.shape[:2]
            restored = read_image(image["target"])
            assert restored.pixels.shape[:2] == (SCALE * height, SCALE * width)
            kept = {restored.pixels.shape[2]}
            if Path(image["target"]).suffix != case.path.suffix or case.path.suffix.lower() in (".webp", ".avif"):
                kept |= {1, 2, 3, 4}  # formats without gray
            assert case.pixels.shape[2] in kept, case.name
            assert (restored.icc is not None) == case.icc or case.path.suffix.lower() in (".webp", ".gif", ".avif")
            # The tiny network only adds some detail: the picture is still the one that was read.
            means = [np.mean(pixels, dtype=np.float64) / scale_of(pixels) for pixels in (restored.pixels, case.pixels)]
            assert abs(means[0] - means[1]) < 0.1 + case.tolerance, case.name
        else:
            failures += 1
            assert image["status"] == "failed", image
            assert re.search(case.error, image["message"]), image
            assert "unexpected" not in image["message"]
            assert "\n" not in image["message"] and not Path(image["target"]).exists()
    assert len(captured.err.splitlines()) == failures
    assert f"restored {len(wanted) - failures} of {len(wanted)} images" in captured.out
    after = {path: path.read_bytes() for path in (tmp_path / "in").iterdir() if path.is_file()}
    assert after == before
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".")]


def scale_of(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> float:
    return 1.0 if pixels.dtype.kind == "f" else float(np.iinfo(pixels.dtype).max)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animation_frame_by_frame(tmp_path: Path, weights: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (9, 7), (60 * i, 255 - 60 * i, 30)) for i in range(3)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], duration=[100, 200, 300], loop=0)
    arguments = ["-i", str(tmp_path / f"a{suffix}"), "-o", str(tmp_path / "out"), "--model", str(weights)]
    assert main(arguments) == 1  # refused, and said how to
    assert not (tmp_path / "out" / f"a{suffix}").exists()
    assert main([*arguments, "--frames"]) == 0
    with Image.open(tmp_path / "out" / f"a{suffix}") as image:
        assert (image.size, getattr(image, "n_frames", 1)) == ((36, 28), 3)
        durations = []
        for i in range(3):
            image.seek(i)
            image.load()
            durations.append(image.info["duration"])
    assert durations == [100, 200, 300]
