"""The noise field: windows agree, and it is standard normal noise."""

from __future__ import annotations

import torch

from amd_restore.diffusion import field_noise


def test_windows_agree_across_block_borders() -> None:
    whole = field_noise(3, 2, -40, -7, 100, 90)
    window = field_noise(3, 2, -3, 20, 50, 45)
    assert torch.equal(window, whole[:, :, 37:87, 27:72])
    assert torch.equal(field_noise(3, 2, 0, 0, 1, 1), whole[:, :, 40:41, 7:8])


def test_standard_normal() -> None:
    noise = field_noise(0, 4, -128, -128, 512, 512).double()
    count = noise.numel()
    # Four standard errors of each moment of a standard normal sample.
    assert abs(noise.mean()) < 4 * count**-0.5
    assert abs(noise.var() - 1) < 4 * (2 / count) ** 0.5
    assert abs((noise**3).mean()) < 4 * (15 / count) ** 0.5
    assert abs((noise**4).mean() - 3) < 4 * (96 / count) ** 0.5
    for bound, share in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
        assert abs((noise.abs() < bound).double().mean() - share) < 2e-3


def test_no_correlation_between_places_channels_or_seeds() -> None:
    noise, other = field_noise(0, 2, 0, 0, 256, 256), field_noise(1, 2, 0, 0, 256, 256)
    bound = 4 / (256 * 224 * 2) ** 0.5
    assert abs((noise * other).mean()) < bound
    assert abs((noise[:, 0] * noise[:, 1]).mean()) < bound * 2**0.5
    for distance in (1, 32):  # neighbours, and the same place of the neighbouring block
        assert abs((noise[..., distance:, :] * noise[..., :-distance, :]).mean()) < bound
        assert abs((noise[..., distance:] * noise[..., :-distance]).mean()) < bound


def test_blocks_and_seeds_differ() -> None:
    blocks = [field_noise(seed, 1, 32 * row, 32 * column, 1, 4)
              for seed in (-1, 0, 1, 2**40) for row in range(-2, 3) for column in range(-2, 3)]  # fmt: skip
    assert len({tuple(block.flatten().tolist()) for block in blocks}) == 100


def test_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    field_noise(9, 1, 0, 0, 40, 40)
    first = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(first, torch.rand(1))
