"""Controls on made-up pictures: what they promise, and that windows with their halo agree with the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from amd_restore.benchmark.images import resize_to_height
from amd_restore.diffusion.codec import upsample
from amd_restore.errors import AMDRestoreError
from amd_restore.inference.fidelity import noise_level, tempered
from amd_restore.inference.post import Chain, PostProcess
from amd_restore.postprocess import (
    AdainFix,
    ChannelStatistics,
    Consistency,
    SampleStatistics,
    WaveletFix,
    downscale,
    expected_error,
    heat_map,
    knows_downscaling,
    lq_psnr,
    side_by_side,
)
from amd_restore.postprocess.resample import DOWN_REACH, UP_REACH


def picture(height: int, width: int, seed: int = 0, batch: int = 1) -> Tensor:
    """(batch, 3, height, width) in [0.1, 0.9]: smooth colours and some grain."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, height // 8 + 2, width // 8 + 2, generator=generator)
    smooth = F.interpolate(coarse, (height, width), mode="bilinear")
    return (smooth + 0.03 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1) * 0.8 + 0.1


# Fidelity


def test_fidelity_zero_is_the_same_noise() -> None:
    def draw(step: int) -> Tensor:
        return torch.full((1, 1, 1, 1), float(step + 1))

    assert tempered(draw, 0.0) is draw
    assert [float(tempered(draw, 0.75)(step)) for step in (0, 3)] == [0.25, 1.0]
    assert float(tempered(draw, 1.0)(5)) == 0


@pytest.mark.parametrize("fidelity", [-0.1, 1.5, float("nan")])
def test_fidelity_has_a_range(fidelity: float) -> None:
    with pytest.raises(AMDRestoreError, match="fidelity must lie between 0"):
        noise_level(fidelity)


# Scaling


