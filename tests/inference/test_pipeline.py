"""The pipeline's contract: sizes, ranges, seeds, depths, and what it must not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from places import REPOSITORY
from reward_setup import chroma_grain
from tiny_model import save_tiny, tiny_header
from torch.nn import functional as F

from amd_restore.archs.base import RestorationNetwork
from amd_restore.benchmark.images import read_rgb
from amd_restore.data.degradations import BicubicDegradation
from amd_restore.diffusion import field_noise, sample_ode
from amd_restore.errors import AMDRestoreError
from amd_restore.pipeline import RestorationPipeline
from amd_restore.precision import CPU, present_devices, resolve_device, resolve_dtype
from amd_restore.weights import build_network, load_checkpoint, released_models


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module")
def pipeline(weights: Path) -> RestorationPipeline:
    return RestorationPipeline.from_pretrained(weights, "cpu", torch.float32)


@pytest.mark.parametrize("side", range(1, 18))
def test_odd_sizes(pipeline: RestorationPipeline, side: int) -> None:
    for height, width in ((side, 18 - side), (1, side), (side, side)):
        sr = pipeline(torch.rand(1, 3, height, width))
        assert sr.shape == (1, 3, 4 * height, 4 * width)
        assert sr.dtype == torch.float32
        assert sr.min() >= 0 and sr.max() <= 1


def test_is_the_sampler_and_nothing_else(pipeline: RestorationPipeline) -> None:
    lq = torch.rand(1, 3, 12, 10)
    noise = field_noise(5, 48, 0, 0, 12, 10)
    x0 = sample_ode(pipeline.denoiser, noise, pipeline.codec.condition(lq), torch.tensor([1.0, 0.5, 0.0]))
    expected = pipeline.codec.decode(x0, lq).clamp(0, 1)
    assert torch.allclose(pipeline(lq, num_steps=2, seed=5), expected, atol=1e-6)


def test_same_seed_same_bytes_other_seed_others(pipeline: RestorationPipeline, weights: Path) -> None:
    lq = torch.rand(1, 3, 20, 20)
    first = pipeline(lq, seed=7)
    assert torch.equal(first, pipeline(lq, seed=7))
    assert torch.equal(first, RestorationPipeline.from_pretrained(weights, "cpu", torch.float32)(lq, seed=7))
    assert (first - pipeline(lq, seed=8)).abs().mean() > 1e-3


def test_steps_matter_and_default_to_the_header(pipeline: RestorationPipeline, weights: Path) -> None:
    lq = torch.rand(1, 3, 10, 10)
    assert torch.equal(pipeline(lq), pipeline(lq, num_steps=1))
    assert not torch.equal(pipeline(lq), pipeline(lq, num_steps=2))
    state = load_checkpoint(weights)[1]
    header = tiny_header(kind="teacher", default_steps=3, steps=(1, 3, 8))
    teacher = RestorationPipeline(header, build_network(header, state), "cpu", torch.float32)
    assert torch.equal(teacher(lq), pipeline(lq, num_steps=3))


def test_fresh_noise_between_steps_is_a_function_of_position(tmp_path: Path, pipeline: RestorationPipeline) -> None:
    file = save_tiny(tmp_path / "tiny.safetensors", sampler="renoise")
    student = RestorationPipeline.from_pretrained(file, "cpu", torch.float32)
    lq = torch.rand(2, 3, 40, 26)
    whole = student(lq, num_steps=3)
    torch.testing.assert_close(student(lq[1:], num_steps=3, seed=1), whole[1:], rtol=0, atol=1e-5)
    tiled = student(lq, num_steps=3, tile=12, halo=student.reach(3) or 0)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)
    assert torch.equal(student(lq, num_steps=1), pipeline(lq, num_steps=1))  # nothing comes between
    assert not torch.allclose(whole, pipeline(lq, num_steps=3), atol=1e-3)


def test_batch_items_are_independent(pipeline: RestorationPipeline) -> None:
    lq = torch.rand(3, 3, 11, 13)
    batch = pipeline(lq, seed=4)
    for i in range(3):
        assert torch.allclose(batch[i : i + 1], pipeline(lq[i : i + 1], seed=4 + i), atol=1e-6)


def test_input_is_left_alone_and_may_be_strided(pipeline: RestorationPipeline) -> None:
    lq = torch.rand(1, 3, 12, 14).half().double()
    before = lq.clone()
    sr = pipeline(lq)
    assert torch.equal(lq, before)
    turned = lq.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(pipeline(turned), sr)
    # An ordinary tensor: it may be changed, and be an input of something that learns.
    weight = torch.ones(1, requires_grad=True)
    (sr.mul_(2) * weight).sum().backward()
    assert weight.grad is not None


def test_bfloat16_stays_close(weights: Path, pipeline: RestorationPipeline) -> None:
    lq = torch.rand(1, 3, 24, 24)
    low = RestorationPipeline.from_pretrained(weights, "cpu", torch.bfloat16)(lq)
    assert low.dtype == torch.float32
    difference = (low - pipeline(lq)).abs()
    assert 0 < difference.mean() < 1e-3 and difference.max() < 1e-2


@pytest.mark.parametrize(
    ("lq", "message"),
    [
        (torch.rand(3, 8, 8), r"\(B, 3, H, W\), not \(3, 8, 8\)"),
        (torch.rand(1, 1, 8, 8), r"\(B, 3, H, W\), not \(1, 1, 8, 8\)"),
        (torch.rand(1, 3, 0, 8), r"\(B, 3, H, W\), not \(1, 3, 0, 8\)"),
        (np.zeros((3, 8, 8)), r"\(B, 3, H, W\), not \(3, 8, 8\)"),
        (np.zeros((1, 3, 8, 8), np.uint8), "divide bytes by 255"),
        ([[[[0.0]]]], "not list"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "divide bytes by 255"),
        (torch.full((1, 3, 8, 8), 128.0), "spans 128 to 128"),
        (torch.full((1, 3, 8, 8), -1.0), "spans -1 to -1"),
        (torch.full((1, 3, 8, 8), float("nan")), "spans nan to nan"),
    ],
)
def test_bad_images(pipeline: RestorationPipeline, lq: Any, message: str) -> None:
    with pytest.raises(AMDRestoreError, match=message):
        pipeline(lq)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "steps must be at least 1, got 0"),
        ({"tile": -1}, "tile must be 0"),
        ({"tile": 4, "halo": -1}, "halo must not be negative"),
    ],
)
def test_bad_options(pipeline: RestorationPipeline, options: dict[str, int], message: str) -> None:
    with pytest.raises(AMDRestoreError, match=message):
        pipeline(torch.rand(1, 3, 8, 8), **options)  # type: ignore[arg-type]


def test_answers_that_are_not_finite_are_not_images(pipeline: RestorationPipeline, weights: Path) -> None:
    header, state = load_checkpoint(weights)
    state["conv_out.bias"][0] = float("nan")
    broken = RestorationPipeline(header, build_network(header, state), "cpu", torch.float32)
    with pytest.raises(AMDRestoreError, match="not finite"):
        broken(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("text", ["CUDA out of memory. Tried to allocate 2 GiB", "can't allocate memory: you tried"])
def test_out_of_memory_says_what_helps(weights: Path, text: str) -> None:
    class Full(RestorationNetwork):
        def forward(self, *_: Any) -> torch.Tensor:
            raise RuntimeError(text)

    full = RestorationPipeline(tiny_header(), Full(), "cpu", torch.float32)
    with pytest.raises(AMDRestoreError, match="out of memory; use tiles"):
        full(torch.rand(1, 3, 8, 8))


def test_devices_and_dtypes() -> None:
    assert resolve_device("cpu") == CPU
    assert present_devices()[-1] == CPU
    for name in ("cuda:77", "gpu", "meta:x"):
        with pytest.raises(AMDRestoreError, match=f"device '{name}' is not available"):
            resolve_device(name)
    assert resolve_dtype(torch.bfloat16, CPU) == torch.bfloat16
    assert resolve_dtype("auto", CPU) in (torch.float32, torch.bfloat16)
    with pytest.raises(AMDRestoreError, match="dtype must be auto, float32 or bfloat16"):
        resolve_dtype(torch.float16, CPU)


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (9, 7, 2), (9, 7, 3), (9, 7, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_images_come_out_as_they_went_in(pipeline: RestorationPipeline, shape: tuple[int, ...], dtype: type) -> None:
    high = 1.0 if dtype is np.float32 else np.iinfo(dtype).max
    image: np.ndarray[Any, Any] = (np.random.default_rng(0).random(shape) * high).astype(dtype)
    out = pipeline.restore_image(image)
    assert out.shape == (36, 28, *shape[2:])
    assert out.dtype == dtype
    assert out.max() > high / 2


def test_colours_and_depths_agree(pipeline: RestorationPipeline) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    lq = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    expected = pipeline(lq, seed=2)[0].permute(1, 2, 0).numpy()
    out8 = pipeline.restore_image(image, seed=2)
    out16 = pipeline.restore_image(image.astype(np.uint16) * 257, seed=2)
    assert np.array_equal(out8, np.rint(expected * 255))
    assert np.abs(out16 / 65535 - expected).max() < 1e-5
    # 16 bits hold more than 8 bits repeated.
    assert len(np.unique(out16)) > 256


def test_gray_is_the_luma_of_its_restoration(pipeline: RestorationPipeline) -> None:
    image = np.random.default_rng(0).random((9, 7), np.float32)
    rgb = pipeline.restore_image(np.stack([image] * 3, axis=2))
    assert np.allclose(pipeline.restore_image(image), rgb @ np.array([0.299, 0.587, 0.114]), atol=1e-6)


def test_alpha_is_upsampled_and_hides_what_it_hides(pipeline: RestorationPipeline) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (16, 16, 4), np.uint8)
    image[..., 3] = 255
    opaque = pipeline.restore_image(image)
    assert (opaque[..., 3] == 255).all()
    assert np.array_equal(opaque[..., :3], pipeline.restore_image(image[..., :3].copy()))
    # What is stored under fully transparent pixels has no influence on the rest.
    image[:, 8:, 3] = 0
    other = image.copy()
    other[:, 8:, :3] = rng.integers(0, 256, (16, 8, 3), np.uint8)
    out = pipeline.restore_image(image)
    assert np.array_equal(out, pipeline.restore_image(other))
    alpha = F.interpolate(
        torch.from_numpy(image[..., 3] / 255.0)[None, None], scale_factor=4, mode="bicubic", antialias=True
    )
    assert np.abs(out[..., 3] - alpha[0, 0].clamp(0, 1).numpy() * 255).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 5), np.uint8), np.zeros(4, np.uint8), np.zeros((4, 4), np.int32), np.zeros((0, 4), np.uint8)],
)
def test_bad_arrays(pipeline: RestorationPipeline, image: np.ndarray[Any, Any]) -> None:
    with pytest.raises(AMDRestoreError, match="image"):
        pipeline.restore_image(image)


def test_inference_is_light(weights: Path) -> None:
    program = f"""
