"""Benchmarks beyond pairs: inputs alone, sets and weights that are not there, the table of speed, and the pictures."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image as PILImage
from smooth_images import smooth_image
from tiny_model import save_tiny

from amd_restore.benchmark import __main__ as command
from amd_restore.benchmark import panel
from amd_restore.benchmark.drawing import pyplot
from amd_restore.benchmark.images import TestSet
from amd_restore.benchmark.labels import place_labels
from amd_restore.benchmark.options import DatasetOptions
from amd_restore.benchmark.plots import Panel, Point, draw
from amd_restore.benchmark.speed import HERE, Speed, ratio
from amd_restore.image_io import Picture, write_image


def write_folder(folder: Path, names: list[str], height: int = 64, width: int = 96) -> Path:
    for index, name in enumerate(names):
        write_image(folder / f"{name}.png", Picture(smooth_image(index)[:height, :width]))
    return folder


def test_names_of_pairs_may_carry_suffixes(tmp_path: Path) -> None:
    gt = write_folder(tmp_path / "gt", ["a_HR", "b_HR"])
    lq = write_folder(tmp_path / "lq", ["a_LR4", "b_LR4"], 16, 24)
    pairs = list(TestSet("x", DatasetOptions(gt=str(gt), lq=str(lq), gt_suffix="_HR", lq_suffix="_LR4"), 4))
    assert [(pair.name, pair.aliases) for pair in pairs] == [("a_HR", ("a_LR4",)), ("b_HR", ("b_LR4",))]
    assert pairs[0].output_size == (64, 96) and pairs[0].gt is not None


def test_inputs_alone_missing_sets_speed_and_pictures(tmp_path: Path) -> None:
    weights = save_tiny(tmp_path / "tiny.safetensors")
    gt, lq = write_folder(tmp_path / "gt", ["a", "b"]), write_folder(tmp_path / "lq", ["c"], 30, 26)
    write_folder(tmp_path / "results/theirs/pairs", ["a", "b"])
    entry = {"peer": "theirs", "dataset": "pairs", "threads": 64, "seconds_16_to_64": 0.5, "seconds_per_image": 0.25}
    content = {"date": "today", "machine": "elsewhere", "threads": 64, "entries": [entry]}
    (tmp_path / "results/peers.json").write_text(json.dumps(content), encoding="utf-8")
    options: dict[str, Any] = {
        "name": "mini",
        "seeds": [0],
        "metrics": ["psnr_y", "brisque"],
        "crop_border": 2,
        "datasets": {
            "pairs": {"gt": str(gt)},
            "alone": {"lq": str(lq)},
            "gone": {"gt": str(tmp_path / "none"), "optional": True},
        },
        "methods": [
            {"name": "tiny", "weights": [str(weights)], "steps": [1, 2]},
            {"name": "low", "weights": [str(weights)], "steps": [1], "dtype": "bfloat16"},
            {"name": "later", "weights": ["x9-none"], "steps": [1], "optional": True},
            {"name": "theirs", "type": "folder", "path": str(tmp_path / "results/theirs")},
        ],
        "compare": [{"a": "later, 1 step", "b": "theirs"}],
        "speed": {"side": 16, "repeats": 2, "baselines": ["tiny, 1 step", "theirs"]},
    }
    file, out = tmp_path / "mini.yml", tmp_path / "out"
    file.write_text(yaml.safe_dump(options), encoding="utf-8")
    assert command.main(["-opt", str(file), "--out", str(out)]) == 0

    results = {(e["method"], e["dataset"]): e for e in json.loads((out / "mini.json").read_text())["results"]}
    alone = results["tiny, 1 step", "alone"]["values"]
    assert alone["psnr_y"] == [[None]] and math.isfinite(alone["brisque"][0][0])
    ours = ("tiny, 1 step", "tiny, 2 steps", "low, 1 step")
    assert set(results) == {(name, dataset) for name in ours for dataset in ("pairs", "alone")} | {("theirs", "pairs")}
    text = (out / "mini.md").read_text(encoding="utf-8")
    section = text.split("## alone")[1].split("\n## ")[0]
    assert "PSNR-Y" not in section and "BRISQUE" in section  # no column of dashes
    assert "| later, 1 step | not released; no such weights |" in text
    assert "Not on disk, hence left out: gone." in text

    speed = json.loads((out / "mini_speed.json").read_text(encoding="utf-8"))["rows"]
    by_name = {row["method"]: row for row in speed}
    assert list(by_name) == ["tiny, 1 step", "tiny, 2 steps", "low, 1 step", "theirs"]
    one, two, theirs = by_name["tiny, 1 step"], by_name["tiny, 2 steps"], by_name["theirs"]
    assert two["times_as_fast_as"]["tiny, 1 step"] == pytest.approx(one["seconds"] / two["seconds"])
    assert theirs["seconds"] == 0.5 and theirs["per_image"] == {"pairs": 0.25} and "today" in theirs["source"]
    assert theirs["times_as_fast_as"]["tiny, 1 step"] is None  # other machine, other threads
    rows = list(csv.DictReader((out / "mini_speed.csv").open(encoding="utf-8")))
    assert {row["input"] for row in rows if row["method"] == "tiny, 1 step"} == {"16x16", "pairs", "alone"}
    assert "16x16 -> 64x64" in (out / "mini_speed.md").read_text(encoding="utf-8")

    # No full-reference perceptual metric was asked for: there is no perception-distortion diagram.
    assert "![Quality against seconds](mini_quality_seconds.png)" in text and "perception_distortion" not in text
    assert PILImage.open(out / "mini_quality_seconds.png").size[0] > 600
    assert "tiny, 2 steps" in (out / "mini_quality_seconds.svg").read_text(encoding="utf-8")

    (tmp_path / "results/peers.json").write_text('{"entries": [{}]}', encoding="utf-8")
    assert command.main(["-opt", str(file), "--out", str(out)]) == 2

    del options["datasets"]["pairs"], options["datasets"]["alone"]
    file.write_text(yaml.safe_dump(options), encoding="utf-8")
    assert command.main(["-opt", str(file), "--out", str(out)]) == 2


def test_ratios_need_the_same_machine_and_threads() -> None:
    slow = Speed("slow", 2.0, {}, 2, "here", HERE)
    assert ratio(Speed("fast", 0.5, {}, 2, "here", "peers.json"), slow) == 4.0
    for other in (Speed("fast", 0.5, {}, 1, "here", HERE), Speed("fast", 0.5, {}, 2, "there", HERE)):
        assert ratio(other, slow) is None
    assert ratio(Speed("untimed", None, {}, 2, "here", HERE), slow) is None


def test_names_cover_neither_each_other_nor_points_nor_lines() -> None:
    rng = np.random.default_rng(0)
    places = [(26 + 6 * x, 0.1 + 0.2 * y) for x, y in rng.random((14, 2))]
    places += [(28.40, 0.2), (28.42, 0.2), (28.44, 0.2)]
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6.2, 4.6), dpi=110)
    axes.plot(*zip(*places, strict=True), "o", markersize=6)
    axes.margins(0.14)
    figure.canvas.draw()
    notes = place_labels(axes, [(f"method {i}", x, y, "#000000") for i, (x, y) in enumerate(places)], [places[:2]])
    boxes = [note.get_window_extent(figure.canvas.get_renderer()) for note in notes]
    frame = axes.get_window_extent()
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])
        assert not any(box.contains(*axes.transData.transform(place)) for place in places)
        assert box.x0 >= frame.x0 - 1 and box.x1 <= frame.x1 + 1
    plt.close(figure)


def test_better_is_up_in_every_panel() -> None:
    points = [Point("a", "ours", True, 26.0, 0.2), Point("b", "theirs", False, 28.0, 0.1)]
    files = draw([Panel("A", "PSNR", "LPIPS", points), Panel("B", "s", "LPIPS", points, log_x=True)])
    assert files["png"].startswith(b"\x89PNG") and b"<svg" in files["svg"]
    assert draw([Panel("A", "PSNR", "LPIPS", points)])["svg"] == draw([Panel("A", "PSNR", "LPIPS", points)])["svg"]


def test_panel_of_inputs_alone(tmp_path: Path) -> None:
    weights = save_tiny(tmp_path / "tiny.safetensors")
    lq, out = write_folder(tmp_path / "lq", ["c"], 30, 26), tmp_path / "panel.png"
    arguments = ["--lq", str(lq), "--weights", str(weights), "--steps", "1", "--crop", "40", "--out", str(out)]
    assert panel.main(arguments) == 0
    assert PILImage.open(out).size == (2 * (40 + 2), 40 + panel.LABEL_HEIGHT + 2)  # bicubic and tiny
    assert panel.main(["--out", str(out)]) == 2
