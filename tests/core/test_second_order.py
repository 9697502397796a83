"""The second-order degradation, against slow references written from the paper and against OpenCV."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from amd_restore.data.degradations import BicubicDegradation, SecondOrderDegradation, build_degradation
from amd_restore.data.second_order.jpeg import jpeg
from amd_restore.data.second_order.kernels import build_kernels
from amd_restore.data.second_order.operations import (
    add_gaussian,
    add_poisson,
    blur,
    filter_by_fourier,
    filter_directly,
    photons,
    resize,
)
from amd_restore.data.second_order.parameters import FAMILIES, Draws, ImageParameters, KernelParameters, OrderParameters
from amd_restore.errors import AMDRestoreError
from amd_restore.options.blocks import DegradationOptions


def degradation(scale: int = 4, seed: int = 0) -> SecondOrderDegradation:
    made = build_degradation({"type": "second_order"}, scale)
    assert isinstance(made, SecondOrderDegradation)
    made.reseed(seed)
    return made


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """RGB uint8 with smooth colours and some texture."""
    generator = np.random.default_rng(seed)
    coarse = generator.random((height // 8 + 1, width // 8 + 1, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    texture = generator.normal(0, 0.04, (height, width, 1))
    return (np.clip(smooth + texture, 0, 1) * 255).round().astype(np.uint8)


def tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) of any kind -> (1, 3, H, W); bytes become [0, 1]."""
    values = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))[None])
    return values.float() / 255 if image.dtype == np.uint8 else values


