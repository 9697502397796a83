"""Values halfway between two levels: decided by a rule, not by a sum's last bit, which differs between processors."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import amd_restore.data.second_order.jpeg as jpeg_module
from amd_restore.data import gt_dataset
from amd_restore.data.base import round_half_up, to_8bit
from amd_restore.data.gt_dataset import GTDataset
from amd_restore.data.second_order.operations import add_poisson, blur

TINY = 1e-12  # far above what the order of a sum in double precision changes, far below a level


def levels(height: int, width: int) -> torch.Tensor:
    """Image of 8-bit levels in double precision."""
    values = torch.randint(0, 256, (1, 3, height, width), generator=torch.Generator().manual_seed(0))
    return values.double() / 255.0


def noise(like: torch.Tensor) -> torch.Tensor:
    return TINY * torch.randn(like.shape, generator=torch.Generator().manual_seed(1), dtype=like.dtype)


def test_halves_go_up_with_rounding_errors_on_either_side() -> None:
    halves = torch.arange(0, 255, dtype=torch.float64) + 0.5
    expected = halves + 0.5
    assert torch.equal(round_half_up(halves - TINY), expected) and torch.equal(round_half_up(halves + TINY), expected)
    assert torch.equal(round_half_up(halves - 0.001), expected - 1)  # the next luma of 8-bit pixels is no tie
    assert torch.equal(round_half_up(halves.float() - 2e-5), expected.float())
    assert torch.equal(to_8bit(halves / 255.0) * 255.0, expected)


@pytest.mark.parametrize("quality", [30, 60, 75, 90])
def test_jpeg_does_not_depend_on_rounding_errors(quality: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = levels(128, 128)
    image[..., 64:] = (
        image[..., ::8, ::8].repeat_interleave(4, 2).repeat_interleave(4, 3)[..., :64, :64].repeat(1, 1, 2, 1)
    )
    expected = jpeg_module.jpeg(image, quality)
    transform, mix = jpeg_module._transform, jpeg_module._mix

    def transform_otherwise(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        matrix = transform(device, dtype)
        return matrix + noise(matrix) / 1000.0

    def mix_otherwise(values: torch.Tensor, matrix: tuple[tuple[float, ...], ...]) -> torch.Tensor:
        mixed = mix(values, matrix)
        return mixed + noise(mixed)

    monkeypatch.setattr(jpeg_module, "_transform", transform_otherwise)
    monkeypatch.setattr(jpeg_module, "_mix", mix_otherwise)
    assert torch.equal(jpeg_module.jpeg(image, quality), expected)


@pytest.mark.parametrize("is_gray", [False, True])
def test_poisson_noise_does_not_depend_on_rounding_errors(is_gray: bool) -> None:
    # Means of 8-bit pixels are often halves; one rounded otherwise shifts the random numbers of all pixels after it.
    image = levels(96, 192)
    image = (image[..., 0::2] + image[..., 1::2]) / 2
    first = add_poisson(image, 0.5, is_gray, torch.Generator().manual_seed(2))
    second = add_poisson(image + noise(image), 0.5, is_gray, torch.Generator().manual_seed(2))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-10)


def test_blur_keeps_double_precision() -> None:
    kernel = torch.rand(1, 7, 7, generator=torch.Generator().manual_seed(3))
    kernel /= kernel.sum()
    image = levels(40, 56)
    expected = torch.nn.functional.conv2d(
        torch.nn.functional.pad(image, (3,) * 4, mode="reflect"), kernel.double().expand(3, 1, 7, 7), groups=3
    )
    torch.testing.assert_close(blur(image, kernel), expected, rtol=0, atol=1e-13)


def test_inputs_made_on_the_fly_do_not_depend_on_rounding_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = np.tile(np.array([100, 101], np.uint8), 32)  # every mean over them is 100.5
    cv2.imwrite(str(tmp_path / "columns.png"), np.broadcast_to(columns[None, :, None], (64, 64, 3)))
    resize = gt_dataset.imresize
    for error in (-TINY, TINY):
        monkeypatch.setattr(gt_dataset, "imresize", lambda image, scale, e=error: resize(image, scale) + e)
        lq = GTDataset(str(tmp_path), 4)[0]["lq"]
        assert (lq[..., 4:-4] * 255.0).round().unique().tolist() == [101.0]
