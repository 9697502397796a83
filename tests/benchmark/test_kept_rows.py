"""Rows that a benchmark keeps from its earlier report."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from smooth_images import smooth_image
from tiny_model import save_tiny

from amd_restore.benchmark import __main__ as command
from amd_restore.benchmark.images import Pair
from amd_restore.benchmark.methods import Weights
from amd_restore.benchmark.options import BenchmarkOptions, DatasetOptions, MethodOptions
from amd_restore.image_io import Picture, write_image
from amd_restore.pipeline import RestorationPipeline

OTHER_CODEC = {"type": "residual", "scale": 4, "patch": 4, "std": 0.1}


def report_of(out: Path) -> tuple[dict[str, Any], dict[tuple[str, str], dict[str, Any]]]:
    content = json.loads((out / "mini.json").read_text(encoding="utf-8"))
    return content, {(entry["method"], entry["dataset"]): entry for entry in content["results"]}


def test_rows_of_the_earlier_report_are_kept(tmp_path: Path) -> None:
    """A row stays while its weights and files are the same; another version of the weights leaves a gap."""
    for name in ("a", "b"):
        write_image(tmp_path / name / "img_0.png", Picture(smooth_image(0)))
    weights = save_tiny(tmp_path / "tiny.safetensors")
    other = save_tiny(tmp_path / "other.safetensors")
    methods = [
        {"name": "bicubic", "type": "bicubic"},
        {"name": "tiny", "weights": [str(weights)], "steps": [1]},
        {"name": "other", "weights": [str(other)], "steps": [1]},
    ]
    out = tmp_path / "out"
    options = {
        "name": "mini",
        "metrics": ["psnr_y", "consistency"],
        "crop_border": 2,
        "datasets": {name.upper(): {"gt": str(tmp_path / name)} for name in ("a", "b")},
        "methods": methods,
    }
    file = tmp_path / "mini.yml"
    file.write_text(yaml.safe_dump(options), encoding="utf-8")
    arguments = ["-opt", str(file), "--out", str(out)]
    assert command.main([*arguments, "--keep"]) == 2  # no report yet
    assert command.main(arguments) == 0
    _, before = report_of(out)

    save_tiny(weights, codec=OTHER_CODEC)
    save_tiny(other, codec=OTHER_CODEC)
    write_image(tmp_path / "b" / "img_0.png", Picture(smooth_image(7)))
    assert command.main([*arguments, "--keep", "--methods", "tiny"]) == 0
    content, after = report_of(out)
    assert set(after) == {("bicubic", "A"), ("tiny, 1 step", "A"), ("tiny, 1 step", "B")}
    assert after["bicubic", "A"]["values"] == before["bicubic", "A"]["values"]
    assert after["tiny, 1 step", "A"]["values"] != before["tiny, 1 step", "A"]["values"]
    assert after["tiny, 1 step", "A"]["seconds"] and after["bicubic", "A"]["seconds"] is None
    assert [one["rows"] for one in content["protocol"]["kept"]] == [["bicubic: A"]]
    assert {(one["method"], one["dataset"]) for one in content["absent"]} == {
        *(("other, 1 step", dataset) for dataset in "AB"),
        ("bicubic", "B"),
    }
    text = (out / "mini.md").read_text(encoding="utf-8")
    assert "Kept from" in text and ": bicubic: A." in text

    kept = content["protocol"]["kept"]
    assert command.main([*arguments, "--keep", "--methods", "tiny, 1 step"]) == 0  # kept twice, its origin is the first
    content, _ = report_of(out)
    assert content["protocol"]["kept"] == kept
    assert command.main([*arguments, "--keep", "--methods", "tiny, 2 steps"]) == 2

    assert command.main([*arguments, "--keep"]) == 0  # what changed since, and nothing else
    content, whole = report_of(out)
    measured = {("other, 1 step", "A"), ("other, 1 step", "B"), ("bicubic", "B")}
    assert {place for place, entry in whole.items() if entry["seconds"]} == measured
    assert set(whole) - measured == set(after) and not content["absent"]
    assert whole["bicubic", "A"]["values"] == before["bicubic", "A"]["values"]

    options["methods"] = [*methods, {"name": "peer", "type": "folder", "path": str(tmp_path / "nowhere")}]
    file.write_text(yaml.safe_dump(options), encoding="utf-8")
    assert command.main([*arguments, "--keep"]) == 0
    content, again = report_of(out)
    assert set(again) == set(whole) and not any(entry["seconds"] for entry in again.values())
    assert {(one["method"], one["dataset"]) for one in content["absent"]} == {("peer", "A"), ("peer", "B")}
    assert all("nowhere" in one["reason"] for one in content["absent"])


def test_rows_of_another_dtype_are_measured_again(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "img_0.png", Picture(smooth_image(0)))
    row: dict[str, Any] = {"name": "tiny", "weights": [str(save_tiny(tmp_path / "tiny.safetensors"))], "steps": [1]}
    options = {"name": "mini", "metrics": ["psnr_y"], "datasets": {"A": {"gt": str(tmp_path / "a")}}, "seeds": [0]}
    file, kept = tmp_path / "mini.yml", []
    for dtype, arguments in (("float32", []), ("bfloat16", ["--keep"]), ("bfloat16", ["--keep"])):
        file.write_text(yaml.safe_dump(options | {"methods": [row | {"dtype": dtype}]}), encoding="utf-8")
        assert command.main(["-opt", str(file), "--out", str(tmp_path / "out"), *arguments]) == 0
        kept.append(len(report_of(tmp_path / "out")[0]["protocol"].get("kept", [])))
    assert kept == [0, 0, 1]


def test_rows_of_another_protocol_are_measured_again(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "img_0.png", Picture(smooth_image(0)))
    options: dict[str, Any] = {
        "name": "mini",
        "metrics": ["psnr_y"],
        "crop_border": 2,
        "datasets": {"A": {"gt": str(tmp_path / "a")}},
        "methods": [{"name": "bicubic", "type": "bicubic"}],
    }
    file, values = tmp_path / "mini.yml", []
    for border, arguments in ((2, []), (0, ["--keep"]), (0, ["--keep"])):
        file.write_text(yaml.safe_dump(options | {"crop_border": border}), encoding="utf-8")
        assert command.main(["-opt", str(file), "--out", str(tmp_path / "out"), *arguments]) == 0
        content, rows = report_of(tmp_path / "out")
        values.append((rows["bicubic", "A"]["values"], len(content["protocol"].get("kept", []))))
    assert values[0][0] != values[1][0] == values[2][0]
    assert [kept for _, kept in values] == [0, 0, 1]


def test_loading_is_not_part_of_the_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = MethodOptions(name="tiny", weights=[str(save_tiny(tmp_path / "tiny.safetensors"))], steps=[1])
    options = BenchmarkOptions(name="mini", seeds=[0], datasets={"A": DatasetOptions(gt=".")}, methods=[entry])
    method = Weights(entry, 1, options)
    load = RestorationPipeline.from_pretrained

    def slowly(*arguments: Any) -> RestorationPipeline:
        time.sleep(0.5)
        return load(*arguments)

    monkeypatch.setattr(RestorationPipeline, "from_pretrained", slowly)
    (run,) = method.runs(options)
    run.restore(Pair("one", None, np.zeros((8, 8, 3), np.uint8)), "A")
    assert run.seconds[0] < 0.4
