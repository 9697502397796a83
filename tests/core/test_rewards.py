"""Rewards: signs, shapes, no gradient, known values, and what happens without weights or packages."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from reward_setup import blurred
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from amd_restore.errors import AMDRestoreError
from amd_restore.registry import import_basicsr
from amd_restore.rewards import (
    ConsistencyReward,
    LPIPSReward,
    NIQEReward,
    PSNRReward,
    PyIQAReward,
    RewardSum,
    build_lpips,
    build_rewards,
)
from amd_restore.rewards.lpips_net import backbone_file
from amd_restore.rewards.niqe import _distances as niqe_distances
from amd_restore.rewards.niqe import load_pristine, niqe


def read(path: Path) -> Tensor:
    """RGB (1, 3, H, W) in [0, 1]."""
    image = cv2.imread(str(path))
    assert image is not None, path
    return torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)[None].float() / 255.0


@pytest.fixture(scope="module")
def photo(assets: Path) -> Tensor:
    """192 x 192 pixels of a photograph."""
    return read(assets / "benchmarks/Set14/GTmod4/img_001.png")[:, :, 100:292, 100:292]


@pytest.fixture(scope="module")
def squeeze(assets: Path) -> LPIPSReward:
    return LPIPSReward("squeeze")


# ---- LPIPS ----------------------------------------------------------------------------------------------------


def test_lpips_alex_of_bicubic_on_set14(assets: Path) -> None:
    """0.441: measured on these files by another program, with OpenCV's bicubic (a = -0.75), RGB, whole images."""
    distance = build_lpips("alex")
    values = []
    for gt_path in sorted((assets / "benchmarks/Set14/GTmod4").iterdir()):
        gt, lq = read(gt_path), read(assets / "benchmarks/Set14/LRbicx4" / gt_path.name)
        sr = F.interpolate(lq, scale_factor=4.0, mode="bicubic").clamp(0, 1)
        with torch.no_grad():
            values.append(distance((sr * 255).round() / 255, gt).item())
    assert len(values) == 14
    assert np.mean(values) == pytest.approx(0.441, abs=0.0006)


def test_lpips_layers_are_torchvisions_alexnet(assets: Path, photo: Tensor) -> None:
    """The slices hold the right weights in the right places: compared with the network written out."""
    from safetensors.torch import load_file

    weights = load_file(assets / "weights/alexnet_features.safetensors")

    def conv(x: Tensor, index: int, stride: int, padding: int) -> Tensor:
        name = f"features.{index}"
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride, padding).relu()

    x1 = conv(photo, 0, 4, 2)
    x2 = conv(F.max_pool2d(x1, 3, 2), 3, 1, 2)
    x3 = conv(F.max_pool2d(x2, 3, 2), 6, 1, 1)
    x4 = conv(x3, 8, 1, 1)
    x5 = conv(x4, 10, 1, 1)
    for theirs, ours in zip(build_lpips("alex").metric.net(photo), (x1, x2, x3, x4, x5), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)


def test_lpips_reward_falls_with_blur_and_noise(squeeze: LPIPSReward, photo: Tensor) -> None:
    torch.manual_seed(0)
    noise = torch.randn_like(photo)
    for worse in (
        [blurred(photo, n) for n in (0, 1, 3, 9)],
        [photo + s * noise for s in (0.0, 0.02, 0.08, 0.2)],
    ):
        values = squeeze(torch.cat(worse), gt=photo.expand(4, -1, -1, -1))
        assert values.shape == (4,)
        assert values[0].item() == pytest.approx(0.0, abs=1e-6) and (values.diff() < 0).all()


def test_lpips_loss_has_gradients_to_sr_only(assets: Path, photo: Tensor) -> None:
    distance = build_lpips("squeeze").train()  # training mode must not wake lpips' dropout
    sr = blurred(photo, 2).requires_grad_()
    value = distance(sr, photo)
    assert torch.equal(value, distance(sr, photo))
    value.sum().backward()
    assert sr.grad is not None and sr.grad.abs().max() > 0
    assert all(not p.requires_grad for p in distance.parameters())


