"""The reward by complexity: fidelity where the truth is flat, a perceptual distance where it is textured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from amd_restore.errors import AMDRestoreError
from amd_restore.rewards import ComplexityReward, EfficientNetReward, LPIPSReward, build_rewards, complexity
from amd_restore.rewards.maps import resize_map

NETS = ("squeeze", "lite1")


def noisy(image: Tensor, std: float, seed: int = 0) -> Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return (image + std * noise).clamp(0, 1)


def halves(side: int = 96) -> Tensor:
    """An image (1, 3, side, side) that is flat on the left, a fine strong texture on the right."""
    gt = torch.full((1, 3, side, side), 0.4)
    gt[..., side // 2 :] = stripes(side)[..., side // 2 :]
    return gt


def stripes(side: int = 96) -> Tensor:
    """Columns of .1 and .9, two pixels each."""
    return (0.1 + 0.8 * (torch.arange(side) // 2 % 2)).float().expand(1, 3, side, side).clone()


# ---- the complexity map ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.0, 0.3, 0.7, 1.0])
def test_a_flat_image_has_no_complexity(level: float) -> None:
    share = complexity(torch.full((2, 3, 40, 33), level), 2.0, 0.1)
    assert share.shape == (2, 1, 40, 33) and 0 <= share.min() and share.max() < 1e-6


def test_complexity_is_the_local_standard_deviation_up_to_one() -> None:
    # The standard deviation of white noise under a wide window is that of the noise; channels are averaged first.
    gray = 0.5 + 0.03 * torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(0)).expand(1, 3, 96, 96)
    inner = complexity(gray, 6.0, 0.1)[..., 24:-24, 24:-24]
    assert inner.mean().item() == pytest.approx(0.3, rel=0.03)
    torch.testing.assert_close(complexity(gray, 6.0, 0.2)[..., 24:-24, 24:-24], inner / 2)
    assert torch.equal(complexity(stripes(), 2.0, 0.1), torch.ones(1, 1, 96, 96))
    # It does not depend on the brightness around.
    torch.testing.assert_close(complexity(gray - 0.3, 6.0, 0.1), complexity(gray, 6.0, 0.1), atol=1e-3, rtol=1e-3)


def test_complexity_follows_the_place() -> None:
    share = complexity(halves(), 2.0, 0.1)
    assert share[..., :40].max() < 1e-3 and share[..., 52:].min() == 1.0


# ---- the reward -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS)
def test_a_flat_truth_is_judged_by_fidelity_alone(assets: Path, net: str) -> None:
    gt = torch.full((2, 3, 64, 64), 0.4)
    sr = gt.clone()
    sr[0] += 0.1
    sr[1] -= 0.02
    reward = ComplexityReward(net, fidelity_weight=3.0)
    values, field = reward.value_and_map(sr, gt=gt)
    torch.testing.assert_close(values, torch.tensor([-0.3, -0.06]))
    assert field is not None
    torch.testing.assert_close(field, values.view(2, 1, 1, 1).expand_as(field))


@pytest.mark.parametrize(("net", "alone"), [("squeeze", LPIPSReward), ("lite1", EfficientNetReward)])
def test_a_textured_truth_is_judged_by_the_perceptual_distance_alone(assets: Path, net: str, alone: type) -> None:
    gt = stripes()
    sr = noisy(gt, 0.1)
    (values, field), (expected, its_map) = (
        each.value_and_map(sr, gt=gt) for each in (ComplexityReward(net), alone(net))
    )
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(field, its_map)


@pytest.mark.parametrize("net", NETS)
def test_each_part_counts_in_its_half(assets: Path, net: str) -> None:
    """More weight of the fidelity changes the flat half only, in proportion."""
    gt = halves()
    sr = noisy(gt, 0.05)
    fields = []
    for weight in (1.0, 2.0, 4.0):
        field = ComplexityReward(net, fidelity_weight=weight).value_and_map(sr, gt=gt)[1]
        assert field is not None
        fields.append(field)
    once, twice = fields[1] - fields[0], fields[2] - fields[1]
    torch.testing.assert_close(twice, 2 * once, atol=1e-5, rtol=1e-3)
    middle = once.shape[-1] // 2
    assert once[..., : middle - 4].mean().item() == pytest.approx(-0.04, rel=0.05)  # mean of abs(N(0, .05))
    assert torch.equal(once[..., middle + 4 :], torch.zeros_like(once[..., middle + 4 :]))
    # The flat half is the error alone: no perceptual distance is left there.
    flat = resize_map((sr - gt).abs().mean(dim=1, keepdim=True), (once.shape[-2], once.shape[-1]))
    torch.testing.assert_close(fields[0][..., : middle - 4], -flat[..., : middle - 4], atol=1e-2, rtol=0.05)


@pytest.mark.parametrize("net", NETS)
def test_the_map_averages_to_the_whole_and_higher_is_better(assets: Path, net: str) -> None:
    gt = halves()
    reward = ComplexityReward(net)
    found = []
    for sr in (gt, noisy(gt, 0.02), noisy(gt, 0.1), noisy(gt, 0.3)):
        value, field = reward.value_and_map(sr, gt=gt)
        assert field is not None
        torch.testing.assert_close(field.mean(dim=(1, 2, 3)), value)
        torch.testing.assert_close(reward(sr, gt=gt), value)
        found.append(value.item())
    assert found[0] == pytest.approx(0, abs=1e-6) and found == sorted(found, reverse=True)


def test_it_can_be_a_loss(assets: Path) -> None:
    gt = halves()
    sr = noisy(gt, 0.05).requires_grad_()
    ComplexityReward("squeeze").loss(sr, gt=gt).sum().backward()
    assert sr.grad is not None and sr.grad[..., :40].abs().sum() > 0 and sr.grad[..., 56:].abs().sum() > 0


def test_names_say_what_it_is_made_of(assets: Path) -> None:
    assert [ComplexityReward(net).name for net in ("squeeze", "lite0", "lite1")] == [
        "l1+lpips_squeeze",
        "l1+effnet",
        "l1+effnet_lite1",
    ]


@pytest.mark.parametrize("key", ["fidelity_weight", "window", "full"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_values_that_make_no_sense_are_refused(assets: Path, key: str, value: float) -> None:
    with pytest.raises(AMDRestoreError, match=f"{key} must be above 0"):
        build_rewards([{"type": "ComplexityReward", key: value}])
