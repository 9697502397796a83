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
    photograph = np.full((512, 512, 3), (200, 120, 40), np.uint8)
    for name, *_ in gallery.PHOTOGRAPHS.values():
        gallery.write_png(tmp_path / "val" / f"{name}.png", photograph)
    assert gallery.main(["make", "--photographs", str(tmp_path / "val"), "--out", str(tmp_path)]) == 0
    inputs = {kind: gallery.read_image(tmp_path / "inputs" / f"{kind}.png") for kind in gallery.KINDS}
    assert {image.shape for image in inputs.values()} == {(64, 64, 3)}
    colours = {kind: np.ptp(image.mean(axis=(0, 1))) for kind, image in inputs.items()}
    assert colours["old"] < 10 and min(colours[kind] for kind in ("people", "night", "web")) > 100
    monkeypatch.setattr(gallery, "restore", lambda name, lq: {k: v.repeat(4, 0).repeat(4, 1) for k, v in lq.items()})
    show = ["show", "--inputs", str(tmp_path / "inputs"), "--peers", str(tmp_path / "peers"), "--out", str(tmp_path)]
    assert gallery.main(show) == 2
    assert "people.png: missing; run the peers first" in capsys.readouterr().err
    for peer in gallery.PEERS:
        for kind, image in inputs.items():
            gallery.write_png(tmp_path / "peers" / peer / "inputs" / f"{kind}.png", image.repeat(4, 0).repeat(4, 1))
    assert gallery.main(show) == 0
    for kind in gallery.KINDS:
        picture = gallery.read_image(tmp_path / f"gallery_{kind}.jpg")
        assert picture.shape == (256, 256 * len(gallery.COLUMNS), 3)


def test_each_picture_has_its_source_and_licence() -> None:
    page = (REPOSITORY / "docs/gallery.md").read_text(encoding="utf-8")
    shown = re.findall(r"\(images/gallery_(\w+)\.jpg\)\n\n\*Source: .+ Licence: .+\*\n", page)
    assert sorted(shown) == sorted(gallery.KINDS)