import sys
import amd_restore
assert "torch" not in sys.modules, "import amd_restore is not light"
amd_restore.RestorationPipeline.from_pretrained({str(weights)!r}, "cpu")
import numpy as np
amd_restore.RestorationPipeline.from_pretrained({str(weights)!r}, "cpu").restore_image(np.zeros((9, 9, 3), np.uint8))
heavy = {{"basicsr", "lpips", "pyiqa", "torchvision", "diffusers"}} & {{name.split(".")[0] for name in sys.modules}}
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY)


@pytest.mark.parametrize(
    "name",
    [
        "x1-real",
        "x2-real",
        "x4-classical",
        "x4-classical-teacher",
        "x4-classical-tiny",
        "x4-real",
        "x4-real-fast",
        "x4-real-teacher",
        "x4-web",
    ],
)
def test_released_weights(name: str) -> None:
    released = RestorationPipeline.from_pretrained(name, "cpu", torch.float32)
    assert released.header.name == name
    assert released.header.sampler == ("renoise" if released.header.kind == "student" else "ode")
    assert released_models()[name].stat().st_size < 30e6
    side = 48 * released.codec.lq_patch
    colours = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    lq = F.interpolate(colours, size=(side, side), mode="bicubic").clamp(0, 1)
    whole = released(lq)
    # A restoration is consistent with what it was made from; one that also removes noise less so.
    bound = 0.02 if released.header.degradation == "bicubic" else 0.05
    down = F.interpolate(whole, scale_factor=1 / released.scale, mode="bicubic", antialias=True)
    assert (down - lq).abs().mean() < bound
    # Trained networks look less far than they could: the default halo hides the tiles.
    assert (released(lq, tile=side // 2) - whole).abs().max() <= 1 / 255


@pytest.mark.parametrize("seed", [3, 18])
def test_the_default_halo_hides_small_tiles_of_the_default_model(seed: int) -> None:
    """Inputs for which a halo of 20 cells leaves more than a grey level."""
    released = RestorationPipeline.from_pretrained("x4-real", "cpu", torch.float32)
    colours = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    lq = F.interpolate(colours, size=(48, 48), mode="bicubic").clamp(0, 1)
    whole = released(lq, tile=0)
    assert (released(lq, tile=16) - whole).abs().max() <= 0.6 / 255
    assert (released(lq, tile=16, halo=8) - whole).abs().max() > 1 / 255  # the test can fail


@pytest.mark.parametrize("name", [name for name in released_models() if not name.endswith("teacher")])
def test_released_students_draw_no_more_grain_in_colour_than_photographs_have(name: str, assets: Path) -> None:
    student = RestorationPipeline.from_pretrained(name, "cpu", torch.float32)
    drawn, real = 0.0, 0.0
    for photograph in sorted((assets / "benchmarks" / "Kodak24" / "GT").glob("*.png"))[:24:8]:
        pixels = np.ascontiguousarray(read_rgb(photograph)[128:320, 128:320])
        gt = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        drawn += chroma_grain(student(BicubicDegradation(student.scale)(gt)))
        real += chroma_grain(gt)
    assert 0 < drawn < 1.2 * real
