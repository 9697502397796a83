"""Packing crops: ready-made ones mixed in, and the small archive for a narrow link."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from places import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "datasets"))
image_files = importlib.import_module("tools.image_files")
pack_crops = importlib.import_module("pack_crops")
transfer = importlib.import_module("pack_for_transfer")


def smooth_noise(seed: int, height: int, width: int, strength: float) -> np.ndarray:
    """Noise of 4x4 blocks around mid-grey: uint8 (height, width, 3)."""
    noise = np.random.default_rng(seed).uniform(-strength, strength, (height // 4, width // 4, 3))
    return np.clip(128 + noise.repeat(4, 0).repeat(4, 1), 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, strength in (("flat", 4.0), ("rough", 60.0), ("roughest", 90.0)):
        image_files.write_png(tmp_path / "photos" / f"{name}.png", smooth_noise(len(name), 128, 192, strength))
    for index in range(2):
        image_files.write_png(tmp_path / "text" / f"{index}.png", np.full((64, 64, 3), 10 * index, np.uint8))
    return tmp_path


def test_ready_made_crops_are_all_kept(folder: Path) -> None:
    (folder / "text" / "._0.png").write_bytes(b"\0\5\26\7")  # of a file system, no image
    out = folder / "crops.npy"
    options = ["--input", str(folder / "photos"), "--size", "64", "--step", "64", "--drop", "0.34", "--out", str(out)]
    assert pack_crops.main([*options, "--whole", str(folder / "text")]) == 0
    array = np.load(out)
    # Three photographs of 3 x 2 crops; those of the flat one are dropped, the ready-made ones, flatter still, are not.
    assert len(array) == 12 + 2
    ready = [index for index, crop in enumerate(array) if crop.std() == 0]
    assert sorted(int(array[index].max()) for index in ready) == [0, 10]
    assert ready != [12, 13], "they are mixed in, not appended"
    assert json.loads(out.with_suffix(".json").read_text())["whole"] == 2
    assert pack_crops.main(options) == 0 and len(np.load(out)) == 12


def test_a_ready_made_crop_of_another_size_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image_files.write_png(folder / "text" / "-wide.png", np.zeros((64, 80, 3), np.uint8))
    for script, extra in ((pack_crops, []), (transfer, ["pack"])):
        out = folder / ("x.npy" if script is pack_crops else "x.zip")
        options = ["--input", str(folder / "photos"), "--whole", str(folder / "text"), "--out", str(out)]
        assert script.main([*extra, *options, "--size", "64", "--step", "64", "--drop", "0"]) == 2
        assert "wide.png: 80x64, not 64x64" in capsys.readouterr().err
        assert not out.exists() and not out.with_name(out.name + ".part").exists()


def test_smaller_photographs_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--input", str(folder / "photos"), "--out", str(folder / "crops.npy")]
    image_files.write_png(folder / "photos" / "small.png", np.zeros((63, 64, 3), np.uint8))
    assert pack_crops.main([*options, "--size", "64"]) == 0
    assert "note: 1 of 4 images are smaller than 64x64 pixels and left out\n" in capsys.readouterr().err
    for script, extra in ((pack_crops, []), (transfer, ["pack"])):
        assert script.main([*extra, *options]) == 2
        assert "error: none of 4 images has 256x256 pixels or more" in capsys.readouterr().err


def test_photographs_take_turns_and_no_crops_overlap() -> None:
    crops = [(0, 0, 0), (0, 0, 32), (0, 0, 64), (1, 0, 0), (1, 64, 0), (2, 0, 0)]
    energies = np.asarray([9.0, 8.0, 7.0, 5.0, 6.0, 0.5])
    order = list(transfer.round_robin(crops, energies, size=64, least=1.0))
    assert order == [(0, 0, 0), (1, 64, 0), (0, 0, 64), (1, 0, 0)]


def test_an_archive_comes_back_and_keeps_to_its_size(folder: Path) -> None:
    sizes = {}
    for name, mebibytes in (("small", "0.02"), ("large", "1"), ("again", "1")):
        path = folder / f"{name}.zip"
        options = ["--input", str(folder / "photos"), "--whole", str(folder / "text"), "--size", "64", "--step", "64"]
        assert transfer.main(["pack", *options, "--drop", "0", "--out", str(path), "--mebibytes", mebibytes]) == 0
        assert path.stat().st_size <= float(mebibytes) * transfer.MEBIBYTE
        assert transfer.main(["unpack", str(path), str(folder / f"{name}.npy")]) == 0
        sizes[name] = len(np.load(folder / f"{name}.npy"))
    assert sizes["small"] < sizes["large"] == sizes["again"] == 18 + 1, "one place in eleven is for ready-made crops"
    assert (folder / "large.zip").read_bytes() == (folder / "again.zip").read_bytes()
    array = np.load(folder / "large.npy")
    assert array.dtype == np.uint8 and array.shape[1:] == (64, 64, 3)
    photos = [image_files.read_image(path)[..., ::-1] for path in sorted((folder / "photos").iterdir())]
    tiles = [p[y : y + 64, x : x + 64] for p in photos for y in (0, 64) for x in (0, 64, 128)]
    first = min(tiles, key=lambda tile: float(np.abs(tile.astype(float) - array[0]).mean()))
    assert np.abs(first.astype(float) - array[0]).mean() < 4, "RGB, nearly lossless"
    assert any(first is tile for tile in tiles[12:]), "the most textured photograph comes first"


def test_bad_archives_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "crops.zip"
    options = ["pack", "--input", str(folder / "photos"), "--size", "64", "--out", str(path)]
    assert transfer.main([*options, "--mebibytes", "0.0001"]) == 2
    assert "not one crop fits" in capsys.readouterr().err and not path.exists()
    assert transfer.main([*options, "--mebibytes", "0.1"]) == 0
    path.write_bytes(path.read_bytes()[:-300])
    assert transfer.main(["unpack", str(path), str(folder / "x.npy")]) == 2
    assert "copy it again" in capsys.readouterr().err and not (folder / "x.npy").exists()
