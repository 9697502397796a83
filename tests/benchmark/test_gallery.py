"""The gallery: its script, and that each picture of the page names its source and licence."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks/scripts"))
gallery: Any = importlib.import_module("gallery")


def test_inputs_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {name for name, *_ in (*gallery.PHOTOGRAPHS.values(), *gallery.FAILURES)}:
        gallery.write_png(tmp_path / "val" / f"{name}.png", np.full((513, 512, 3), (200, 120, 40), np.uint8))
    monkeypatch.setattr(gallery, "restore", lambda name, lq: {k: v.repeat(4, 0).repeat(4, 1) for k, v in lq.items()})
    calls: list[list[str]] = []
    monkeypatch.setattr(gallery.subprocess, "run", lambda command, check: calls.append(command))
    results, out = tmp_path / "results", tmp_path / "out"
    out.mkdir()
    command = ["--photographs", str(tmp_path / "val"), "--results", str(results), "--out", str(out)]

    assert gallery.main([*command, "--downloads", "own"]) == 2  # the peers' command has made nothing
    assert "realesrgan-x4plus/inputs/drawing.png: missing" in capsys.readouterr().err
    assert calls[0][-3:] == ["realesrgan-x4plus", "--downloads", "own"]
    inputs = {path.stem: gallery.read_image(path) for path in (results / "inputs").iterdir()}
    assert inputs.keys() == {*gallery.KINDS, "red_panda", "kingfisher_jpeg"}
    assert {inputs[kind].shape for kind in gallery.KINDS} == {(64, 64, 3)}
    colours = {kind: np.ptp(inputs[kind].mean(axis=(0, 1))) for kind in gallery.KINDS}
    assert colours["old"] < 10 and min(colours[kind] for kind in ("people", "night", "web")) > 100

    for peer in gallery.PEERS:
        for kind, image in inputs.items():
            gallery.write_png(results / peer / "inputs" / f"{kind}.png", image.repeat(4, 0).repeat(4, 1))
    calls.clear()
    assert gallery.main(command) == 0
    assert not calls  # all results are there, and no input has changed
    shapes = {path.stem: gallery.read_image(path).shape for path in out.iterdir()}
    strip = gallery.STRIP
    assert shapes.pop("before_after") == (strip + 2 * 288, 4 * 288, 3)
    assert shapes.pop("failures") == (strip + 4 * 224, 4 * 224, 3)
    assert shapes == dict.fromkeys((f"gallery_{kind}" for kind in gallery.KINDS), (strip + 256, 5 * 256, 3))

    gallery.write_png(results / "inputs/night.png", inputs["people"])
    assert gallery.main(command) == 0
    assert len(calls) == 2  # an input was another one: both peers run again


@pytest.mark.parametrize(
    "names", [["input, enlarged", "Real-ESRGAN x4plus"], ["realesr-general-x4v3", "x4-real (ours)"]]
)
def test_names_stand_over_their_columns(names: list[str]) -> None:
    ink = (gallery.strip(names, 256) < 128).all(axis=2)
    assert ink.shape == (gallery.STRIP, 512)
    assert not ink[[0, -1]].any()
    for column in (ink[:, :256], ink[:, 256:]):
        places = np.flatnonzero(column.any(axis=0))
        assert abs(places[0] + places[-1] - 255) <= 6 and places[0] > 4  # centred, and inside
        assert np.ptp(np.flatnonzero(column.any(axis=1))) >= 12  # legible where a page shows two thirds of its size


def test_each_picture_has_its_source_and_licence() -> None:
    """... and the address of the photograph's file, unless the script has drawn it."""
    page = (REPOSITORY / "docs/gallery.md").read_text(encoding="utf-8")
    shown = re.findall(r"\(images/gallery_(\w+)\.jpg\)\n\n\*Source: (.+) Licence: .+\*\n", page)
    assert sorted(kind for kind, _ in shown) == sorted(gallery.KINDS)
    for kind, source in shown:
        assert "](https://" in source or kind in ("text", "drawing")
