"""The synthetic real-world test set: the same on every machine, and checked against its table."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from places import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "datasets"))
image_files = importlib.import_module("tools.image_files")
made_sets = importlib.import_module("tools.made_sets")
real_world = importlib.import_module("make_real_world_set")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "val"
    folder.mkdir()
    for seed, name in enumerate("ab"):
        noise = np.random.default_rng(seed).integers(0, 256, (72, 80, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), cv2.GaussianBlur(noise, (0, 0), 2.0))
    return folder


def run(folder: Path, *arguments: str) -> int:
    places = ["--input", str(folder), "--out", str(folder.parent / "out"), "--table", str(folder.parent / "table.tsv")]
    return int(real_world.main([*places, "--size", "64", *arguments]))


def test_the_set_is_made_and_checked(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = photographs.parent / "out"
    assert run(photographs, "--write-table") == 0
    sizes = {"GT": 64, "LQx4": 16, "LQx2": 32, "LQx1": 64}
    for folder, side in sizes.items():
        images = [image_files.read_image(path) for path in sorted((out / folder).iterdir())]
        assert [image.shape for image in images] == [(side, side, 3)] * 2
        assert not np.array_equal(images[0], images[1])
    whole = image_files.read_image(photographs / "a.png")
    assert np.array_equal(image_files.read_image(out / "GT/a.png"), whole[4:68, 8:72])
    assert run(photographs) == 0 and run(photographs, "--check") == 0

    changed = image_files.read_image(out / "LQx4/a.png")
    changed[0, 0, 0] ^= 1
    image_files.write_png(out / "LQx4/a.png", changed)
    image_files.write_png(out / "LQx1/b.png", 255 - image_files.read_image(out / "LQx1/b.png"))
    (out / "GT/b.png").unlink()
    capsys.readouterr()
    assert run(photographs, "--check") == 1
    said = capsys.readouterr()
    assert "LQx4/a.png: differs, rounded otherwise" in said.err and "LQx1/b.png: differs, another" in said.err
    assert "GT/b.png: missing" in said.err and "5 pictures as in table.tsv, 3 not" in said.out
    assert run(photographs, "--check", "--scales", "2") == 1  # the missing ground truth


def test_a_picture_depends_on_its_name_and_the_seed_only(photographs: Path) -> None:
    image = image_files.read_image(photographs / "a.png")
    first = real_world.degrade(image, "a", 4, 0)
    assert np.array_equal(first, real_world.degrade(image, "a", 4, 0))
    assert not np.array_equal(first, real_world.degrade(image, "b", 4, 0))
    assert not np.array_equal(first, real_world.degrade(image, "a", 4, 1))


def test_threads_change_nothing(photographs: Path) -> None:
    image = image_files.read_image(photographs / "a.png")
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(real_world.degrade(np.tile(image, (3, 3, 1)), "a", 2, 0))
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])


def test_errors_are_one_line(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(photographs, "--check") == 2
    assert "no such file" in capsys.readouterr().err
    assert run(photographs, "--size", "96") == 2
    assert "80x72 is smaller than --size 96" in capsys.readouterr().err


def test_the_published_table_is_complete() -> None:
    rows = image_files.read_tsv(real_world.TABLE, made_sets.COLUMNS)
    assert len(rows) == 240 and len({row["pixels_sha256"] for row in rows}) == 240
    listed = image_files.read_tsv(REPOSITORY / "datasets/free_photos.tsv", ("name", "split"))
    names = {row["name"] for row in listed if row["split"] == "val"}
    stems = {Path(row["file"]).stem.split("__")[1] for row in rows}
    assert stems <= {name.replace(" ", "_") for name in names} | names
    for folder, side in {"GT": 512, "LQx4": 128, "LQx2": 256, "LQx1": 512}.items():
        sizes = {(row["width"], row["height"]) for row in rows if row["file"].startswith(f"{folder}/")}
        assert sizes == {(str(side), str(side))}
