"""The light round of the second-order degradation."""

from __future__ import annotations

import pytest
import torch

from amd_restore.data.base import to_8bit
from amd_restore.data.degradations import SecondOrderDegradation
from amd_restore.data.second_order.jpeg import jpeg
from amd_restore.options.blocks import DegradationOptions


def test_light_rounds_are_as_of_pictures_from_the_web() -> None:
    options = DegradationOptions(type="second_order", clean_prob=0.2, light_prob=0.5)
    degradation = SecondOrderDegradation(4, options)
    degradation.reseed(3)
    parameters = degradation.draw(4000)
    light = [p for p in parameters if p.light]
    assert len(light) / len(parameters) == pytest.approx(0.4, abs=0.03)
    assert all(p.skip_first and p.jpeg_last and p.sinc is None and p.second.jpeg is not None for p in light)
    assert sum(p.second.blur is None for p in light) / len(light) == pytest.approx(0.6, abs=0.04)
    assert sum(p.second.noise is None for p in light) / len(light) == pytest.approx(0.5, abs=0.04)
    gaussian = [p.second.noise.strength for p in light if p.second.noise and p.second.noise.kind == "gaussian"]
    assert 3.0 < max(gaussian) < 25.0 / 4
    # What is neither clean nor light is as without the option.
    degradation.options = DegradationOptions(type="second_order", clean_prob=0.2)
    degradation.reseed(3)
    for p, other in zip(parameters, degradation.draw(4000), strict=True):
        assert p.light or p == other


def test_a_light_round_without_blur_and_noise_is_scaling_and_jpeg() -> None:
    degradation = SecondOrderDegradation(4, DegradationOptions(type="second_order", light_prob=1.0))
    degradation.reseed(0)
    plain = [p for p in degradation.draw(64) if p.second.blur is None and p.second.noise is None and p.mode == "area"]
    gt = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = jpeg(torch.nn.functional.avg_pool2d(gt, 4), [plain[0].second.jpeg or 0])
    torch.testing.assert_close(degradation.apply_parameters(gt, plain[:1]), to_8bit(expected))
