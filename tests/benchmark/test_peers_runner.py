"""The runner of the peers over several folders of data sets, and over several runs."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
from smooth_images import smooth_image
from test_peers import Nearest, Small, runner

from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import Picture, write_image


@pytest.fixture
def roots(tmp_path: Path) -> list[Path]:
    image = Picture(smooth_image(0)[:12, :16])
    write_image(tmp_path / "sets/B/one.png", image)
    write_image(tmp_path / "other/D/LQx4/x.png", image)
    write_image(tmp_path / "other/D/GT/x.png", Picture(smooth_image(0)))
    return [tmp_path / "sets", tmp_path / "other"]


def test_several_inputs_and_earlier_entries(roots: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Processes of their own are another test's matter.
    monkeypatch.setattr(runner, "run_all", functools.partial(runner.run_all, run=runner.run_peer))
    output = tmp_path / "out"
    places = ["--input", *map(str, roots), "--output", str(output), "--cache", str(tmp_path), "--subfolder", "LQx4"]
    arguments = [*places, "--repeats", "0", "--threads", "1"]
    assert runner.main([*arguments, "--datasets", "D"], kinds=[Nearest]) == 0
    assert runner.main([*arguments, "--datasets", "B"], kinds=[Nearest]) == 0
    assert runner.main([*arguments, "--datasets", "B"], kinds=[Small]) == 1
    entries = json.loads((output / "peers.json").read_text(encoding="utf-8"))["entries"]
    assert [(e["peer"], e["dataset"]) for e in entries] == [("nearest", "D"), ("nearest", "B"), ("small", "B")]
    assert all(entry["date"] and entry["machine"] for entry in entries)
    assert (output / "nearest/D/x.png").is_file()
    assert runner.main([*arguments, "--datasets", "E"], kinds=[Nearest]) == 2


def test_data_sets_of_all_folders(roots: list[Path]) -> None:
    assert set(runner.find_all_datasets(roots, [], "LQx4")) == {"B", "D"}
    assert [path.parent.name for path in runner.find_all_datasets(roots, ["D"], "LQx4")["D"]] == ["LQx4"]
    with pytest.raises(AMDRestoreError, match="no data set E"):
        runner.find_all_datasets(roots, ["B", "E"], "LQx4")
