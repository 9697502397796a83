"""The test sets by severity: the same on every machine, worse from one to the next, and checked against their table."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from places import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "datasets"))
image_files = importlib.import_module("tools.image_files")
made_sets = importlib.import_module("tools.made_sets")
severity = importlib.import_module("make_severity_sets")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for seed, name in enumerate("ab"):
        noise = np.random.default_rng(seed).integers(0, 256, (72, 80, 3), dtype=np.uint8)
        soft = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 2.0)
        image_files.write_png(folder / f"{name}.png", (127.5 + 5 * (soft - soft.mean())).clip(0, 255).astype(np.uint8))
    return folder


def run(folder: Path, *arguments: str) -> int:
    places = ["--input", str(folder), "--out", str(folder.parent / "out"), "--table", str(folder.parent / "table.tsv")]
    return int(severity.main([*places, "--size", "64", *arguments]))


def test_the_sets_are_made_and_checked(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = photographs.parent / "out"
    assert run(photographs, "--check") == 2
    assert "no such file" in capsys.readouterr().err
    assert run(photographs, "--write-table") == 0
    for folder in ("GT", *severity.SEVERITIES):
        side = 64 if folder == "GT" else 16
        images = [image_files.read_image(path) for path in sorted((out / folder).iterdir())]
        assert [image.shape for image in images] == [(side, side, 3)] * 2
        assert not np.array_equal(images[0], images[1])
    assert run(photographs) == 0 and run(photographs, "--check") == 0
    image_files.write_png(out / "web/b.png", 255 - image_files.read_image(out / "web/b.png"))
    (out / "heavy/a.png").unlink()
    capsys.readouterr()
    assert run(photographs, "--check") == 1
    said = capsys.readouterr()
    assert "web/b.png: differs, another" in said.err and "heavy/a.png: missing" in said.err
    assert "8 pictures as in table.tsv, 2 not" in said.out
    assert run(photographs, "--size", "96") == 2
    assert "80x72 is smaller than --size 96" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["web", "phone", "heavy"])
def test_a_picture_depends_on_its_name_the_severity_and_the_seed_only(photographs: Path, kind: str) -> None:
    image = image_files.read_image(photographs / "a.png")
    first = severity.degrade(image, "a", kind, 0)
    assert np.array_equal(first, severity.degrade(image, "a", kind, 0))
    assert not np.array_equal(first, severity.degrade(image, "a", kind, 1))
    others = [severity.degrade(image, name, kind, 0) for name in "bcdefg"]
    assert any(not np.array_equal(first, other) for other in others)


def test_each_severity_is_further_from_the_photograph(photographs: Path) -> None:
    """Mean over several seeds; the areas of 4x4 pixels are what a perfect camera would have recorded."""
    image = image_files.read_image(photographs / "a.png")[:64, :64]
    areas = image.reshape(16, 4, 16, 4, 3).mean((1, 3))
    errors = {
        kind: np.mean([np.square(severity.degrade(image, "a", kind, seed) - areas).mean() for seed in range(8)])
        for kind in severity.SEVERITIES
    }
    assert 0 < errors["clean"] < errors["web"] < errors["phone"] < errors["heavy"]


def test_noise_is_what_the_severity_says() -> None:
    """On flat grey, where a blur does nothing; JPEG and the second resize take some of the noise."""
    flat = np.full((128, 128, 3), 128, np.uint8)
    left = {
        kind: np.mean([severity.degrade(flat, "a", kind, seed).std() for seed in range(16)])
        for kind in severity.SEVERITIES
    }
    assert left["clean"] == 0 and left["web"] < 0.5
    assert 1 < left["phone"] < 8 and left["phone"] < left["heavy"] < 25


def test_threads_change_nothing(photographs: Path) -> None:
    image = np.tile(image_files.read_image(photographs / "a.png"), (3, 3, 1))
    threads, results = cv2.getNumThreads(), []
    try:
        for number in (1, 3):
            cv2.setNumThreads(number)
            results.append(severity.degrade(image, "a", "heavy", 0))
    finally:
        cv2.setNumThreads(threads)
    assert np.array_equal(*results)


@pytest.mark.parametrize(("scale", "table"), [(4, "severity_sets"), (2, "severity_sets_x2"), (1, "severity_sets_x1")])
def test_the_published_tables_are_complete(scale: int, table: str) -> None:
    rows = image_files.read_tsv(severity.TABLE.with_name(f"{table}.tsv"), made_sets.COLUMNS)
    # At scale 1 the clean side is the photograph.
    assert len({row["pixels_sha256"] for row in rows}) == 24 * (5 if scale > 1 else 4) and len(rows) == 24 * 5
    stems = [f"{number:02}" for number in range(1, 25)]
    for folder in ("GT", *severity.SEVERITIES):
        side = "384" if folder == "GT" else str(384 // scale)
        there = [row for row in rows if row["file"].startswith(f"{folder}/")]
        assert [Path(row["file"]).stem for row in there] == stems
        assert {(row["width"], row["height"]) for row in there} == {(side, side)}


def test_the_table_of_unseen_photographs_is_complete() -> None:
    rows = image_files.read_tsv(severity.TABLE.with_name("severity_sets_unseen.tsv"), made_sets.COLUMNS)
    by_folder = {
        folder: sorted(row["file"].split("/")[1] for row in rows if row["file"].startswith(f"{folder}/"))
        for folder in ("GT", *severity.SEVERITIES)
    }
    assert all(names == by_folder["GT"] for names in by_folder.values()) and len(set(by_folder["GT"])) == 107
    assert len({row["pixels_sha256"] for row in rows}) == len(rows) == 5 * 107
    sides = {(row["file"].startswith("GT/"), row["width"], row["height"]) for row in rows}
    assert sides == {(True, "256", "256"), (False, "64", "64")}


@pytest.mark.parametrize("scale", [2, 1])
def test_other_scales_have_folders_of_their_own(photographs: Path, scale: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photographs.parent)
    monkeypatch.setattr(severity, "TABLE", photographs.parent / "sets.tsv")
    assert severity.main(["--input", "photographs", "--size", "64", "--scale", str(scale), "--write-table"]) == 0
    assert (photographs.parent / f"sets_x{scale}.tsv").is_file() and not (photographs.parent / "sets.tsv").exists()
    gt, *sides = (
        image_files.read_image(photographs.parent / f"datasets/data/severity_x{scale}/{folder}/a.png").astype(float)
        for folder in ("GT", *severity.SEVERITIES)
    )
    assert {side.shape for side in sides} == {(64 // scale, 64 // scale, 3)}
    areas = gt.reshape(64 // scale, scale, 64 // scale, scale, 3).mean((1, 3))
    clean, web, phone, heavy = (np.square(side - areas).mean() for side in sides)
    assert clean < web < phone < heavy and (clean == 0) == (scale == 1)