@pytest.mark.parametrize(("scale", "height", "width"), [(2, 20, 26), (3, 30, 9), (4, 8, 12), (4, 48, 64)])
def test_downscaling_is_that_of_the_tables(scale: int, height: int, width: int) -> None:
    image = picture(height, width)
    bytes_ = (image * 255).round().byte()
    ours = downscale(bytes_.float() / 255, scale)[0].permute(1, 2, 0).numpy()
    assert ours.shape == (height // scale, width // scale, 3)
    theirs = resize_to_height(bytes_[0].permute(1, 2, 0).numpy(), height // scale)
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_a_picture_of_one_pixel_scales() -> None:
    lq = torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1)
    torch.testing.assert_close(downscale(upsample(lq, 4), 4), lq)
    sr = upsample(lq, 4) + 0.05
    torch.testing.assert_close(Consistency(4)(sr, lq), upsample(lq, 4), atol=1e-4, rtol=0)
    torch.testing.assert_close(WaveletFix(4)(sr, lq), upsample(lq, 4), atol=1e-6, rtol=0)


def test_scaling_looks_no_farther_than_declared() -> None:
    lq = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    lq[..., 7, 7] = 1
    touched = upsample(lq, 4)[0, 0].abs().amax(0).nonzero().flatten() // 4
    assert int(touched.min()) >= 7 - UP_REACH and int(touched.max()) <= 7 + UP_REACH
    sr = torch.zeros(1, 1, 60, 60, dtype=torch.float64)
    sr[..., 28:32, 28:32] = 1
    touched = downscale(sr, 4)[0, 0].abs().amax(0).nonzero().flatten()
    assert int(touched.min()) >= 7 - DOWN_REACH and int(touched.max()) <= 7 + DOWN_REACH


# Steps after the network


@pytest.mark.parametrize(
    "post",
    [Consistency(4, 2), WaveletFix(4, 3), WaveletFix(4), Chain([WaveletFix(4, 3), Consistency(4, 1)]), Chain([])],
    ids=["consistency", "wavelet3", "wavelet5", "chain", "nothing"],
)
def test_windows_with_halo_agree_with_the_whole(post: PostProcess) -> None:
    lq = picture(40, 40)
    sr = (upsample(lq, 4) + 0.05 * torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    whole = post(sr, lq)
    halo = post.halo
    for top, bottom, left, right in ((0, 20, 0, 20), (20, 40, 13, 27), (18, 22, 18, 22)):
        a, b, c, d = max(top - halo, 0), min(bottom + halo, 40), max(left - halo, 0), min(right + halo, 40)
        window = post(sr[:, :, 4 * a : 4 * b, 4 * c : 4 * d], lq[:, :, a:b, c:d], a, c)
        kept = window[:, :, 4 * (top - a) : 4 * (bottom - a), 4 * (left - c) : 4 * (right - c)]
        torch.testing.assert_close(kept, whole[:, :, 4 * top : 4 * bottom, 4 * left : 4 * right], atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_consistency_converges(scale: int) -> None:
    truth = picture(24 * scale, 30 * scale, batch=2)
    lq = downscale(truth, scale)
    sr = (truth + 0.05 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    figures = [lq_psnr(sr, lq, scale)] + [lq_psnr(Consistency(scale, n)(sr, lq), lq, scale) for n in (1, 2, 3, 4)]
    for before, after in zip(figures[:-1], figures[1:], strict=True):
        assert (after > before + 2).all()  # white noise is the hard case; the first round halves it
    assert (figures[-1] > figures[0] + 20).all()


def test_consistency_leaves_the_truth_alone() -> None:
    truth = picture(64, 64)
    fixed = Consistency(4)(truth, downscale(truth, 4))
    torch.testing.assert_close(fixed, truth, atol=1e-6, rtol=0)


def test_consistency_stays_in_range_where_the_input_is_saturated() -> None:
    truth = (picture(64, 64) > 0.5).float()
    lq = downscale(truth, 4).clamp(0, 1)
    fixed = Consistency(4)(upsample(lq, 4), lq)
    assert fixed.min() >= 0 and fixed.max() <= 1
    assert float(lq_psnr(fixed, lq, 4)) > float(lq_psnr(upsample(lq, 4).clamp(0, 1), lq, 4)) + 10


def test_consistency_refuses_what_makes_no_sense() -> None:
    with pytest.raises(AMDRestoreError, match="iterations must be at least 1"):
        Consistency(4, 0)
    with pytest.raises(AMDRestoreError, match="needs a model that enlarges"):
        Consistency(1)
    assert knows_downscaling("bicubic") and not knows_downscaling("second_order") and not knows_downscaling("")


# Colours

CAST = torch.tensor([0.08, -0.05, 0.02]).view(1, 3, 1, 1)


def detail(image: Tensor) -> Tensor:
    """What a small blur takes away."""
    return image - F.avg_pool2d(image, 3, 1, 1, count_include_pad=False)


def test_wavelet_removes_a_cast_and_a_stain_and_keeps_detail() -> None:
    truth = picture(128, 128)
    lq = downscale(truth, 4)
    spoilt = truth + CAST
    spoilt[:, :, :, 64:] -= 0.1
    fixed = WaveletFix(4)(spoilt, lq)
    assert (spoilt - truth).mean(dim=(2, 3)).abs().max() > 0.02
    for half in (slice(0, 32), slice(96, 128)):
        assert (fixed - truth)[..., half].mean(dim=(2, 3)).abs().max() < 0.004
    inside = slice(8, 56)
    torch.testing.assert_close(detail(fixed)[..., inside], detail(truth)[..., inside], atol=0.004, rtol=0)


def test_adain_removes_a_cast_and_restores_contrast_exactly() -> None:
    truth = picture(96, 96, batch=2)
    lq = downscale(truth, 4)
    spoilt = 0.8 * truth + CAST
    torch.testing.assert_close(AdainFix.of(spoilt, lq, 4)(spoilt, lq), truth, atol=2e-3, rtol=0)
    torch.testing.assert_close(AdainFix.of(truth, lq, 4)(truth, lq), truth, atol=1e-5, rtol=0)


def test_adain_of_a_plain_area_is_its_colour() -> None:
    lq = torch.full((1, 3, 8, 8), 0.5)
    sr = torch.full((1, 3, 32, 32), 0.4)
    torch.testing.assert_close(AdainFix.of(sr, lq, 4)(sr, lq), torch.full((1, 3, 32, 32), 0.5), atol=1e-5, rtol=0)


def test_adain_needs_the_whole_picture_first() -> None:
    with pytest.raises(AMDRestoreError, match="statistics of the whole picture first"):
        AdainFix(4)(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 2, 2))


def test_statistics_of_pieces_are_those_of_the_whole() -> None:
    image = picture(40, 56, batch=2)
    pieces = ChannelStatistics()
    for piece in image.split(7, dim=2):
        pieces.add(piece)
    whole = ChannelStatistics().add(image)
    torch.testing.assert_close(pieces.mean, whole.mean)
    torch.testing.assert_close(pieces.std, image.double().std(dim=(2, 3), unbiased=False))


# Uncertainty


def test_sample_statistics() -> None:
    samples = torch.rand(5, 2, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    statistics = SampleStatistics()
    for sample in samples:
        statistics.add(sample)
    torch.testing.assert_close(statistics.mean, samples.mean(0))
    torch.testing.assert_close(statistics.std, samples.std(0))
    with pytest.raises(AMDRestoreError, match="at least 2 samples, got 1"):
        _ = SampleStatistics().add(samples[0]).std


def test_expected_error_is_proportional_and_local() -> None:
    std = torch.zeros(1, 3, 32, 32)
    std[..., 16, 16] = 0.1
    error = expected_error(std)
    assert error.shape == (1, 1, 32, 32)
    torch.testing.assert_close(expected_error(2 * std), 2 * error)
    torch.testing.assert_close(expected_error(std, 3.0), error * 3 * math.sqrt(math.pi) / 2)
    assert int(error.argmax()) == 16 * 32 + 16 and float(error[0, 0, 0, 0]) == 0
    flat = torch.full((1, 3, 20, 20), 0.02)
    torch.testing.assert_close(expected_error(flat), expected_error(flat, smoothing=0))


def test_heat_map_rises_in_lightness_on_a_fixed_scale() -> None:
    values = torch.linspace(0, 0.3, 64).view(1, 1, 1, 64)
    colour, gray = heat_map(values, 0.2), heat_map(values, 0.2, colour=False)
    assert colour.shape == (1, 3, 1, 64) and gray.shape == (1, 1, 1, 64)
    lightness = (colour * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1).flatten()
    shown = int((values < 0.2).sum())
    assert (lightness.diff()[: shown - 1] > 0).all()
    assert (lightness[shown:] == lightness[-1]).all() and (gray.flatten()[shown:] == 1).all()
    assert colour.min() >= 0 and colour.max() <= 1
    with pytest.raises(AMDRestoreError, match="full_scale must be above 0"):
        heat_map(values, 0)


# Comparison


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(), (1,), (2,), (3,), (4,)])
@pytest.mark.parametrize("enlarge", ["nearest", "bicubic"])
def test_side_by_side_keeps_kind_and_pixels(dtype: type, shape: tuple[int, ...], enlarge: str) -> None:
    rng = np.random.default_rng(0)
    highest = 1 if dtype is np.float32 else np.iinfo(dtype).max
    lq: np.ndarray = (rng.random((5, 6, *shape)) * highest).astype(dtype)
    sr: np.ndarray = (rng.random((17, 21, *shape)) * highest).astype(dtype)  # no multiple: --outscale takes any number
    both = side_by_side(lq, sr, enlarge, separator=3)
    assert both.shape == (17, 45, *shape) and both.dtype == dtype
    np.testing.assert_array_equal(both[:, 24:], sr)
    assert (both[:, 21:24] == highest).all()
    if enlarge == "nearest":
        np.testing.assert_array_equal(both[[0, 0, 16, 16], [0, 20, 0, 20]], lq[[0, 0, 4, 4], [0, 5, 0, 5]])


def test_enlarging_for_comparison_does_not_bleed_hidden_colours() -> None:
    lq = np.zeros((8, 8, 4), np.uint8)
    lq[:, 4:] = (200, 100, 50, 255)
    enlarged = side_by_side(lq, np.zeros((32, 32, 4), np.uint8), "bicubic")[:, :32]
    seen = enlarged[enlarged[..., 3] > 8]
    np.testing.assert_allclose(seen[:, :3], np.broadcast_to([200, 100, 50], (len(seen), 3)), atol=2)


def test_side_by_side_refuses_different_kinds() -> None:
    gray, rgb = np.zeros((4, 4), np.uint8), np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(AMDRestoreError, match="differ in channels or dtype"):
        side_by_side(gray, rgb)
    with pytest.raises(AMDRestoreError, match="enlarge must be one of nearest, bicubic"):
        side_by_side(rgb, rgb, "lanczos")
