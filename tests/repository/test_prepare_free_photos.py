"""The free photographs: resource files, packages, filtering, manifest, resuming, packing, sample folder."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import re
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from places import REPOSITORY
from warm_python import warm_python

sys.path.insert(0, str(REPOSITORY / "datasets"))
qt_rcc = importlib.import_module("tools.qt_rcc")
texture = importlib.import_module("tools.texture")
image_files = importlib.import_module("tools.image_files")
pack_crops = importlib.import_module("pack_crops")
free_photos = importlib.import_module("prepare_free_photos")


def build_rcc(files: dict[str, bytes], version: int, flags: int) -> bytes:
    """A resource file with one directory ``d`` that holds `files`, as Qt's rcc lays it out."""
    names, data = b"", b""
    name_offsets: dict[str, int] = {}
    for name in ["d", *files]:
        name_offsets[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    stamp = b"\0" * 8 if version >= 2 else b""
    tree = struct.pack(">IHII", 0, 2, 1, 1) + stamp  # the root, with one child
    tree += struct.pack(">IHII", name_offsets["d"], 2, len(files), 2) + stamp
    for name, content in files.items():
        payload = struct.pack(">I", len(content)) + zlib.compress(content) if flags & 1 else content
        tree += struct.pack(">IHHHI", name_offsets[name], flags, 0, 1, len(data)) + stamp
        data += struct.pack(">I", len(payload)) + payload
    head = 24 if version >= 3 else 20
    header = b"qres" + struct.pack(">4I", version, head, head + len(tree) + len(names), head + len(tree))
    return header + (struct.pack(">I", flags) if version >= 3 else b"") + tree + names + data


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("flags", [0, qt_rcc.FLAG_ZLIB])
def test_rcc_files_come_back(version: int, flags: int) -> None:
    files = {"é.txt": b"some text " * 20, "b.bin": bytes(range(256)), "empty": b""}
    found = dict(qt_rcc.iter_rcc(build_rcc(files, version, flags)))
    assert found == {f"/d/{name}": content for name, content in files.items()}


def test_damaged_rcc_is_refused() -> None:
    good = build_rcc({"a": b"x" * 300}, 2, qt_rcc.FLAG_ZLIB)
    with pytest.raises(qt_rcc.RccError, match="magic"):
        dict(qt_rcc.iter_rcc(b"PNG!" + good[4:]))
    with pytest.raises(qt_rcc.RccError, match="version 9"):
        dict(qt_rcc.iter_rcc(good[:4] + struct.pack(">I", 9) + good[8:]))
    with pytest.raises(qt_rcc.RccError, match="zstd"):
        dict(qt_rcc.iter_rcc(build_rcc({"a": b"x"}, 3, qt_rcc.FLAG_ZSTD)))
    for length in (10, 30, 60, len(good) - 5):
        with pytest.raises(qt_rcc.RccError):
            dict(qt_rcc.iter_rcc(good[:length]))
    # The root as its own child would be walked for ever.
    loop = good[:20] + struct.pack(">IHII", 0, 2, 1, 0) + good[34:]
    with pytest.raises(qt_rcc.RccError, match="twice"):
        dict(qt_rcc.iter_rcc(loop))


def photo(width: int, height: int, suffix: str, seed: int = 0) -> bytes:
    """A noisy picture, encoded; its left third is flat."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    image = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    image[:, : width // 3] = 90
    return cv2.imencode(suffix, image)[1].tobytes()


class World:
    """A machine whose apt knows the packages given here, and a list of accepted photographs."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.archive, self.bin = folder, folder / "archive", folder / "bin"
        self.out, self.cache = folder / "out", folder / "cache"
        self.rows: list[dict[str, str]] = []
        self.archive.mkdir()
        self.bin.mkdir()
        # Stand-ins for the three Debian tools; a "package" is a tar file here.
        self.tool("apt-cache", f'cat "{self.archive}/$3.control" 2>/dev/null || {{ echo "E: none" >&2; exit 100; }}')
        self.tool("apt-get", f'cp "{self.archive}/$2"_*.deb . 2>/dev/null || {{ echo "E: offline" >&2; exit 100; }}')
        self.tool("dpkg-deb", 'tar -xf "$2" -C "$3"')
        monkeypatch.setenv("PATH", f"{self.bin}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr(free_photos, "LIST", folder / "list.tsv")

    def tool(self, name: str, body: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.bin / name).chmod(0o755)

    def package(self, name: str, files: dict[str, bytes]) -> Path:
        deb = self.archive / f"{name}_2%3a1.0-1_all.deb"
        with tarfile.open(deb, "w") as tar:
            for path, content in files.items():
                info = tarfile.TarInfo(path)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        control = f"Package: {name}\nVersion: 2:1.0-1\nFilename: pool/{name}_1.0-1_all.deb\nSHA256: {digest}\n"
        (self.archive / f"{name}.control").write_text(control)
        return deb

    def accept(self, name: str, source: str, path: str, content: bytes, split: str = "train") -> dict[str, str]:
        row = dict.fromkeys(free_photos.LIST_COLUMNS, "")
        row |= {"name": name, "source": source, "path": path, "split": split, "scene": name}
        row |= {"author": f"A. {name}", "licence": "CC0-1.0", "sha256": hashlib.sha256(content).hexdigest()}
        self.rows.append(row)
        return row

    def run(self, *arguments: str) -> int:
        image_files.write_tsv(free_photos.LIST, free_photos.LIST_COLUMNS, self.rows)
        return int(free_photos.main(["--out", str(self.out), "--cache", str(self.cache), *arguments]))

    def manifest(self) -> dict[str, dict[str, str]]:
        return {row["file"]: row for row in image_files.read_tsv(self.out / "manifest.tsv")}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path, monkeypatch)
    big, small = photo(1200, 1100, ".jpg"), photo(700, 600, ".jpg")
    lossless, inner = photo(520, 512, ".png"), photo(1040, 1030, ".webp", seed=1)
    made.package("alpha", {"usr/big.jpg": big, "usr/small.jpg": small, "usr/clean.png": lossless})
    made.package("beta", {"usr/x.rcc": build_rcc({"in.webp": inner}, 3, qt_rcc.FLAG_ZLIB)})
    made.accept("big", "alpha", "usr/big.jpg", big)
    made.accept("small", "alpha", "usr/small.jpg", small)
    made.accept("clean", "alpha", "usr/clean.png", lossless, "val")
    made.accept("inner", "beta", "usr/x.rcc!/d/in.webp", inner, "val")
    return made


def test_sizes_splits_and_manifest(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    drawing = photo(900, 900, ".png", seed=5)
    world.accept("drawing", "alpha", "usr/drawing.png", drawing, "reject")
    assert world.run() == 0
    rows = world.manifest()
    assert {(f, r["width"], r["height"], r["halved"]) for f, r in rows.items()} == {
        ("train/alpha__big.png", "600", "550", "yes"),
        ("train/alpha__small.png", "597", "512", "no"),  # halving would bring it under 512
        ("val/alpha__clean.png", "512", "512", "no"),  # lossless
        ("val/beta__inner.png", "512", "512", "yes"),
    }
    for file, row in rows.items():
        content = (world.out / file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
        assert image_files.decode(content, file).shape == (int(row["height"]), int(row["width"]), 3)
        assert row["licence"] == "CC0-1.0" and row["author"].startswith("A. ")
    # Halving is the mean of 2x2 blocks.
    source = image_files.decode(photo(1200, 1100, ".jpg"), "big").astype(float)
    mean = source.reshape(550, 2, 600, 2, 3).mean(axis=(1, 3))
    assert np.abs(image_files.read_image(world.out / "train/alpha__big.png") - mean).max() <= 0.51
    assert "train: 2 photographs, 0.6 megapixels" in capsys.readouterr().out


def test_a_second_run_keeps_whole_files_and_mends_the_rest(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run()
    before = {file: (world.out / file).stat().st_mtime_ns for file in world.manifest()}
    digests = {file: row["sha256"] for file, row in world.manifest().items()}
    (world.out / "train/alpha__big.png").write_bytes(b"half a file")
    (world.out / "val/beta__inner.png").unlink()
    world.rows[1]["author"] = "corrected"
    capsys.readouterr()
    assert world.run() == 0
    assert "2 were already there, 0 failed" in capsys.readouterr().out
    rows = world.manifest()
    assert {file: row["sha256"] for file, row in rows.items()} == digests
    assert rows["train/alpha__small.png"]["author"] == "corrected"
    unchanged = [file for file in before if (world.out / file).stat().st_mtime_ns == before[file]]
    assert sorted(unchanged) == ["train/alpha__small.png", "val/alpha__clean.png"]


def test_a_photograph_that_changes_split_leaves_no_copy(world: World) -> None:
    world.run()
    world.rows[0]["split"] = "val"
    world.rows[1]["split"] = "reject"
    assert world.run() == 0
    assert not list((world.out / "train").iterdir())
    assert sorted(world.manifest()) == ["val/alpha__big.png", "val/alpha__clean.png", "val/beta__inner.png"]


def test_one_bad_photograph_or_package_does_not_stop_the_others(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny, broken = photo(500, 900, ".png"), photo(900, 900, ".jpg")[:200]
    deb = world.package("gamma", {"usr/tiny.png": tiny, "usr/broken.jpg": broken})
    world.accept("tiny", "gamma", "usr/tiny.png", tiny)
    world.accept("broken", "gamma", "usr/broken.jpg", broken)
    world.accept("gone", "gamma", "usr/gone.jpg", b"")
    world.accept("nowhere", "delta", "usr/a.jpg", b"")
    world.rows[0]["sha256"] = "0" * 64
    assert world.run() == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: ")]
    assert len(errors) == 5
    for part in ("checksum differs", "500x900, under 512", "not a readable image", "not in this version", "apt knows"):
        assert sum(part in line for line in errors) == 1, part
    assert len(world.manifest()) == 3
    # A damaged download is refused and removed.
    deb.write_bytes(deb.read_bytes() + b"x")
    (world.cache / deb.name).unlink()
    assert world.run("--packages", "gamma") == 1
    assert "checksum differs from the one apt states" in capsys.readouterr().err
    assert not (world.cache / deb.name).exists()
    assert len(world.manifest()) == 3  # what other packages gave stays


def test_extra_folder(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "clones"
    (folder / "walls" / "deep").mkdir(parents=True)
    listed, stated, refused = (photo(1100, 1100, ".jpg", seed) for seed in (7, 8, 9))
    (folder / "walls/deep/listed.jpg").write_bytes(listed)
    (folder / "walls/stated.jpg").write_bytes(stated)
    (folder / "walls/refused.jpg").write_bytes(refused)
    world.accept("listed", "me/walls@abc", "listed.jpg", listed, "val")
    world.accept("refused", "me/walls@abc", "refused.jpg", refused, "reject")
    lines = ["file\trepository\tcommit\tlicence"]
    lines += [f"walls/{name}.jpg\tme/walls\tabc\tCC-BY-4.0" for name in ("listed", "stated", "refused")]
    (folder / "SOURCES.tsv").write_text("\n".join(lines) + "\n")
    assert world.run("--packages", "--extra", str(folder)) == 0
    rows = world.manifest()
    assert sorted(rows) == ["train/walls__stated.png", "val/walls__listed.png"]
    assert rows["train/walls__stated.png"]["licence"] == "CC-BY-4.0"
    assert rows["train/walls__stated.png"]["source"] == "me/walls@abc"
    (folder / "walls/deep/listed.jpg").write_bytes(stated)
    assert world.run("--packages", "--extra", str(folder)) == 1
    assert "listed.jpg is not in" in capsys.readouterr().err


def test_extra_photographs_are_found_by_name_whatever_the_folders(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "clones"
    (folder / "old").mkdir(parents=True)
    kept, other = (photo(1100, 1100, ".jpg", seed) for seed in (7, 8))
    # Taken out of the history, it lies elsewhere than in its repository, beside another of the same name.
    (folder / "old/lake.jpg").write_bytes(kept)
    (folder / "lake.jpg").write_bytes(other)
    world.accept("lake", "me/walls@abc", "backgrounds/summer/lake.jpg", kept)
    lines = ["file\trepository\tcommit\tlicence", "lake.jpg\tme/walls\tabc\tCC-BY-4.0"]
    (folder / "SOURCES.tsv").write_text("\n".join(lines) + "\n")
    assert world.run("--packages", "--extra", str(folder)) == 0
    rows = world.manifest()
    assert list(rows) == ["train/walls__lake.png"], "listed already, so SOURCES.tsv adds nothing"
    assert rows["train/walls__lake.png"]["path"] == "backgrounds/summer/lake.jpg"
    assert rows["train/walls__lake.png"]["source_sha256"] == hashlib.sha256(kept).hexdigest()


def test_a_scene_in_both_splits_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.rows[0]["scene"] = world.rows[2]["scene"]
    assert world.run() == 2
    assert "both training and validation: clean" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--packages", "nonsense"], "nonsense not in free_photos.tsv"),
        (["--packages", "--extra", "no/such/folder"], "no/such/folder: no such folder"),
        (["--packages", "mate-backgrounds"], "apt-cache is missing"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    script = [warm_python(), str(REPOSITORY / "datasets" / "prepare_free_photos.py"), "--out", str(tmp_path / "o")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PATH": ""}
    done = subprocess.run(
        [*script, "--cache", str(tmp_path), *arguments], capture_output=True, text=True, check=False, env=environment
    )
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.startswith(("error:", "failed:"))]
    assert done.returncode == (2 if lines[0].startswith("error:") else 1) and "Traceback" not in done.stderr
    assert len(lines) == 1 and message in lines[0]


def test_the_committed_list() -> None:
    rows = image_files.read_tsv(REPOSITORY / "datasets" / "free_photos.tsv", free_photos.LIST_COLUMNS)
    free_photos.check_scenes(rows)
    accepted = [row for row in rows if row["split"] in ("train", "val")]
    assert {row["split"] for row in rows} == {"train", "val", "reject"}
    assert all(row["note"] for row in rows if row["split"] == "reject"), "each rejection gives its reason"
    assert sum("@" not in row["source"] for row in accepted) >= 150
    assert sum(row["split"] == "val" for row in accepted) >= 50
    assert all(row["licence"] and re.fullmatch("[0-9a-f]{64}", row["sha256"]) for row in rows)
    assert len({row["name"] for row in rows}) == len({row["sha256"] for row in rows}) == len(rows)
    # Nothing that only exists with restrictions is trained on, and no part of a test set.
    free = re.compile(r"(CC0|CC-BY(-SA)?|GPL|LGPL|GFDL|BSD|public)[-+.0-9]")
    assert [row["licence"] for row in accepted if not free.match(row["licence"] + "-")] == []
    assert [row["path"] for row in accepted if re.search("CID22.*validation|clic2025|kodak|gb82", row["path"])] == []
    cid22 = [row for row in accepted if "codec-corpus" in row["source"]]
    assert len(cid22) > 150 and {row["split"] for row in cid22} == {"train"}


def test_sample_folder_is_attributed_and_held_out() -> None:
    rows = {row["name"]: row for row in image_files.read_tsv(REPOSITORY / "datasets" / "free_photos.tsv")}
    table = [line.split("|") for line in (REPOSITORY / "lowres" / "ATTRIBUTION.md").read_text().splitlines()]
    stated = {cells[1].strip(" `"): cells for cells in table if len(cells) > 5 and ".png" in cells[1]}
    files = sorted((REPOSITORY / "lowres").glob("*.png"))
    assert sorted(stated) == [path.name for path in files] and len(files) >= 5
    assert sum(path.stat().st_size for path in files) < 400_000
    damaged = {path.stem.rsplit("_", 1)[0] for path in (REPOSITORY / "lowres").glob("*.jpg")}
    assert damaged and damaged <= {path.stem for path in files}
    for path in files:
        height, width = image_files.read_image(path).shape[:2]
        cells = stated[path.name]
        row = rows[cells[8].strip(" `")]
        assert 128 <= min(height, width) and max(height, width) <= 260
        assert cells[2].strip() == f"{width}x{height}"
        assert row["split"] == "val" and cells[4].strip() == row["author"]


def test_most_textured_crop_and_grid() -> None:
    image = np.full((200, 300, 3), 100, np.uint8)
    image[96:160, 176:240] = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    crop = texture.most_textured_crop(image, 64, step=16)
    assert np.array_equal(crop, image[96:160, 176:240])
    assert texture.grid_offsets(100, 40, 25) == [0, 25, 50, 60]
    assert texture.grid_offsets(100, 40, 25, thresh=10) == [0, 25, 50]
    assert texture.grid_offsets(39, 40, 25) == []


def test_pack_crops(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name in ("a", "b"):
        (tmp_path / "train" / f"{name}.png").write_bytes(photo(192, 128, ".png", seed=ord(name)))
    (tmp_path / "manifest.tsv").write_text("file\n")
    arrays: list[Any] = []
    for seed in ("0", "0", "1"):
        out = tmp_path / f"{len(arrays)}.npy"
        options = ["--size", "64", "--step", "64", "--drop", "0.34", "--seed", seed]
        assert pack_crops.main(["--input", str(tmp_path / "train"), "--out", str(out), *options]) == 0
        arrays.append(np.load(out, mmap_mode="r"))
    # Two images of 3 x 2 crops, whose first column is flat: a third is dropped.
    assert arrays[0].shape == (8, 64, 64, 3) and arrays[0].dtype == np.uint8
    assert all(crop.std() > 10 for crop in arrays[0])
    assert np.array_equal(arrays[0], arrays[1]) and not np.array_equal(arrays[0], arrays[2])
    image = image_files.read_image(tmp_path / "train" / "a.png")
    assert any(np.array_equal(crop[..., ::-1], image[:64, 64:128]) for crop in arrays[0]), "stored as RGB"
    facts = json.loads((tmp_path / "0.json").read_text())
    assert facts["count"] == 8 and facts["seed"] == 0
    assert facts["manifest_sha256"] == hashlib.sha256(b"file\n").hexdigest()
    assert facts["array_sha256"] == hashlib.sha256((tmp_path / "0.npy").read_bytes()).hexdigest()


def test_pack_crops_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(photo(96, 96, ".png"))
    assert pack_crops.main(["--input", str(tmp_path), "--out", str(tmp_path / "x.npy")]) == 2
    assert pack_crops.main(["--input", str(tmp_path / "none"), "--out", str(tmp_path / "x.npy")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "none of 1 images has 256x256 pixels or more" in lines[0] and "no such folder" in lines[1]
    assert not (tmp_path / "x.npy").exists()
