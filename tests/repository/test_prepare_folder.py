"""Any folder of images into crops, low-resolution pairs and LMDB."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from places import REPOSITORY
from warm_python import warm_python

from amd_restore import compat

sys.path.insert(0, str(REPOSITORY / "datasets"))
image_files = importlib.import_module("tools.image_files")
prepare_folder = importlib.import_module("prepare_folder")
compat.patch()


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (H, W, 3) of smoothed noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.0)


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "in" / "a.b 1.png", textured(101, 130, 1))
    save(tmp_path / "in" / "sub" / "c.bmp", textured(64, 64, 2))
    return tmp_path / "in"


def run(folder: Path, *arguments: str) -> int:
    out = str(folder.parent / "out")
    return int(prepare_folder.main(["--input", str(folder), "--out", out, "--workers", "2", *arguments]))


def manifest(folder: Path) -> dict[str, dict[str, str]]:
    return {row["file"]: row for row in image_files.read_tsv(folder.parent / "out" / "manifest.tsv")}


CROPS = ("--crop-size", "64", "--step", "32")


def test_crops_are_placed_as_basicsr_places_them(folder: Path) -> None:
    assert run(folder, *CROPS, "--author", "Me", "--licence", "CC0-1.0") == 0
    rows = manifest(folder)
    image = image_files.read_image(folder / "a.b 1.png")
    # Rows 0, 32 and 37 (flush), columns 0, 32, 64 and 66; numbered from 1, row by row.
    places = [(top, left) for top in (0, 32, 37) for left in (0, 32, 64, 66)]
    for number, (top, left) in enumerate(places, start=1):
        name = f"train/a_b_1_s{number:03d}.png"
        crop = image_files.read_image(folder.parent / "out" / name)
        assert np.array_equal(crop, image[top : top + 64, left : left + 64])
        row = rows.pop(name)
        assert (row["top"], row["left"], row["width"], row["height"]) == (str(top), str(left), "64", "64")
        assert (row["author"], row["licence"], row["split"]) == ("Me", "CC0-1.0", "train")
        assert row["source"] == "in/a.b 1.png"
        assert row["source_sha256"] == hashlib.sha256((folder / "a.b 1.png").read_bytes()).hexdigest()
        assert row["sha256"] == hashlib.sha256((folder.parent / "out" / name).read_bytes()).hexdigest()
    assert list(rows) == ["train/sub_c_s001.png"]
    assert run(folder, *CROPS, "--thresh", "5") == 0
    assert sum("a_b_1" in file for file in manifest(folder)) == 2 * 3, "a rest of 5 pixels is not worth a crop"


def test_low_resolution_side_is_basicsr_imresize(folder: Path) -> None:
    from basicsr.utils.matlab_functions import imresize

    assert run(folder, "--scale", "4", "--crop-size", "0", "--split", "val") == 0
    whole = image_files.read_image(folder / "a.b 1.png")[:100, :128]
    expected = np.clip(np.round(imresize(whole.astype(np.float32) / 255.0, 0.25) * 255.0), 0, 255)
    out = folder.parent / "out"
    assert np.array_equal(image_files.read_image(out / "val" / "a_b_1.png"), whole)
    assert np.array_equal(image_files.read_image(out / "val_LRx4" / "a_b_1.png"), expected)
    assert run(folder, "--scale", "4", *CROPS) == 0
    for row in manifest(folder).values():
        if row["split"] == "train" and "a_b" in row["file"]:
            y, x = int(row["top"]) // 4, int(row["left"]) // 4
            low = image_files.read_image(out / row["lr_file"])
            assert np.array_equal(low, expected[y : y + 16, x : x + 16]), "cut from the image downscaled as a whole"


def test_lmdb_is_read_by_basicsr(folder: Path) -> None:
    from basicsr.data.paired_image_dataset import PairedImageDataset
    from basicsr.utils import FileClient, imfrombytes

    assert run(folder, "--scale", "4", "--lmdb", *CROPS) == 0
    out = folder.parent / "out"
    client = FileClient("lmdb", db_paths=[str(out / "train.lmdb")], client_keys=["gt"])
    stored = imfrombytes(client.get("a_b_1_s002", "gt"))
    client.client._client["gt"].close()  # LMDB lets a process open a database once
    assert np.array_equal(stored, image_files.read_image(out / "train" / "a_b_1_s002.png"))

    def dataset(kind: str, suffix: str) -> PairedImageDataset:
        roots = {"dataroot_gt": str(out / f"train{suffix}"), "dataroot_lq": str(out / f"train_LRx4{suffix}")}
        return PairedImageDataset({**roots, "phase": "val", "io_backend": {"type": kind}, "scale": 4})

    data = dataset("lmdb", ".lmdb")
    assert len(data) == len(manifest(folder))
    for item in (data[0], data[len(data) - 1]):
        assert item["gt"].shape == (3, 64, 64) and item["lq"].shape == (3, 16, 16)
        assert item["gt_path"] == item["lq_path"]
        low = image_files.read_image(out / "train_LRx4" / f"{item['lq_path']}.png")[..., ::-1]
        assert np.array_equal(np.round(item["lq"].numpy().transpose(1, 2, 0) * 255), low)
    # Folders work as well, and an unchanged database is not written again.
    assert len(dataset("disk", "")) == len(data)
    written = (out / "train.lmdb" / "data.mdb").stat().st_mtime_ns
    assert run(folder, "--scale", "4", "--lmdb", *CROPS) == 0
    assert (out / "train.lmdb" / "data.mdb").stat().st_mtime_ns == written
    save(folder / "d.png", textured(64, 64, 9))
    assert run(folder, "--scale", "4", "--lmdb", *CROPS) == 0
    assert len(dataset("lmdb", ".lmdb")) == len(data) + 1


@pytest.mark.parametrize("option", [("--min-std", "5"), ("--min-gradient", "5")])
def test_flat_crops_are_dropped(tmp_path: Path, option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    image = np.full((64, 192, 3), 128, np.uint8)
    image[:, 64:128] = textured(64, 64)
    save(tmp_path / "in" / "x.png", image)
    assert run(tmp_path / "in", "--crop-size", "64", "--step", "64", *option) == 0
    assert list(manifest(tmp_path / "in")) == ["train/x_s002.png"]
    assert "2 flat ones dropped" in capsys.readouterr().out
    assert run(tmp_path / "in", "--crop-size", "64", "--step", "64", option[0], "9999") == 1
    assert "no crop came out" in capsys.readouterr().err


def test_a_second_run_does_only_what_is_missing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "out"
    run(folder, *CROPS)
    digests = {file: row["sha256"] for file, row in manifest(folder).items()}
    times = {file: (out / file).stat().st_mtime_ns for file in digests}
    capsys.readouterr()
    assert run(folder, *CROPS) == 0
    assert "2 images were already done" in capsys.readouterr().out
    assert {file: (out / file).stat().st_mtime_ns for file in digests} == times
    (out / "train" / "a_b_1_s003.png").write_bytes(b"")
    assert run(folder, *CROPS) == 0
    assert "1 images were already done" in capsys.readouterr().out
    assert {file: row["sha256"] for file, row in manifest(folder).items()} == digests
    assert image_files.read_image(out / "train" / "a_b_1_s003.png").shape == (64, 64, 3)
    # Another image under the old name, and another recipe: no crop of the old ones stays.
    save(folder / "a.b 1.png", textured(64, 64, 5))
    assert run(folder, *CROPS) == 0
    assert sorted(path.name for path in (out / "train").iterdir()) == ["a_b_1_s001.png", "sub_c_s001.png"]
    assert run(folder, "--crop-size", "32", "--step", "32") == 0
    assert {image_files.read_image(path).shape for path in (out / "train").iterdir()} == {(32, 32, 3)}
    assert len(list((out / "train").iterdir())) == len(manifest(folder)) == 8


def test_two_folders_share_an_output(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "more" / "e.png", textured(64, 64, 3))
    save(tmp_path / "more" / "sub" / "c.png", textured(64, 64, 4))
    assert run(folder, *CROPS) == 0
    before = (tmp_path / "out" / "train" / "sub_c_s001.png").read_bytes()
    assert run(tmp_path / "more", *CROPS) == 1
    assert "would overwrite those of in/sub/c.bmp" in capsys.readouterr().err
    assert (tmp_path / "out" / "train" / "sub_c_s001.png").read_bytes() == before
    assert {row["source"] for row in manifest(folder).values()} == {"in/a.b 1.png", "in/sub/c.bmp", "more/e.png"}


def test_of_two_images_with_one_name_the_second_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(folder / "a.b 1.tif", textured(64, 64))
    assert run(folder, *CROPS) == 1
    assert "a.b 1.tif: like" in capsys.readouterr().err
    assert {row["source"] for row in manifest(folder).values()} == {"in/a.b 1.png", "in/sub/c.bmp"}


def test_small_images_are_reported_and_skipped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(folder / "tiny.png", textured(20, 90))
    assert run(folder, *CROPS) == 0
    assert "skipped: in/tiny.png: 90x20 is smaller than a crop" in capsys.readouterr().err


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [warm_python(), str(REPOSITORY / "datasets" / "prepare_folder.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_unreadable_images_are_one_line_each(folder: Path) -> None:
    (folder / "text.png").write_text("not an image")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "a.b 1.png").read_bytes()[:90])
    jpeg = save(folder / "half.jpg", textured(200, 200)).read_bytes()
    (folder / "half.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    names = ["cut.png", "empty.jpg", "half.jpg", "text.png"]
    done = script("--input", str(folder), "--out", str(folder.parent / "out"), *CROPS)
    failed = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.startswith("failed:")]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert len(failed) == 4 and all("not a readable image" in line for line in failed)
    assert sorted(line.split(":")[1].rsplit("/", 1)[-1] for line in failed) == names
    assert "6 images: 13 crops" in done.stdout
    assert {row["source"] for row in manifest(folder).values()} == {"in/a.b 1.png", "in/sub/c.bmp"}


def test_bad_arguments_are_one_line_each(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "file").write_text("")
    cases = [
        (["--input", str(tmp_path / "none"), "--out", "x"], 2, "none: no such folder"),
        (["--input", str(tmp_path / "bare"), "--out", "x"], 2, "bare: no image in this folder"),
        (["--input", str(folder), "--out", str(folder / "out")], 2, "lies inside --input"),
        (["--input", str(folder), "--out", str(tmp_path / "file"), *CROPS], 2, "cannot write"),
        (["--input", str(folder), "--out", "x", "--scale", "7"], 2, "multiples of --scale 7"),
        (["--input", str(folder), "--out", "x", "--step", "0"], 2, "--step"),
    ]
    for arguments, code, message in cases:
        done = script(*arguments)
        assert done.returncode == code, (arguments, done.stderr)
        assert message in done.stderr and "Traceback" not in done.stderr
