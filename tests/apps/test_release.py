"""Exported weights become released ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_model import save_tiny

from amd_restore.apps.cli.release import main
from amd_restore.weights import build_network, load_checkpoint, read_header, save_checkpoint


def test_release_fills_the_header_and_keeps_the_weights(tmp_path: Path) -> None:
    exported = save_tiny(tmp_path / "net_g_latest.safetensors")
    arguments = ["--weights", str(exported), "--name", "x4-tiny", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--licence", "CC0-1.0", "--rewards", "l1", "lpips"]) == 0
    header = read_header(tmp_path / "out" / "x4-tiny.safetensors")
    assert header.name == "x4-tiny" and header.licence == "CC0-1.0"
    assert header.training_data == read_header(exported).training_data and header.sampler == "ode"
    assert header.rewards == ("l1", "lpips")  # the run's own is lpips
    before, after = load_checkpoint(exported)[1], load_checkpoint(tmp_path / "out" / "x4-tiny.safetensors")[1]
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", ["../x4-tiny", "a/b", "", ".."])
def test_a_name_is_no_path(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    exported = save_tiny(tmp_path / "runs" / "net_g_latest.safetensors")
    before = sorted(tmp_path.rglob("*"))
    assert main(["--weights", str(exported), "--name", name, "--out", str(tmp_path / "runs")]) == 2
    assert "must be the name of a model, no path" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_the_first_gain_enlarges_the_first_steps_detail_only(tmp_path: Path) -> None:
    exported = save_tiny(tmp_path / "net_g_latest.safetensors")
    arguments = ["--weights", str(exported), "--name", "x4-tiny", "--out", str(tmp_path)]
    assert main([*arguments, "--first_gain", "1.25"]) == 0
    plain, gained = (build_network(*load_checkpoint(file)) for file in (exported, tmp_path / "x4-tiny.safetensors"))
    x_t, cond, t = torch.randn(2, 48, 5, 6), torch.randn(2, 3, 5, 6), torch.tensor([1.0, 0.5])
    before, after = plain(x_t, t, cond), gained(x_t, t, cond)
    torch.testing.assert_close(after[0], 1.25 * before[0], rtol=1e-3, atol=1e-5)  # fp16 weights
    torch.testing.assert_close(after[1], before[1], rtol=1e-3, atol=1e-5)


def test_an_average_of_two_files_lies_between_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = save_tiny(tmp_path / "one.safetensors")
    two = save_tiny(tmp_path / "two.safetensors", rewards=("niqe",))
    header, state = load_checkpoint(two)
    save_checkpoint(two, {key: value + 0.5 for key, value in state.items()}, header)
    arguments = ["--weights", str(one), "--name", "soup", "--out", str(tmp_path), "--mix", str(two), "--share", "0.25"]
    assert main(arguments) == 0
    mean, soup = load_checkpoint(tmp_path / "soup.safetensors")
    assert mean.rewards == ("lpips", "niqe")
    for key, value in load_checkpoint(one)[1].items():
        torch.testing.assert_close(soup[key], value + 0.125, rtol=1e-2, atol=2e-3)  # fp16
    other = save_tiny(tmp_path / "other.safetensors", prediction_type="x0")
    assert main([*arguments[:-3], str(other), *arguments[-2:]]) == 2
    assert "prediction_type differs" in capsys.readouterr().err
    assert main([*arguments[:-1], "1.5"]) == 2


def test_missing_weights_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--weights", str(tmp_path / "none.safetensors"), "--name", "x", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("amd-restore release: ")
