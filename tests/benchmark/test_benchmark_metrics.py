"""The columns of the benchmark: each metric's protocol, and marks of what was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from smooth_images import smooth_image

from amd_restore.benchmark.images import Pair, resize_to_height, to_uint8
from amd_restore.benchmark.metrics import DEFAULT_METRICS, Measure, consistency, marks
from amd_restore.errors import AMDRestoreError
from amd_restore.rewards import BRISQUEReward, build_lpips


def test_metrics_follow_the_protocol() -> None:
    gt = smooth_image(0)
    sr = gt.copy()
    sr[4:-4, 4:-4] = np.clip(gt[4:-4, 4:-4].astype(int) + 5, 0, 255)
    sr[:4] = 0  # inside the border, hence unseen
    values = Measure(["psnr_y", "ssim_y", "niqe"], crop_border=4)(sr, Pair("x", gt, gt[::4, ::4]))
    # 5 in R, G and B is 5 * 219 / 255 in Y.
    assert values["psnr_y"] == pytest.approx(20 * np.log10(255 / (5 * 219 / 255)), abs=0.01)
    assert 0.9 < values["ssim_y"] < 1.0
    assert Measure(["psnr_y"], crop_border=4)(gt, Pair("x", gt, gt))["psnr_y"] == 100.0
    assert np.isnan(values["niqe"])  # 64 x 96 has no two blocks
    constant = np.full((210, 210, 3), 128, np.uint8)
    assert np.isnan(Measure(["niqe"], crop_border=4)(constant, Pair("x", constant, constant))["niqe"])


def test_lpips_sees_rgb_in_the_right_order(assets: Path) -> None:
    gt = smooth_image(0)
    pair = Pair("x", gt, gt[::4, ::4])
    measure = Measure(["lpips_alex"], crop_border=4)
    assert measure(gt, pair)["lpips_alex"] == pytest.approx(0.0, abs=1e-6)
    red, blue = gt.copy(), gt.copy()
    red[..., 0], blue[..., 2] = 255 - red[..., 0], 255 - blue[..., 2]
    values = [measure(image, pair)["lpips_alex"] for image in (red, blue)]
    tensors = [torch.from_numpy(i.transpose(2, 0, 1).copy())[None].float() / 127.5 - 1 for i in (red, blue, gt)]
    with torch.no_grad():
        expected = [build_lpips("alex").metric(t, tensors[2]).item() for t in tensors[:2]]
    assert values == pytest.approx(expected, rel=1e-4) and values[0] != pytest.approx(values[1], rel=0.01)


def test_consistency_is_high_for_what_was_given() -> None:
    gt = smooth_image(1)
    lq = to_uint8(resize_to_height(gt, 16))
    assert consistency(gt, lq) > 55.0
    assert consistency(np.roll(gt, 8, axis=1), lq) < 30.0


def test_brisque_and_effnet_columns(assets: Path) -> None:
    gt = smooth_image(0, 104, 136)
    pair = Pair("x", gt, gt[::4, ::4])
    noise = np.random.default_rng(0).normal(0.0, 12.0, gt.shape)
    noisy = np.clip(gt + noise, 0, 255).astype(np.uint8)
    measure = Measure(["brisque", "effnet"], crop_border=4)
    assert measure(gt, pair)["effnet"] == pytest.approx(0.0, abs=1e-6) and measure(noisy, pair)["effnet"] > 0.1
    framed = noisy.copy()
    framed[:4] = 0  # inside the border, hence unseen
    values = [measure(image, pair)["brisque"] for image in (noisy, framed)]
    assert values[0] == values[1]
    inside = torch.from_numpy(noisy[4:-4, 4:-4].copy()).permute(2, 0, 1)[None].float() / 255
    assert values[0] == pytest.approx(-BRISQUEReward()(inside).item(), rel=1e-6)
    small = gt[:36, :]
    assert np.isnan(Measure(["brisque"], crop_border=4)(small, Pair("x", small, small))["brisque"])


def test_dists_is_a_column_on_request_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AMD_RESTORE_ASSETS", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    assert "dists" not in DEFAULT_METRICS
    with pytest.raises(AMDRestoreError, match="dists_weights"):
        Measure(["dists"], crop_border=4)


def test_marks() -> None:
    features = {"lpips_alex": "‡", "lpips_squeeze": "‡", "effnet": "‡", "dists": "‡"}
    statistics = {"niqe": "‡", "brisque": "‡"}
    assert marks([]) == {}
    assert marks(["lpips-squeeze"]) == {**features, "lpips_squeeze": "†"}
    assert marks(["lpips_squeeze", "niqe"]) == {**features, "lpips_squeeze": "†", "niqe": "†", "brisque": "‡"}
    assert marks(["effnet", "brisque"]) == {**features, **statistics, "effnet": "†", "brisque": "†"}
    assert marks(["dists"]) == {**features, "dists": "†"}
    assert marks(["lpips_vgg"]) == features and marks(["niqe_matlab"]) == statistics
    assert marks(["psnr", "musiq"]) == {"psnr_y": "†"}
    assert marks(["l1"]) == marks(["l2"]) == marks(["pooled_l1"]) == {"psnr_y": "‡"}
    assert marks(["l1", "lpips_squeeze"]) == {"psnr_y": "‡", **features, "lpips_squeeze": "†"}
    assert marks(["l1+lpips_squeeze"]) == marks(["l1", "lpips_squeeze"])
    assert marks(["l1", "psnr"]) == {"psnr_y": "†"}