def array(image: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Of two images in [0, 1]."""
    return float(-10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2) + 1e-12))


# ---- references ---------------------------------------------------------------------------------------------------


def bessel_j1(z: float) -> float:
    """By its integral, (1 / pi) int_0^pi cos(t - z sin t) dt; the trapezoid rule is exact for periodic functions."""
    t = (np.arange(2000) + 0.5) * math.pi / 2000
    return float(np.mean(np.cos(t - z * np.sin(t))))


def reference_kernel(p: KernelParameters) -> np.ndarray:
    """Pixel by pixel from the paper's formulas."""
    rotation = np.array([[math.cos(p.angle), -math.sin(p.angle)], [math.sin(p.angle), math.cos(p.angle)]])
    inverse = np.linalg.inv(rotation @ np.diag([p.sigma_x**2, p.sigma_y**2]) @ rotation.T)
    kernel = np.zeros((2 * p.radius + 1,) * 2)
    for row in range(-p.radius, p.radius + 1):
        for column in range(-p.radius, p.radius + 1):
            place = np.array([column, row], dtype=float)
            power = float(place @ inverse @ place) ** p.beta
            if p.family == "sinc":
                far = math.hypot(row, column)
                limit = p.cutoff**2 / (4 * math.pi)
                value = p.cutoff / (2 * math.pi * far) * bessel_j1(p.cutoff * far) if far else limit
            elif p.family.startswith("plateau"):
                value = 1 / (1 + power)
            else:
                value = math.exp(-power / 2)
            kernel[row + p.radius, column + p.radius] = value
    return kernel / kernel.sum()


def reference_resize(image: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    height, width = size
    if mode != "area":
        return cv2.resize(image, (width, height), interpolation={"bilinear": 1, "bicubic": 2}[mode])
    result = np.zeros((height, width, 3), np.float32)
    for i in range(height):
        rows = slice(i * image.shape[0] // height, math.ceil((i + 1) * image.shape[0] / height))
        for j in range(width):
            columns = slice(j * image.shape[1] // width, math.ceil((j + 1) * image.shape[1] / width))
            result[i, j] = image[rows, columns].mean(axis=(0, 1))
    return result


def reference_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """A real file: RGB in [0, 1] -> RGB float32."""
    data = (np.clip(image, 0, 1)[:, :, ::-1] * 255).round().astype(np.uint8)
    ok, file = cv2.imencode(".jpg", data, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok
    decoded = cv2.imdecode(file, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(decoded[:, :, ::-1], dtype=np.float32) / 255


def reference_round(image: np.ndarray, p: OrderParameters, base: tuple[int, int]) -> np.ndarray:
    if p.blur is not None:
        image = cv2.filter2D(image, -1, reference_kernel(p.blur))
    image = reference_resize(image, (int(base[0] * p.resize), int(base[1] * p.resize)), p.mode)
    return image if p.jpeg is None else reference_jpeg(image, p.jpeg)


def reference(gt: np.ndarray, p: ImageParameters, scale: int) -> np.ndarray:
    """The whole degradation but for noise."""
    target = (gt.shape[0] // scale, gt.shape[1] // scale)
    image = reference_round(gt, p.first, (gt.shape[0], gt.shape[1]))
    image = reference_round(image, replace(p.second, jpeg=None) if p.jpeg_last else p.second, target)
    image = reference_resize(image, target, p.mode)
    if p.sinc is not None:
        image = cv2.filter2D(image, -1, reference_kernel(p.sinc))
    if p.jpeg_last and p.second.jpeg is not None:
        image = reference_jpeg(image, p.second.jpeg)
    return (np.clip(image, 0, 1) * 255).round() / 255


# ---- stages -------------------------------------------------------------------------------------------------------

KERNELS = [
    KernelParameters("iso", 3, 0.2, 0.2),
    KernelParameters("iso", 10, 2.5, 2.5),
    KernelParameters("aniso", 7, 0.4, 2.9, angle=0.7),
    KernelParameters("generalized_iso", 5, 1.2, 1.2, beta=3.5),
    KernelParameters("generalized_aniso", 10, 3.0, 0.6, angle=-2.0, beta=0.5),
    KernelParameters("plateau_iso", 4, 1.5, 1.5, beta=1.8),
    KernelParameters("plateau_aniso", 6, 0.7, 2.0, angle=3.0, beta=1.0),
    KernelParameters("sinc", 3, cutoff=math.pi / 3),
    KernelParameters("sinc", 10, cutoff=math.pi / 5),
]


def test_kernels_are_the_papers_formulas() -> None:
    for p, kernel in zip(KERNELS, build_kernels(KERNELS), strict=True):
        assert kernel.shape == (2 * p.radius + 1,) * 2
        assert float(kernel.double().sum()) == pytest.approx(1, abs=1e-6)
        torch.testing.assert_close(kernel, kernel.flip(0, 1), rtol=0, atol=1e-7)  # every family is symmetric in a point
        if p.family in ("sinc", "iso", "generalized_iso", "plateau_iso"):
            torch.testing.assert_close(kernel, kernel.T, rtol=0, atol=1e-7)
            torch.testing.assert_close(kernel, kernel.flip(0), rtol=0, atol=1e-7)
        np.testing.assert_allclose(kernel.numpy(), reference_kernel(p), rtol=0, atol=1e-6)
    assert build_kernels([]) == []


def test_a_turned_kernel_is_longest_along_its_angle() -> None:
    kernel = build_kernels([KernelParameters("aniso", 8, 3.0, 0.5, angle=math.pi / 4)])[0]
    # y points down the rows: at 45 degrees the kernel follows the main diagonal.
    assert kernel[12, 12] > 100 * kernel[12, 4]


def test_blur_is_opencvs_filter() -> None:
    image = picture(40, 56).astype(np.float32) / 255
    for p in KERNELS[1:5]:
        expected = cv2.filter2D(image, -1, reference_kernel(p))
        kernel = build_kernels([p])[0]
        np.testing.assert_allclose(array(blur(tensor(image), kernel[None])), expected, rtol=0, atol=2e-5)
        skew = torch.rand(kernel.shape)  # the GPU's way agrees, whatever the symmetry
        direct, fourier = filter_directly(tensor(image), skew[None]), filter_by_fourier(tensor(image), skew[None])
        torch.testing.assert_close(direct, fourier, rtol=1e-5, atol=1e-4)


def test_blur_of_images_smaller_than_the_kernel() -> None:
    small = picture(16, 16)[:5, :12].astype(np.float32) / 255
    kernel = build_kernels([KERNELS[1]])[0]
    rows = [abs((i + 800) % 8 - 8 * ((i + 800) % 8 > 4)) for i in range(-10, 15)]
    columns = [abs((i + 2200) % 22 - 22 * ((i + 2200) % 22 > 11)) for i in range(-10, 22)]
    padded = small[rows][:, columns]
    expected = np.array([[(padded[i : i + 21, j : j + 21] * kernel.numpy()[..., None]).sum((0, 1)) for j in range(12)]
                         for i in range(5)])  # fmt: skip
    np.testing.assert_allclose(array(blur(tensor(small), kernel[None])), expected, rtol=0, atol=1e-5)
    assert blur(torch.full((1, 3, 1, 1), 0.5), kernel[None]).flatten().tolist() == pytest.approx([0.5] * 3)


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
def test_resize_is_opencvs(mode: str) -> None:
    image = picture(40, 56).astype(np.float32) / 255
    for size in ((17, 25), (40, 56), (57, 61), (3, 4)):
        expected = reference_resize(image, size, mode)
        np.testing.assert_allclose(array(resize(tensor(image), size, mode)), expected, rtol=0, atol=2e-5)
    half = cv2.resize(image, (28, 20), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(array(resize(tensor(image), (20, 28), "area")), half, rtol=0, atol=1e-6)


def test_gaussian_noise_has_its_deviation() -> None:
    image = torch.full((1, 3, 128, 128), 0.5)
    noise = add_gaussian(image, 20.0, False, torch.Generator().manual_seed(0)) - image
    assert float(noise.std()) == pytest.approx(20 / 255, rel=0.02)
    assert abs(float(noise.mean())) < 5 * 20 / 255 / math.sqrt(noise.numel())
    assert abs(float((noise[:, 0] * noise[:, 1]).mean())) < 0.05 * (20 / 255) ** 2
    same = add_gaussian(image, 20.0, True, torch.Generator().manual_seed(0)) - image
    assert torch.equal(same[:, 0], same[:, 1]) and torch.equal(same[:, 0], same[:, 2])
    assert float(same.std()) == pytest.approx(20 / 255, rel=0.04)


def test_poisson_noise_grows_with_brightness() -> None:
    levels = np.repeat(np.arange(60, 196, dtype=np.uint8)[None], 400, axis=0)  # 136 levels: 256 events are white
    image = tensor(np.repeat(levels[..., None], 3, axis=2))
    assert float(photons(image)) == 2 ** math.ceil(math.log2(len(np.unique(levels)))) == 256
    noise = add_poisson(image, 0.5, False, torch.Generator().manual_seed(0)) - image
    variance = noise.square().mean(dim=(0, 1, 2))
    expected = 0.25 * image[0, 0, 0] / 256
    assert float((variance / expected).mean()) == pytest.approx(1, abs=0.02)
    assert float(variance[100:].mean() / variance[:36].mean()) == pytest.approx(
        float(expected[100:].mean() / expected[:36].mean()), rel=0.08
    )
    same = add_poisson(image, 0.5, True, torch.Generator().manual_seed(0)) - image
    torch.testing.assert_close(same[:, 0], same[:, 2])
    assert float((same.square().mean(dim=(0, 1, 2)) / expected).mean()) == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("size", [(64, 96), (51, 77)])
def test_jpeg_is_that_of_real_files(size: tuple[int, int]) -> None:
    image = picture(*size).astype(np.float32) / 255
    qualities = (10, 30, 49, 50, 75, 95, 100)
    ours = jpeg(tensor(image).repeat(len(qualities), 1, 1, 1), qualities)
    for number, quality in enumerate(qualities):
        real = reference_jpeg(image, quality)
        agreement = psnr(array(ours[number : number + 1]), real)
        # What is left are coefficients near the middle between two levels, which fixed point sends elsewhere.
        assert agreement > 43 and agreement > psnr(image, real) + 5, (quality, agreement, psnr(image, real))
    torch.testing.assert_close(ours * 255, (ours * 255).round(), rtol=0, atol=1e-4)


# ---- the whole ----------------------------------------------------------------------------------------------------


def test_without_noise_the_whole_is_the_reference() -> None:
    module, agreements = degradation(seed=5), []
    for number, p in enumerate(module.draw(8)):
        p = replace(p, first=replace(p.first, noise=None), second=replace(p.second, noise=None))
        plain = replace(p, first=replace(p.first, jpeg=None), second=replace(p.second, jpeg=None))
        gt = picture(96, 128, number)
        for q in (p, plain):
            expected = reference(gt.astype(np.float32) / 255, q, 4)
            agreements.append(psnr(array(module.apply_parameters(tensor(gt), [q])), expected))
    # With JPEG, coefficients that fall to different sides of a rounding add up over two rounds.
    assert min(agreements[0::2]) > 33 and np.median(agreements[0::2]) > 38, agreements
    assert min(agreements[1::2]) > 60, agreements


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_shape_range_and_bytes(scale: int) -> None:
    lq = degradation(scale)(torch.rand(3, 3, 32, 48))
    assert lq.shape == (3, 3, 32 // scale, 48 // scale) and lq.dtype == torch.float32
    assert float(lq.min()) >= 0 and float(lq.max()) <= 1
    torch.testing.assert_close(lq * 255, (lq * 255).round(), rtol=0, atol=1e-4)


def test_the_generators_state_is_all_there_is() -> None:
    gt = tensor(picture(48, 48)).repeat(2, 1, 1, 1)
    module = degradation(seed=3)
    first = module(gt)
    state = module.generator.get_state()
    torch.manual_seed(0)
    second = module(gt)
    torch.rand(7)  # the global generators do not matter
    np.random.random(3)
    other = degradation(seed=9)
    other.generator.set_state(state)
    assert torch.equal(other(gt), second)
    other.reseed(3)
    assert torch.equal(other(gt), first) and torch.equal(other(gt), second)
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])
    before = torch.get_rng_state()
    module(gt)
    assert torch.equal(before, torch.get_rng_state())


def test_images_of_a_batch_do_not_mix() -> None:
    module = degradation(seed=1)
    gt = torch.cat([tensor(picture(48, 48, seed)) for seed in range(6)])
    parameters = module.draw(6)
    together = module.apply_parameters(gt, parameters)
    for number, p in enumerate(parameters):
        alone = module.apply_parameters(gt[number : number + 1], [p])
        # Not bit for bit: a matrix product may round otherwise for another number of rows.
        assert float((alone[0] == together[number]).float().mean()) > 0.99


def share(count: int, of: int, expected: float) -> None:
    assert abs(count / of - expected) <= 4.5 * math.sqrt(expected * (1 - expected) / of), (count / of, expected)


def test_parameters_have_the_published_distribution() -> None:
    drawn = degradation().draw(3000)
    n = len(drawn)
    share(sum(p.sinc is not None for p in drawn), n, 0.8)
    share(sum(p.jpeg_last for p in drawn), n, 0.5)
    for order, blur_prob, top_sigma, (up, down), (small, great), gauss, poisson in (
        ("first", 1.0, 3.0, (0.2, 0.7), (0.15, 1.5), 30, 3.0),
        ("second", 0.8, 1.5, (0.3, 0.4), (0.3, 1.2), 25, 2.5),
    ):
        orders: list[OrderParameters] = [getattr(p, order) for p in drawn]
        kernels = [o.blur for o in orders if o.blur is not None]
        share(len(kernels), n, blur_prob)
        families = Counter(k.family for k in kernels)
        for family, weight in zip(FAMILIES, (0.45, 0.25, 0.12, 0.03, 0.12, 0.03), strict=True):
            share(families[family], len(kernels), 0.9 * weight)
        share(families["sinc"], len(kernels), 0.1)
        assert {k.radius for k in kernels} == set(range(3, 11))
        smooth = [k for k in kernels if k.family != "sinc"]
        sigmas = [s for k in smooth for s in (k.sigma_x, k.sigma_y)]
        assert 0.2 <= min(sigmas) < 0.22 and top_sigma - 0.02 < max(sigmas) <= top_sigma
        assert np.mean([k.sigma_x for k in smooth]) == pytest.approx((0.2 + top_sigma) / 2, rel=0.05)
        assert all((k.sigma_x != k.sigma_y) == k.family.endswith("aniso") for k in smooth)
        betas = [k.beta for k in kernels if k.family.startswith("generalized")]
        share(sum(beta < 1 for beta in betas), len(betas), 0.5)
        assert min(betas) >= 0.5 and 3 < max(betas) <= 4
        betas = [k.beta for k in kernels if k.family.startswith("plateau")]
        share(sum(beta == 1 for beta in betas), len(betas), 0.5)
        assert max(betas) <= 2
        cutoffs = [(k.radius, k.cutoff) for k in kernels if k.family == "sinc"]
        assert all(math.pi / (3 if radius < 6 else 5) <= cutoff <= math.pi for radius, cutoff in cutoffs)
        factors = [o.resize for o in orders]
        share(sum(f > 1 for f in factors), n, up)
        share(sum(f < 1 for f in factors), n, down)
        assert small <= min(factors) < small + 0.02 and great - 0.02 < max(factors) <= great
        share(Counter(o.mode for o in orders)["area"], n, 1 / 3)
        noises = [o.noise for o in orders if o.noise is not None]
        share(sum(noise.kind == "gaussian" for noise in noises), n, 0.5)
        share(sum(noise.gray for noise in noises), n, 0.4)
        assert len({noise.seed for noise in noises}) == n
        for kind, low, high in (("gaussian", 1.0, gauss), ("poisson", 0.05, poisson)):
            strengths = [noise.strength for noise in noises if noise.kind == kind]
            assert low <= min(strengths) and max(strengths) <= high
            assert np.mean(strengths) == pytest.approx((low + high) / 2, rel=0.05)
        qualities = [o.jpeg for o in orders if o.jpeg is not None]
        assert len(qualities) == n and set(qualities) == set(range(30, 96))


def test_clean_share_and_first_round_can_be_chosen() -> None:
    options = DegradationOptions(type="second_order", clean_prob=0.25, first_prob=0.6)
    module = SecondOrderDegradation(4, options)
    module.reseed(0)
    drawn, published = module.draw(2000), degradation().draw(2000)
    share(sum(p.clean for p in drawn), 2000, 0.25)
    share(sum(p.skip_first for p in drawn), 2000, 0.4)
    # What was there before keeps its numbers: old test sets and runs stay as they were.
    assert [replace(p, clean=False, skip_first=False) for p in drawn] == published
    gt = torch.cat([tensor(picture(96, 96, seed)) for seed in range(3)])
    parameters = [replace(published[0], clean=True), replace(published[1], skip_first=True), published[1]]
    lq = module.apply_parameters(gt[[0, 1, 1]], parameters)
    assert torch.equal(lq[:1], BicubicDegradation(4)(gt[:1]))
    identity = replace(published[1].first, blur=None, resize=1.0, noise=None, jpeg=None)
    assert torch.equal(lq[1:2], module.apply_parameters(gt[1:2], [replace(published[1], first=identity)]))
    assert not torch.equal(lq[1], lq[2])
    with pytest.raises(AMDRestoreError, match="clean_prob: only type second_order has it"):
        build_degradation({"type": "bicubic", "clean_prob": 0.1}, 4)


def test_draws_never_take_what_has_no_weight() -> None:
    almost_one = 1 - 2**-53
    assert Draws([0.0]).choice("abc", [0, 1, 0]) == "b"
    assert Draws([almost_one]).choice("abc", [0.1, 0.7, 0]) == "b"
    assert Draws([almost_one]).integer((30, 95)) == 95


def test_double_precision_is_the_same_degradation() -> None:
    degradation = SecondOrderDegradation(4)
    coarse = torch.rand(3, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    clean = torch.nn.functional.interpolate(coarse, size=(48, 64), mode="bicubic").clamp(0, 1)
    degradation.reseed(1)
    # Noise of another precision is other noise; in JPEG a rounding moves a whole block.
    off: dict[str, Any] = {"noise": None, "jpeg": None}
    parameters = [
        replace(p, first=replace(p.first, **off), second=replace(p.second, **off)) for p in degradation.draw(3)
    ]
    single = degradation.apply_parameters(clean, parameters)
    double = degradation.apply_parameters(clean.double(), parameters)
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    assert (single - double).abs().mean() < 0.01 / 255
    assert (jpeg(clean, 50) - jpeg(clean.double(), 50)).abs().mean() < 1 / 255
