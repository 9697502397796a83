"""Rendered text: what is written, how it is blended, and that the same seed gives the same crops."""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFont
from places import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "datasets"))
image_files = importlib.import_module("tools.image_files")
text_crops = importlib.import_module("make_text_crops")
text_samples = importlib.import_module("tools.text_samples")


@pytest.fixture
def font(tmp_path: Path) -> Path:
    """The one font that comes with Pillow, as a file."""
    loaded = ImageFont.load_default(20)
    assert isinstance(loaded, ImageFont.FreeTypeFont) and isinstance(loaded.path, io.BytesIO)
    path = tmp_path / "font.ttf"
    path.write_bytes(loaded.path.getvalue())
    return path


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    noise = np.random.default_rng(0).integers(60, 120, (150, 170, 3), dtype=np.uint8)
    image_files.write_png(tmp_path / "photos" / "a.png", noise)
    return [tmp_path / "photos" / "a.png"]


@pytest.mark.parametrize("script", text_samples.SCRIPTS)
def test_lines_are_long_enough_and_of_their_script(script: str) -> None:
    rng = np.random.default_rng(1)
    lines = [text_samples.random_line(rng, script, 12) for _ in range(60)]
    assert all(len(line) >= (6 if script in text_samples.UNSPACED else 11) for line in lines)
    assert len(set(lines)) > 50
    text = "".join(lines)
    own = set(text_samples.WORDS.get(script, "0123456789"))
    assert len(own & set(text)) > min(len(own), 40) // 2
    if script in text_samples.BARE:
        # The fonts of these scripts lack everything else, and a missing letter is drawn as a box.
        assert set(text) <= own | {" "}


def test_shares_of_scripts() -> None:
    shares = text_samples.script_shares()
    assert len(shares) == len(text_samples.SCRIPTS) == len(text_crops.FONT_FILES)
    assert shares.sum() == pytest.approx(1.0) and shares.min() > 0.02


def test_half_covered_pixels_are_mixed_as_light() -> None:
    ground, white = np.zeros((1, 1, 3), np.float32), np.full(3, 255, np.float32)
    half = np.full((1, 1, 1), 0.5, np.float32)
    assert text_crops.blend(ground, white, half, linear=False)[0, 0, 0] == pytest.approx(127.5)
    assert text_crops.blend(ground, white, half, linear=True)[0, 0, 0] == pytest.approx(
        255 * 0.5 ** (1 / 2.2), rel=1e-4
    )
    assert np.array_equal(text_crops.blend(ground + 40, white, half * 0, linear=True).round(), ground + 40)


def test_ink_can_be_read_on_its_ground() -> None:
    rng = np.random.default_rng(2)
    for ground in (None, np.full(3, 128.0), np.zeros(3)):
        for _ in range(50):
            ink, below = text_crops.colour_pair(rng, ground)
            assert abs(text_crops.luma(ink) - text_crops.luma(below)) >= text_crops.MIN_CONTRAST


@pytest.mark.parametrize("look", text_crops.LOOKS)
def test_each_look_writes_something(look: str, font: Path, photos: list[Path]) -> None:
    ground = text_crops.random_crop(np.random.default_rng(3), photos[0], 96)
    changed = []
    for seed in range(8):
        picture, lettering = text_crops.render(np.random.default_rng(seed), look, "latin", [font], ground, 96)
        assert picture.shape == (96, 96, 3) and picture.dtype == np.uint8
        assert lettering.scale == (1 if look == "screen" else text_crops.SUPERSAMPLE)
        reference = ground if look in ("sign", "caption") else np.median(picture, axis=(0, 1))
        changed.append(float((np.abs(picture.astype(float) - reference).max(axis=2) > 30).mean()))
        if look == "caption":
            untouched = (picture == ground).all(axis=2)
            assert untouched.mean() > 0.3, "the photograph around the letters stays as it is"
    assert np.median(changed) > 0.02


def test_same_seed_same_crops_and_a_larger_set_begins_with_the_smaller(
    tmp_path: Path, font: Path, photos: list[Path]
) -> None:
    fonts = {script: [font] for script in text_samples.SCRIPTS}
    for name, count, seed in (("a", 3, 0), ("b", 5, 0), ("c", 3, 1)):
        text_crops.make(photos, fonts, tmp_path / name, count, 64, seed)
    tables = {name: image_files.read_tsv(tmp_path / name / "text_crops.tsv", text_crops.COLUMNS) for name in "abc"}
    assert [len(tables[name]) for name in "abc"] == [3, 5, 3]
    assert tables["a"] == tables["b"][:3] != tables["c"]
    for row in tables["b"]:
        assert image_files.file_sha256(tmp_path / "b" / row["file"]) == row["sha256"]
        assert (row["ground"] == "a.png") == (row["look"] in ("sign", "caption"))


def test_fonts_of_every_script_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], photos: list[Path]
) -> None:
    fetched: list[str] = []

    def fetch(package: str, cache: Path) -> Path:
        fetched.append(package)
        return cache / package

    monkeypatch.setattr(text_crops, "fetch", fetch)
    monkeypatch.setattr(text_crops, "unpack", lambda deb, cache: cache)
    names = ["DejaVuSans.ttf", "DejaVuSansCondensed.ttf", "wqy-microhei.ttc"]
    names += [f"NotoSans{script}-Bold.ttf" for script in ("Hebrew", "Armenian", "Georgian", "Thai")]
    for name in names:
        (tmp_path / name).touch()
    found = text_crops.find_fonts(tmp_path)
    assert fetched == list(text_crops.FONT_PACKAGES)
    assert set(found) == set(text_samples.SCRIPTS)
    assert [path.name for path in found["greek"]] == ["DejaVuSans.ttf"], "condensed cuts are left out"
    (tmp_path / "wqy-microhei.ttc").unlink()
    arguments = ["--photos", str(photos[0].parent), "--cache", str(tmp_path), "--out", str(tmp_path / "out")]
    assert text_crops.main(arguments) == 2
    assert "no font of wqy-microhei.ttc for chinese" in capsys.readouterr().err
