"""Maps: resizing, smoothing, and the sum of rewards per location with its running standard deviations."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from reward_setup import blurred
from torch import Tensor

from amd_restore.losses.amd import group_advantage
from amd_restore.rewards import BaseReward, L1Reward, LPIPSReward, PSNRReward, RewardSum, build_lpips
from amd_restore.rewards.maps import resize_map, smooth_map, sum_layers


class Brightness(BaseReward):
    """Mean brightness, scaled; its map is that of the pixels."""

    mode, has_map = "no_reference", True

    def __init__(self, name: str = "brightness", scale: float = 1.0, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.name, self.scale = name, scale

    def measure(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        return self.measure_map(sr, gt, lq)[0]

    def measure_map(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> tuple[Tensor, Tensor]:
        field = self.scale * sr.mean(dim=1, keepdim=True)
        return field.mean(dim=(1, 2, 3)), field


class Contrast(BaseReward):
    """A reward without a map."""

    name, mode = "contrast", "no_reference"

    def measure(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        return sr.flatten(1).std(dim=1)


def images(seed: int, count: int = 8, side: int = 8) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


# ---- resizing and smoothing -----------------------------------------------------------------------------------------


def test_shrinking_keeps_the_mean_and_growing_keeps_constants() -> None:
    field = images(0, side=12)[:, :1]
    small = resize_map(field, (4, 6))
    assert small.shape == (8, 1, 4, 6)
    torch.testing.assert_close(small.mean(dim=(1, 2, 3)), field.mean(dim=(1, 2, 3)))
    torch.testing.assert_close(small[:, :, 0, 0], field[:, :, :3, :2].mean(dim=(2, 3)))
    assert torch.equal(resize_map(field, (12, 12)), field)
    constant = torch.full((1, 1, 3, 5), 0.7)
    torch.testing.assert_close(resize_map(constant, (8, 8)), torch.full((1, 1, 8, 8), 0.7))


def test_smoothing_is_a_normalised_gaussian() -> None:
    point = torch.zeros(1, 1, 21, 21)
    point[0, 0, 10, 10] = 1.0
    smooth = smooth_map(point, 1.5)
    assert smooth.sum().item() == pytest.approx(1.0, abs=1e-5)
    ratio = (smooth[0, 0, 10, 12] / smooth[0, 0, 10, 10]).item()
    assert ratio == pytest.approx(math.exp(-0.5 * (2 / 1.5) ** 2), rel=1e-4)
    constant = torch.full((2, 1, 4, 4), 0.3)  # smaller than the kernel
    torch.testing.assert_close(smooth_map(constant, 2.0), constant)
    assert smooth_map(point, 0.0) is point
    with pytest.raises(ValueError, match="-1"):
        smooth_map(point, -1.0)


def test_layers_add_up_to_their_means() -> None:
    layers = [images(1, side=side)[:, :1] for side in (15, 7, 3)]
    total, field = sum_layers(layers)
    torch.testing.assert_close(total, torch.stack([layer.mean(dim=(1, 2, 3)) for layer in layers]).sum(dim=0))
    assert field.shape == (8, 1, 15, 15)
    torch.testing.assert_close(field.mean(dim=(1, 2, 3)), total)


@pytest.mark.parametrize("net", ["squeeze", "alex"])
def test_lpips_map_comes_with_lpips_own_value(assets: Path, net: str) -> None:
    gt, sr = images(2, 2, 64), images(3, 2, 64)
    distance = build_lpips(net)
    values, field = distance.forward_map(sr, gt)
    assert torch.equal(values, distance(sr, gt))
    torch.testing.assert_close(field.mean(dim=(1, 2, 3)), values, rtol=1e-5, atol=1e-6)
    # lpips' own spatial output is the same picture, enlarged.
    distance.metric.spatial = True
    try:
        theirs = distance.metric(2 * sr - 1, 2 * gt - 1)
    finally:
        distance.metric.spatial = False
    ours = torch.nn.functional.interpolate(field, size=theirs.shape[-2:], mode="bilinear")
    assert torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1] > 0.97


# ---- the sum --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardize", [False, True])
def test_without_any_map_the_map_is_the_whole_image_case(standardize: bool) -> None:
    whole, local = (RewardSum([Contrast(weight=3.0), PSNRReward()], standardize) for _ in range(2))
    for seed in range(4):
        batch, gt = images(seed), images(seed + 50)
        total, values = whole(batch, gt=gt, group_size=4)
        field, same = local(batch, gt=gt, group_size=4, map_size=(5, 7), map_sigma=1.0)
        assert torch.equal(field, total.view(-1, 1, 1, 1).expand(8, 1, 5, 7))
        assert all(torch.equal(values[name], same[name]) for name in values)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, local.state_dict()[name]), name
    floor = 0.25 * whole.std_total
    advantage = group_advantage(total, 4, floor)
    spatial = group_advantage(field, 4, floor)
    assert torch.equal(spatial, advantage.view(-1, 1, 1, 1).expand_as(spatial))


def test_a_map_adds_to_a_constant() -> None:
    batch, gt = images(0), images(9)
    total, values = RewardSum([Brightness(weight=2.0), Contrast(weight=-1.0)])(batch, map_size=(4, 4))
    expected = 2.0 * resize_map(batch.mean(dim=1, keepdim=True), (4, 4)) - values["contrast"].view(-1, 1, 1, 1)
    torch.testing.assert_close(total, expected)
    # L1 is lower-is-better: its map is turned like its value.
    total, values = RewardSum([L1Reward(weight=0.5)])(batch, gt=gt, map_size=(8, 8))
    torch.testing.assert_close(total, -0.5 * (batch - gt).abs().mean(dim=1, keepdim=True))
    torch.testing.assert_close(total.mean(dim=(1, 2, 3)), 0.5 * values["l1"])


def test_standardised_maps_use_the_whole_image_deviation() -> None:
    plain, scaled = RewardSum([Brightness()], standardize=True), RewardSum([Brightness(scale=1000.0)], standardize=True)
    whole = RewardSum([Brightness()], standardize=True)
    for seed in range(5):
        batch = images(seed, count=64)
        a, _ = plain(batch, group_size=4, map_size=(4, 4))
        b, _ = scaled(batch, group_size=4, map_size=(4, 4))
        whole(batch, group_size=4)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain.std, whole.std)
    # Pixels differ more than their means: 4 x 4 independent places, hence four times the standard deviation.
    assert plain.std_total.item() == pytest.approx(4 * whole.std_total.item(), rel=0.25)


@pytest.mark.parametrize("map_size", [None, (4, 4)])
def test_a_comparison_is_the_difference_of_two_sums(map_size: tuple[int, int] | None) -> None:
    rewards, alone = (RewardSum([L1Reward(), PSNRReward(weight=0.1)], standardize=True) for _ in range(2))
    squares = []
    for seed in range(3):
        sr, other, gt = images(seed, 4), images(seed + 20, 4), images(seed + 40, 2)
        difference, total, values = rewards.compare(sr, other, gt=gt, map_size=map_size)
        expected, same = alone(sr, gt=gt, map_size=map_size)
        torch.testing.assert_close(total, expected)
        assert values.keys() == same.keys() and all(torch.equal(values[name], same[name]) for name in values)
        alone.eval()
        torch.testing.assert_close(difference, expected - alone(other, gt=gt, map_size=map_size)[0])
        alone.train()
        squares.append(difference.square().mean().sqrt())
    torch.testing.assert_close(rewards.std, alone.std)
    torch.testing.assert_close(rewards.std_total, alone.std_total)
    torch.testing.assert_close(rewards.difference_scale, torch.stack(squares).mean())
    rewards.eval()
    rewards.compare(sr, other, gt=gt, map_size=map_size)
    assert int(rewards.updates) == 3


def test_features_of_the_truth_are_computed_once_for_both_images(assets: Path) -> None:
    rewards = RewardSum([LPIPSReward("squeeze")])
    rows: list[int] = []
    net = build_lpips("squeeze").metric.net
    handle = net.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    rewards.compare(images(0, 4, 32), images(1, 4, 32), gt=images(2, 2, 32), map_size=(8, 8))
    handle.remove()
    assert sorted(rows) == [2, 8]


def test_state_resumes_exactly() -> None:
    straight, first = (RewardSum([Brightness(), Contrast()], standardize=True) for _ in range(2))
    for seed in range(3):
        for rewards in (straight, first):
            rewards(images(seed), group_size=4, map_size=(4, 4), map_sigma=0.8)
    resumed = RewardSum([Brightness(), Contrast()], standardize=True)
    resumed.load_state_dict(first.state_dict())
    for seed in range(3, 6):
        a, _ = straight(images(seed), group_size=4, map_size=(4, 4), map_sigma=0.8)
        b, _ = resumed(images(seed), group_size=4, map_size=(4, 4), map_sigma=0.8)
        assert torch.equal(a, b)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in straight.state_dict().items())


def test_a_map_that_is_not_finite_is_named() -> None:
    class Broken(Brightness):
        def measure_map(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> tuple[Tensor, Tensor]:
            values, field = super().measure_map(sr, gt, lq)
            return values, field / 0.0

    with pytest.raises(Exception, match="'broken' is not finite"):
        RewardSum([Broken("broken")])(images(0), map_size=(4, 4))


def test_the_better_place_gets_the_advantage(assets: Path) -> None:
    """Of two samples, one damaged on the left and one on the right: each wins where it is whole."""
    gt = blurred(images(4, 1, 64), 3)
    noise = 0.3 * torch.randn(gt.shape, generator=torch.Generator().manual_seed(1))
    left, right = gt.clone(), gt.clone()
    left[..., :32] += noise[..., :32]
    right[..., 32:] += noise[..., 32:]
    rewards = RewardSum([LPIPSReward("squeeze"), Contrast(weight=0.0)])
    total, _ = rewards(torch.cat([left, right]), gt=gt.expand(2, -1, -1, -1), map_size=(16, 16), map_sigma=1.0)
    advantage = group_advantage(total, 2)
    assert (advantage[0, 0, :, :5] < 0).all() and (advantage[0, 0, :, -5:] > 0).all()
    assert (advantage[1, 0, :, :5] > 0).all() and (advantage[1, 0, :, -5:] < 0).all()
