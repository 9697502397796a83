"""The character error rates of text in restored images, without a network: another reader, results made here."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from places import REPOSITORY

from amd_restore.errors import AMDRestoreError

sys.path.insert(0, str(REPOSITORY / "benchmarks" / "scripts"))
legibility: Any = importlib.import_module("legibility")


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(legibility, "LINES", 3)
    assert legibility.main(["make", "--out", str(tmp_path / "sets")]) == 0
    return tmp_path / "sets"


def test_lines_are_drawn_and_degraded(sets: Path) -> None:
    rows = legibility.read_tsv(sets / "texts.tsv", ("name", "text"))
    assert [row["name"] for row in rows] == ["line_00", "line_01", "line_02"]
    assert len({row["text"] for row in rows}) == 3 and all(any(map(str.isdigit, row["text"])) for row in rows)
    for row in rows:
        gt = legibility.read_image(sets / f"GT/{row['name']}.png")
        assert int(gt.max()) - int(gt.min()) > 60
        for severity in legibility.SEVERITIES:
            lq = legibility.read_image(sets / severity / f"{row['name']}.png")
            assert [4 * side for side in lq.shape[:2]] == list(gt.shape[:2])


@pytest.mark.parametrize(("a", "b", "expected"), [("", "abc", 3), ("kitten", "sitting", 3), ("ab", "ab", 0)])
def test_edit_distance(a: str, b: str, expected: int) -> None:
    assert legibility.edit_distance(a, b) == legibility.edit_distance(b, a) == expected


def test_repeated_columns_are_one_letter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    columns = np.array([0, 1, 1, 0, 1, 3, 2, 2])  # blank, a, a, blank, a, space, b, b
    shapes = []

    def run(names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        shapes.append((feed["x"].shape, float(feed["x"].min()), float(feed["x"].max())))
        return [np.eye(4)[columns][None]]

    metadata = SimpleNamespace(custom_metadata_map={"character": "a\nb"})
    session = SimpleNamespace(get_modelmeta=lambda: metadata, run=run)
    runtime = SimpleNamespace(InferenceSession=lambda *_, **__: session)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    monkeypatch.setattr(legibility, "unpack", lambda package, cache: cache)
    image = np.zeros((24, 60, 3), np.uint8)
    image[:, 30:] = 255
    assert legibility.Reader(tmp_path)(image) == "aab"
    ((shape, low, high),) = shapes
    assert shape == (1, 3, 48, 120) and low < -0.9 and high > 0.9


def test_rates_of_peers_and_inputs(sets: Path, tmp_path: Path) -> None:
    texts = [row["text"].replace(" ", "") for row in legibility.read_tsv(sets / "texts.tsv")]
    letters = sum(map(len, texts))
    truths = {legibility.read_image(sets / f"GT/line_{n:02}.png").tobytes(): text for n, text in enumerate(texts)}

    def reader(image: np.ndarray) -> str:
        """The text of what is pixel by pixel the truth, without its first letter; nothing of all else."""
        return truths.get(image.tobytes(), " ")[1:]

    peers = tmp_path / "peers"
    for severity in legibility.SEVERITIES:
        for path in (sets / "GT").iterdir():
            legibility.write_png(peers / "same" / severity / path.name, legibility.read_image(path))
    (peers / "absent/clean").mkdir(parents=True)
    (peers / "absent/clean/absent.txt").write_text("gone", encoding="utf-8")
    first, _, *rows = legibility.read(sets, peers, [], reader).splitlines()
    assert first == "| method | clean | web | phone | heavy |"
    one = f"{3 / letters:.3f}"
    assert rows == [
        f"| ground truth |{f' {one} |' * 4}",
        "| input, not restored | 1.000 | 1.000 | 1.000 | 1.000 |",
        f"| same |{f' {one} |' * 4}",
    ]
    (peers / "same/web/line_01.png").unlink()
    with pytest.raises(AMDRestoreError, match="make it anew"):
        legibility.read(sets, peers, [], reader)
