"""The losses that an option file can list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reward_setup import save_random_vgg

from amd_restore.errors import AMDRestoreError
from amd_restore.losses.loss import build_losses
from amd_restore.registry import LOSS_REGISTRY, register_all

LOSSES: dict[str, dict[str, Any]] = {
    "L1": {},
    "L2": {},
    "PooledL1": {},
    "CellProfile": {"patch": 4},
    "DiagonalDetail": {},
    "ChromaDetail": {},
    "LPIPS": {"net": "squeeze"},
    "DISTS": {},
    "EfficientNet": {"variant": "lite1"},
    "Reward": {"reward": {"type": "PSNRReward"}},
}


def test_every_loss_is_tested() -> None:
    register_all()
    ours = {name for name in LOSS_REGISTRY if LOSS_REGISTRY.get(name).__module__.startswith("amd_restore.")}
    assert {*LOSSES, "Adversarial"} == ours  # that one in tests/training/test_discriminator.py


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_falls_towards_the_ground_truth_and_counts_by_its_weight(
    kind: str, assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "DISTS":
        save_random_vgg(tmp_path / "weights")
        monkeypatch.setenv("AMD_RESTORE_ASSETS", str(tmp_path))
    single, double = (build_losses([{"type": kind, "weight": w, **LOSSES[kind]}])[0] for w in (1.0, 2.0))
    gt = torch.nn.functional.interpolate(torch.rand(2, 3, 16, 16), size=(96, 96), mode="bilinear")
    noise = torch.randn(gt.shape)
    near, far = ((gt + amount * noise).requires_grad_() for amount in (0.01, 0.2))
    values = []
    for loss in (single, double):
        for image in (near, far):
            values.append(loss(image, gt, gt, torch.Generator().manual_seed(0)))
    assert values[0] < values[1]
    torch.testing.assert_close(torch.stack(values[2:]), 2.0 * torch.stack(values[:2]))
    values[1].backward()
    assert far.grad is not None and far.grad.abs().sum() > 0


def test_a_random_view_is_drawn_where_the_entry_says_so(assets: Path) -> None:
    image, gt = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    for options, drawn in (({}, True), ({"random_views": False}, False)):
        (loss,) = build_losses([{"type": "LPIPS", **options}])
        generator = torch.Generator().manual_seed(0)
        before = generator.get_state()
        value = loss(image, gt, gt, generator)
        assert torch.equal(before, generator.get_state()) != drawn
        assert (float(value) != float(loss.measure(image, gt, gt))) == drawn


def test_a_loss_of_weight_zero_is_left_out() -> None:
    assert [loss.name for loss in build_losses([{"type": "L2", "weight": 0}, {"type": "L1", "weight": 0.5}])] == ["l1"]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([{"type": "L1"}, {"type": "L1", "weight": 2.0}], "losses: two of one name: l1, l1"),
        ([{"type": "Reward", "reward": {"type": "NIQEReward"}}], "reward 'niqe' is not differentiable"),
        ([{"type": "Reward", "reward": {"type": "PSNRReward", "weight": 2.0}}], "give the weight beside reward"),
        (
            [{"type": "Reward", "reward": {"type": "ConsistencyReward"}, "random_views": True}],
            "consistency compares with lq, which random_views do not move",
        ),
        ([{"type": "Reward", "reward": {"type": "PSNRRewards"}}], "unknown reward 'PSNRRewards'; did you mean"),
    ],
)
def test_what_cannot_be_is_one_line(blocks: list[dict[str, Any]], message: str, assets: Path) -> None:
    with pytest.raises(AMDRestoreError) as caught:
        build_losses(blocks)
    assert message in str(caught.value) and "\n" not in str(caught.value)
