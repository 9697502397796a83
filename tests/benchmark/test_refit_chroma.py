"""The refitted last layer: no grain in colour, and all else as it was."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from places import REPOSITORY
from reward_setup import chroma_grain
from torch import Tensor

from amd_restore.pipeline import RestorationPipeline
from amd_restore.weights import load_checkpoint, resolve_weights, save_checkpoint

sys.path.insert(0, str(REPOSITORY / "benchmarks" / "scripts"))
refit_chroma = importlib.import_module("refit_chroma")


def photograph(seed: int, height: int, width: int) -> Tensor:
    low = torch.rand(1, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(low, size=(height, width), mode="bicubic", antialias=True).clamp(0, 1)


@pytest.fixture
def grainy(tmp_path: Path) -> Path:
    """Weights of a model that draws grain in colour."""
    header, state = load_checkpoint(resolve_weights("x4-classical-tiny"))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(state["conv_out.weight"].shape, generator=generator)
    state["conv_out.weight"] += 0.5 * noise * state["conv_out.weight"].std()
    save_checkpoint(tmp_path / "grainy.safetensors", state, header)
    return tmp_path / "grainy.safetensors"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(3):
        pixels = (photograph(number, 130, 140)[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_grain_in_colour_goes_and_gray_detail_stays(
    grainy: Path,
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refit_chroma, "CROP", 128)
    out = tmp_path / "smooth.safetensors"
    command = ["--model", str(grainy), "--photographs", str(photographs), "--degradation", "bicubic", "--crops", "16"]
    assert refit_chroma.main([*command, "--out", str(out)]) == 0
    assert "levels from the target before" in capsys.readouterr().out
    lq = photograph(9, 32, 32).mean(1, keepdim=True).expand(-1, 3, -1, -1)
    old, new = (RestorationPipeline.from_pretrained(path, "cpu", "float32")(lq, seed=1) for path in (grainy, out))
    assert chroma_grain(new) < 0.6 * chroma_grain(old)
    luma = torch.tensor(refit_chroma.TO_YCC[0]).view(1, 3, 1, 1)
    assert ((new - old) * luma).sum(1).abs().mean() < 0.2 * (new - old).abs().mean()
    before, after = load_checkpoint(grainy), load_checkpoint(out)
    assert before[0] == after[0]
    changed = {key for key in before[1] if not torch.equal(before[1][key], after[1][key])}
    assert changed == {"conv_out.weight", "conv_out.bias"}


def test_smoothing_leaves_gray_and_constant_colours() -> None:
    gray = torch.rand(1, 1, 20, 24).expand(-1, 3, -1, -1)
    torch.testing.assert_close(refit_chroma.smooth_chroma(gray, 1.0), gray)
    colour = torch.rand(1, 3, 1, 1).expand(-1, -1, 20, 24)
    torch.testing.assert_close(refit_chroma.smooth_chroma(colour, 1.0), colour)
    image = torch.rand(1, 3, 20, 24)
    assert chroma_grain(refit_chroma.smooth_chroma(image, 1.0)) < 0.3 * chroma_grain(image)


def test_what_cannot_be_refitted_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out.safetensors"
    command = ["--photographs", str(tmp_path / "empty"), "--out", str(out), "--model"]
    assert refit_chroma.main([*command, "x4-classical-tiny"]) == 2
    assert "no photograph of at least 256x256 pixels" in capsys.readouterr().err
    assert refit_chroma.main([*command, "x4-classical-tiny", "--sigma", "0"]) == 2
    assert "--sigma must be positive" in capsys.readouterr().err
    assert not out.exists()
