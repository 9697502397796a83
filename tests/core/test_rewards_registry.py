"""What holds for every reward. A new one needs a line in ``REWARDS``; without it, the first test fails."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from reward_setup import blurred, save_random_vgg, stub_pyiqa
from torch import Tensor
from torch.nn import functional as F

from amd_restore.errors import AMDRestoreError
from amd_restore.registry import REWARD_REGISTRY, register_all
from amd_restore.rewards import BaseReward, RewardSum, build_rewards

# registered name -> arguments
REWARDS: dict[str, dict[str, Any]] = {
    "BRISQUEReward": {},
    "ComplexityReward": {"net": "lite1"},
    "ConsistencyReward": {},
    "DISTSReward": {},
    "EfficientNetReward": {},
    "L1Reward": {},
    "LPIPSReward": {"net": "squeeze"},
    "NIQEReward": {},
    "PSNRReward": {},
    "PyIQAReward": {"metric": "stub"},
}
OWN_WEIGHTS = {"DISTSReward"}  # built on random VGG16 weights, since no test machine has the real ones


@pytest.fixture(params=sorted(REWARDS))
def reward(
    request: pytest.FixtureRequest, assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BaseReward]:
    stub_pyiqa(monkeypatch)
    if request.param in OWN_WEIGHTS:
        save_random_vgg(tmp_path / "weights")
        monkeypatch.setenv("AMD_RESTORE_ASSETS", str(tmp_path))
    yield build_rewards([{"type": request.param, **REWARDS[request.param]}]).rewards[0]


@pytest.fixture(scope="module")
def photo(assets: Path) -> Tensor:
    """96 x 96 pixels of a photograph."""
    image = cv2.imread(str(assets / "benchmarks/Set14/GTmod4/img_001.png"))
    assert image is not None
    return torch.from_numpy(image[100:196, 100:196, ::-1].copy()).permute(2, 0, 1)[None].float() / 255.0


@pytest.fixture(scope="module")
def small(photo: Tensor) -> Tensor:
    return F.interpolate(photo, scale_factor=0.25, mode="bicubic", antialias=True).clamp(0, 1)


def damaged_corner(photo: Tensor) -> Tensor:
    """The picture with strong noise and a wrong brightness in the upper left quarter."""
    worse = photo.clone()
    noise = torch.randn(photo[..., :48, :48].shape, generator=torch.Generator().manual_seed(0))
    worse[..., :48, :48] = (worse[..., :48, :48] * 0.7 + 0.15 * noise).clamp(0, 1)
    return worse


def test_every_registered_reward_is_tested_here() -> None:
    register_all()
    ours = {name for name in REWARD_REGISTRY if REWARD_REGISTRY.get(name).__module__.startswith("amd_restore.")}
    assert ours == set(REWARDS)


def test_blur_noise_and_a_wrong_brightness_cost_reward(reward: BaseReward, photo: Tensor, small: Tensor) -> None:
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    worse = [blurred(photo, 12), photo + 0.15 * noise]
    if reward.mode == "full_reference":  # the others do not know how bright it was
        worse.append(photo * 0.8)
    images = torch.cat([photo, *worse]).clamp(0, 1)
    count = len(images)
    values = reward(images, gt=photo.expand(count, -1, -1, -1), lq=small.expand(count, -1, -1, -1))
    assert values.shape == (count,) and values.dtype == torch.float32 and not values.requires_grad
    assert (values[0] > values[1:]).all(), values
    metric = values if reward.higher_is_better else -values
    low, high = reward.range
    assert low < high and ((metric >= low - 1e-5) & (metric <= high + 1e-5)).all()


def test_mode_says_what_is_needed(reward: BaseReward, photo: Tensor, small: Tensor) -> None:
    assert reward.mode in ("full_reference", "no_reference") and reward.name != BaseReward.name
    if reward.mode == "no_reference":
        assert torch.equal(reward(photo), reward(photo, gt=photo * 0.5, lq=small * 0.5))
    else:
        with pytest.raises(ValueError, match=re.escape(f"'{reward.name}' needs")):
            reward(photo)
        assert reward(photo, gt=photo, lq=small)[0] > reward(photo, gt=photo * 0.5, lq=small * 0.5)[0]


def test_a_batch_is_scored_image_by_image(reward: BaseReward, photo: Tensor, small: Tensor) -> None:
    images, gt, lq = (
        torch.cat([blurred(photo, 2), photo * 0.9]),
        photo.expand(2, -1, -1, -1),
        small.expand(2, -1, -1, -1),
    )
    alone = torch.cat([reward(images[i : i + 1], gt=photo, lq=small) for i in (0, 1)])
    torch.testing.assert_close(reward(images, gt=gt, lq=lq), alone, rtol=1e-4, atol=1e-5)


def test_one_reference_serves_a_group(reward: BaseReward, photo: Tensor, small: Tensor) -> None:
    images = torch.cat([blurred(photo, 2), photo * 0.9, photo.flip(-1), blurred(photo.flip(-1), 4)])
    gt, lq = (torch.cat([image, image.flip(-1)]) for image in (photo, small))
    repeated = {"gt": gt.repeat_interleave(2, dim=0), "lq": lq.repeat_interleave(2, dim=0)}
    torch.testing.assert_close(reward(images, gt=gt, lq=lq), reward(images, **repeated), rtol=1e-4, atol=1e-5)
    found, expected = (reward.value_and_map(images, **given)[1] for given in ({"gt": gt, "lq": lq}, repeated))
    assert (found is None) == (expected is None)
    if found is not None:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    if reward.mode == "full_reference":
        with pytest.raises(ValueError, match="3 images do not divide into groups for 2"):
            reward(images[:3], gt=gt, lq=lq)


def test_maps_average_to_the_value_and_show_where(reward: BaseReward, photo: Tensor, small: Tensor) -> None:
    images = torch.cat([damaged_corner(photo), blurred(photo, 3)])
    gt, lq = photo.expand(2, -1, -1, -1), small.expand(2, -1, -1, -1)
    values, field = reward.value_and_map(images, gt=gt, lq=lq)
    assert torch.equal(values, reward(images, gt=gt, lq=lq))
    if not reward.has_map:
        assert field is None
        return
    assert field is not None and field.shape[:2] == (2, 1) and field.dim() == 4 and not field.requires_grad
    if reward.exact_map:
        torch.testing.assert_close(field.mean(dim=(1, 2, 3)), values, rtol=1e-4, atol=1e-6)
    rows, cols = (math.ceil(side / 2) for side in field.shape[-2:])
    quarters = [
        field[0, 0, :rows, :cols],
        field[0, 0, :rows, cols:],
        field[0, 0, rows:, :cols],
        field[0, 0, rows:, cols:],
    ]
    means = [quarter.mean().item() for quarter in quarters]
    assert means[0] < min(means[1:]), means
    place = field[0, 0].argmin().item()
    assert place // field.shape[-1] < rows + 1 and place % field.shape[-1] < cols + 1


def test_losses_have_gradients_and_others_say_that_they_are_none(
    reward: BaseReward, photo: Tensor, small: Tensor
) -> None:
    sr = blurred(photo, 3).requires_grad_()
    if not reward.differentiable:
        with pytest.raises(AMDRestoreError, match=f"'{reward.name}' is not differentiable"):
            reward.loss(sr, gt=photo, lq=small)
        return
    loss = reward.loss(sr, gt=photo, lq=small)
    torch.testing.assert_close(loss.detach(), -reward(sr, gt=photo, lq=small))
    (gradient,) = torch.autograd.grad(loss.sum(), sr)
    assert gradient.shape == sr.shape and gradient.isfinite().all() and gradient.abs().max() > 0
    # A step against the gradient gains reward.
    step = 1e-3 * gradient / gradient.abs().mean()
    assert reward(sr.detach() - step.clamp(-0.01, 0.01), gt=photo, lq=small) > reward(sr, gt=photo, lq=small)


def test_too_small_images_are_one_clear_line(reward: BaseReward) -> None:
    if reward.min_size == 1:
        assert reward(torch.rand(1, 3, 8, 8), gt=torch.rand(1, 3, 8, 8), lq=torch.rand(1, 3, 2, 2)).isfinite().all()
        return
    side = reward.min_size - 1
    image = torch.rand(1, 3, side, side)
    with pytest.raises(AMDRestoreError, match=rf"{reward.min_size}.*got {side}x{side}"):
        reward(image, gt=image)


def test_it_works_in_a_sum_with_maps(reward: BaseReward, photo: Tensor, small: Tensor) -> None:
    rewards = RewardSum([reward])
    images, gt, lq = torch.cat([photo, blurred(photo, 5)]), photo.expand(2, -1, -1, -1), small.expand(2, -1, -1, -1)
    total, values = rewards(images, gt=gt, lq=lq, group_size=2, map_size=(16, 16), map_sigma=1.0)
    assert total.shape == (2, 1, 16, 16) and list(values) == [reward.name] and values[reward.name].shape == (2,)
    if not reward.has_map:
        assert torch.equal(total, values[reward.name].view(2, 1, 1, 1).expand_as(total))
