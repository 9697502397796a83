"""The noise field: windows agree, and it is standard normal noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_model import tiny_header, tiny_state

from amd_restore.diffusion import field_noise
from amd_restore.inference import window
from amd_restore.pipeline import RestorationPipeline
from amd_restore.weights import build_network


def test_windows_agree_across_block_borders() -> None:
    whole = field_noise(3, 2, -40, -7, 100, 90)
    window = field_noise(3, 2, -3, 20, 50, 45)
    assert torch.equal(window, whole[:, :, 37:87, 27:72])
    assert torch.equal(field_noise(3, 2, 0, 0, 1, 1), whole[:, :, 40:41, 7:8])


def plain_field(seed: int, channels: int, top: int, left: int, height: int, width: int, step: int) -> torch.Tensor:
    """The definition of the field, cell by cell of 32 x 32: pictures of a seed never change, so neither may this."""
    rows = []
    for row in range(top // 32, (top + height - 1) // 32 + 1):
        blocks = []
        for column in range(left // 32, (left + width - 1) // 32 + 1):
            mixed = (seed + step * 0x517CC1B727220A95) * 0x9E3779B97F4A7C15
            mixed = (mixed + row * 0xBF58476D1CE4E5B9 + column * 0x94D049BB133111EB) % 2**64
            mixed = ((mixed ^ (mixed >> 31)) * 0xD6E8FEB86659FD93) % 2**64
            generator = torch.Generator().manual_seed((mixed ^ (mixed >> 32)) % 2**63)
            blocks.append(torch.randn(channels, 32, 32, generator=generator))
        rows.append(torch.cat(blocks, dim=2))
    whole = torch.cat(rows, dim=1)
    return whole[:, top % 32 :, left % 32 :][:, :height, :width]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("window", [(-40, -7, 100, 190, 0), (0, 64, 32, 32, 2), (5, 5, 1, 3, 1)])
def test_fields_never_change(window: tuple[int, ...], threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte by byte, in a batch too and with any number of threads."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    top, left, height, width, step = window
    found = field_noise((3, -1, 2**40), 5, top, left, height, width, step)
    assert found.is_contiguous(memory_format=torch.channels_last)
    for noise, seed in zip(found, (3, -1, 2**40), strict=True):
        assert torch.equal(noise, plain_field(seed, 5, *window))
    assert torch.equal(field_noise(3, 5, *window), found[:1])


def test_first_numbers_of_a_field() -> None:
    """As they were when the first weights were released; the last digit depends on the processor's logarithm."""
    expected = [
        [-1.1258398, -1.1523602, -0.2505786],
        [-1.0840825, -0.1287381, -0.6810773],
        [0.6656973, 0.8846984, 0.4671119],
    ]
    torch.testing.assert_close(field_noise(0, 3, 0, 0, 1, 3)[0, :, 0], torch.tensor(expected), rtol=0, atol=2e-6)


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


@pytest.mark.parametrize(("start", "fidelity", "draws"), [("noise", 0.0, 1), ("lq", 0.0, 1), ("noise", 1.0, 0)])
def test_a_tile_draws_its_noise_once(start: str, fidelity: float, draws: int, monkeypatch: pytest.MonkeyPatch) -> None:
    header, calls = tiny_header(start=start, start_noise=0.1), []

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append(arguments)
        return field_noise(*arguments)

    monkeypatch.setattr(window, "field_noise", counted)
    restorer = RestorationPipeline(header, build_network(header, tiny_state()), "cpu", "float32")
    restorer(torch.rand(2, 3, 16, 16), num_steps=1, fidelity=fidelity)
    assert len(calls) == draws


def test_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    field_noise(9, 1, 0, 0, 40, 40)
    first = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(first, torch.rand(1))