def test_building_lpips_leaves_random_numbers_alone(assets: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_lpips("squeeze")
    assert torch.equal(torch.rand(3), expected)


def test_missing_lpips_weights_are_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AMD_RESTORE_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(AMDRestoreError) as caught:
        LPIPSReward("alex")
    for part in ("alexnet_features.safetensors", str(tmp_path / "hub"), "AMD_RESTORE_ASSETS", "torchvision"):
        assert part in str(caught.value)
    with pytest.raises(AMDRestoreError, match="alexx"):
        backbone_file("alexx")


def test_torchvisions_own_checkpoint_is_found(
    assets: Path, photo: Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    expected = build_lpips("alex")(blurred(photo, 1), photo)
    cached = tmp_path / "hub/checkpoints/alexnet-owt-7be5be79.pth"
    cached.parent.mkdir(parents=True)
    state = load_file(assets / "weights/alexnet_features.safetensors")
    torch.save({**state, "classifier.1.weight": torch.zeros(2)}, cached)
    monkeypatch.setenv("AMD_RESTORE_ASSETS", str(tmp_path / "nothing"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    assert torch.equal(build_lpips("alex")(blurred(photo, 1), photo), expected)


def test_wrong_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "weights").mkdir()
    save_file({"features.1.weight": torch.zeros(1)}, tmp_path / "weights/alexnet_features.safetensors")
    monkeypatch.setenv("AMD_RESTORE_ASSETS", str(tmp_path))
    with pytest.raises(AMDRestoreError, match=r"features\.0\."):
        build_lpips("alex")


def test_lpips_refuses_tiny_images(squeeze: LPIPSReward) -> None:
    with pytest.raises(AMDRestoreError, match="32 pixels"):
        squeeze(torch.zeros(1, 3, 40, 20), gt=torch.zeros(1, 3, 40, 20))


# ---- fidelity ---------------------------------------------------------------------------------------------------


def test_psnr_reward() -> None:
    gt = torch.full((2, 3, 8, 8), 0.5)
    sr = torch.stack([gt[0] + 0.1, gt[1]])
    values = PSNRReward()(sr, gt=gt)
    torch.testing.assert_close(values, torch.tensor([20.0, 100.0]), rtol=1e-4, atol=1e-3)
    assert torch.equal(PSNRReward()(gt + 9.0, gt=torch.ones_like(gt)), torch.full((2,), 100.0))  # clamped to 1


def test_consistency_sees_the_input_and_not_the_detail(photo: Tensor) -> None:
    lq = F.interpolate(photo, scale_factor=0.25, mode="bicubic", antialias=True).clamp(0, 1)
    checkerboard = torch.ones(192, 192)
    checkerboard[::2, ::2] = checkerboard[1::2, 1::2] = -1.0
    reward = ConsistencyReward()
    detail = reward((photo * 0.8 + 0.1) + 0.05 * checkerboard, lq=lq * 0.8 + 0.1)
    shifted = reward((photo * 0.8 + 0.1) + 0.05, lq=lq * 0.8 + 0.1)
    assert detail.item() > 45.0 and shifted.item() == pytest.approx(26.0, abs=0.2)


def test_missing_reference_is_an_error() -> None:
    with pytest.raises(ValueError, match="'psnr' needs gt"):
        PSNRReward()(torch.zeros(1, 3, 8, 8))


# ---- NIQE ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Set14/GTmod4/img_001.png", "Set14/GTmod4/img_006.png", "Set5/GTmod4/img_005.png"])
def test_niqe_is_basicsrs(assets: Path, name: str) -> None:
    import_basicsr()
    from basicsr.metrics.niqe import calculate_niqe

    image = read(assets / "benchmarks" / name)
    expected = calculate_niqe(np.round(image[0].permute(1, 2, 0).numpy()[:, :, ::-1] * 255), crop_border=0)
    assert niqe(image, load_pristine(), stride=96).item() == pytest.approx(expected, abs=1e-3)


def test_niqe_reward_dislikes_blur_and_noise(photo: Tensor) -> None:
    torch.manual_seed(0)
    images = torch.cat([photo, blurred(photo, 6), photo + 0.2 * torch.randn_like(photo)])
    values = NIQEReward()(images)
    assert values.shape == (3,) and (values < 0).all()
    assert values[0] > values[1] and values[0] > values[2]


def test_niqe_of_a_batch_is_that_of_its_images(photo: Tensor) -> None:
    crops = torch.cat([photo[:, :, :128, :128], photo[:, :, 64:, 64:]])
    reward = NIQEReward()
    torch.testing.assert_close(reward(crops), torch.cat([reward(crops[:1]), reward(crops[1:])]))


class Operators(TorchDispatchMode):
    """Counts what a device would start, and refuses what waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        assert name not in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"), f"{name} waits"
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_niqe_of_many_images_costs_no_more_operators_and_never_waits(photo: Tensor) -> None:
    crops, pristine, counts = photo[:, :, :128, :128], load_pristine(), []
    for copies in (1, 5):
        with Operators() as operators:
            niqe(crops.expand(copies, -1, -1, -1), pristine, stride=32)
        counts.append(operators.count)
    assert counts[0] == counts[1]


def test_niqe_leaves_out_blocks_without_contrast() -> None:
    """Images of a batch keep different numbers of blocks; one that keeps a single block has no covariance."""
    pristine = load_pristine()
    mean, cov = pristine.mean.numpy(), pristine.cov.numpy()
    features = np.random.default_rng(0).multivariate_normal(mean, cov, (4, 6)) + 0.1
    features[1, 2:4, 5] = features[2, 1:, 35] = features[3, :, 0] = np.nan
    expected = []
    for image in features[:3]:
        whole = image[~np.isnan(image).any(axis=1)]
        own = np.cov(whole.T) if len(whole) > 1 else cov
        difference = mean - np.nanmean(image, axis=0)
        expected.append(np.sqrt(difference @ np.linalg.inv((cov + own) / 2) @ difference))
    found = niqe_distances(torch.from_numpy(features), pristine)
    np.testing.assert_allclose(found, [*expected, 100.0], rtol=1e-6)


def test_niqe_needs_its_blocks() -> None:
    with pytest.raises(AMDRestoreError, match="96x96"):
        NIQEReward()(torch.rand(1, 3, 95, 200))
    with pytest.raises(AMDRestoreError, match="two blocks"):
        NIQEReward(stride=96)(torch.rand(1, 3, 128, 128))
    with pytest.raises(AMDRestoreError, match="stride"):
        NIQEReward(stride=31)


def test_niqe_of_a_constant_image_is_the_worst() -> None:
    assert NIQEReward()(torch.full((1, 3, 128, 128), 0.5)).item() == -100.0


# ---- pyiqa --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("pyiqa") is not None, reason="pyiqa is installed")
def test_pyiqa_absent_names_the_extra() -> None:
    with pytest.raises(AMDRestoreError, match=r'pip install "\.\[iqa\]"'):
        PyIQAReward("musiq")


@pytest.mark.parametrize(("lower_better", "sign"), [(True, -1.0), (False, 1.0)])
def test_pyiqa_sign_comes_from_its_metadata(monkeypatch: pytest.MonkeyPatch, lower_better: bool, sign: float) -> None:
    class Metric:
        metric_mode = "NR"

        score_range = "~0, ~1"

        def __init__(self, as_loss: bool) -> None:
            self.lower_better, self.as_loss = lower_better, as_loss
            assert as_loss is False

        def requires_grad_(self, on: bool) -> Metric:
            assert not on
            return self

        def __call__(self, image: Tensor) -> Tensor:
            return image.mean(dim=(1, 2, 3))[:, None]

    module = types.ModuleType("pyiqa")
    module.list_models = lambda: ["stub"]  # type: ignore[attr-defined]
    module.create_metric = lambda name, as_loss, **options: Metric(as_loss)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    reward = PyIQAReward("stub")
    assert reward.mode == "no_reference" and reward.range == (0.0, 1.0)
    torch.testing.assert_close(reward(torch.full((2, 3, 4, 4), 0.25)), torch.full((2,), sign * 0.25))
    with pytest.raises(AMDRestoreError, match="'other'"):
        PyIQAReward("other")


# ---- the sum ------------------------------------------------------------------------------------------------------


def test_sum_is_weighted_and_has_no_gradient(photo: Tensor) -> None:
    rewards = build_rewards(
        [{"type": "LPIPSReward", "net": "squeeze", "weight": 10.0}, {"type": "PSNRReward", "weight": 0.5}]
    )
    sr = torch.cat([blurred(photo, 1), blurred(photo, 4)]).requires_grad_()
    total, values = rewards(sr, gt=photo.expand(2, -1, -1, -1))
    assert rewards.names == ["lpips_squeeze", "psnr"] == list(values)
    assert total.shape == (2,) and not total.requires_grad
    torch.testing.assert_close(total, 10.0 * values["lpips_squeeze"] + 0.5 * values["psnr"])


def test_standardised_rewards_have_comparable_spread() -> None:
    class Scaled(PSNRReward):
        def __init__(self, name: str, scale: float) -> None:
            super().__init__()
            self.name, self.scale = name, scale

        def measure(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
            return self.scale * sr.mean(dim=(1, 2, 3))

    rewards = RewardSum([Scaled("small", 1e-2), Scaled("large", 1e3)], standardize=True)
    torch.manual_seed(0)
    for _ in range(20):
        # Four conditions far apart: only the spread within a condition may count.
        base = torch.arange(4).repeat_interleave(4) * 0.2 + 0.05
        images = (base + 0.01 * torch.randn(16)).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2)
        rewards(images, group_size=4)
    spread = 0.01  # variances of groups are unbiased
    assert rewards.std[0].item() == pytest.approx(1e-2 * spread, rel=0.2)
    assert rewards.std[1].item() == pytest.approx(1e3 * spread, rel=0.2)
    assert 1.5 < rewards.std_total.item() < 2.5  # the two rewards agree: 1 + 1

    state = rewards.state_dict()
    assert set(state) == {"std", "std_total", "difference_scale", "updates", "differences"}
    restored = RewardSum([Scaled("small", 1e-2), Scaled("large", 1e3)], standardize=True)
    restored.load_state_dict(state)
    rewards.eval(), restored.eval()
    before = rewards.std.clone()
    assert torch.equal(rewards(images)[0], restored(images)[0])
    assert torch.equal(rewards.std, before)  # evaluation does not move the statistics


def test_reward_option_errors() -> None:
    with pytest.raises(AMDRestoreError, match="did you mean 'PSNRReward'"):
        build_rewards([{"type": "PSNRRewards"}])
    with pytest.raises(AMDRestoreError, match="did you mean 'weight'"):
        build_rewards([{"type": "PSNRReward", "wieght": 1.0}])
    with pytest.raises(AMDRestoreError, match="'type'"):
        build_rewards([{"weight": 1.0}])
    with pytest.raises(AMDRestoreError, match="no reward"):
        build_rewards([])
    with pytest.raises(AMDRestoreError, match="two rewards"):
        build_rewards([{"type": "PSNRReward"}, {"type": "PSNRReward"}])


def test_a_reward_that_is_not_finite_is_named() -> None:
    with pytest.raises(AMDRestoreError, match="'psnr' is not finite"):
        RewardSum([PSNRReward()])(torch.full((1, 3, 4, 4), float("nan")), gt=torch.zeros(1, 3, 4, 4))
