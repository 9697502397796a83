"""Controls that work through the sampler, on the tiny student and on the released one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from places import REPOSITORY
from test_postprocess import picture
from tiny_model import save_tiny, tiny_header, tiny_state
from torch import Tensor

from amd_restore.diffusion import Draw, field_noise, restore_latent
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import read_image
from amd_restore.inference.fidelity import tempered
from amd_restore.inference.tta import medoid, orient, orient_latent, restore_oriented, unorient
from amd_restore.pipeline import RestorationPipeline
from amd_restore.postprocess import SampleStatistics, downscale, expected_error
from amd_restore.weights import (
    Header,
    build_denoiser,
    build_header_codec,
    build_network,
    load_checkpoint,
    resolve_weights,
)


class Restorer:
    """Weights, with the noise in the caller's hands."""

    def __init__(self, header: Header, state: dict[str, Tensor], steps: int = 1) -> None:
        self.header, self.steps = header, steps
        self.codec = build_header_codec(header)
        self.denoiser = build_denoiser(header, build_network(header, state))

    def draw(self, lq: Tensor, seed: int) -> Draw:
        _, channels, height, width = self.codec.latent_shape(lq)
        return lambda step: field_noise(seed, channels, 0, 0, height, width, step)

    @torch.no_grad()
    def __call__(self, lq: Tensor, draw: Draw) -> Tensor:
        x0 = restore_latent(self.denoiser, self.codec, lq, draw, self.header.recipe(self.steps))
        return self.codec.decode(x0, lq).clamp(0, 1)


@pytest.fixture(scope="module")
def tiny() -> Restorer:
    return Restorer(tiny_header(), tiny_state())


@pytest.fixture(scope="module")
def released() -> Restorer:
    return Restorer(*load_checkpoint(resolve_weights("x4-classical")))


@pytest.fixture(scope="module")
def photographs() -> list[tuple[Tensor, Tensor]]:
    """(lq, truth) of two of the repository's photographs, a quarter of the size being the input."""
    pairs = []
    folder = REPOSITORY / "lowres"
    for name in ("kingfisher", "great_wall"):
        pixels = torch.from_numpy(read_image(folder / f"{name}.png").pixels.copy())
        truth = pixels.permute(2, 0, 1)[None, :, 16:112, 32:160].float() / 255
        pairs.append(((downscale(truth, 4).clamp(0, 1) * 255).round() / 255, truth))
    return pairs


# Orientations


def test_orientations_are_eight_and_undone() -> None:
    image = torch.arange(24.0).view(1, 1, 4, 6)
    turned = [orient(image, k) for k in range(8)]
    assert len({tuple(one.flatten().tolist()) for one in turned}) == 8
    for k, one in enumerate(turned):
        assert torch.equal(unorient(one, k), image)


def test_latents_turn_as_their_pixels_do() -> None:
    image = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    latent = torch.nn.functional.pixel_unshuffle(image, 4)
    for k in range(8):
        assert torch.equal(torch.nn.functional.pixel_shuffle(orient_latent(latent, k, 4), 4), orient(image, k))


def test_orientations_of_an_equivariant_restorer_are_one_sample() -> None:
    """The noise turns with the picture: what draws detail pixel by pixel gives the same detail eight times."""
    lq = picture(6, 8)
    noise = torch.randn(1, 48, 6, 8, generator=torch.Generator().manual_seed(0))
    calls = []

    def draw(step: int) -> Tensor:
        calls.append(step)
        return noise

    def restore(window: Tensor, draw: Draw) -> Tensor:
        detail = torch.nn.functional.pixel_shuffle(draw(0), 4)
        return window.repeat_interleave(4, 2).repeat_interleave(4, 3) + 0.1 * detail

    expected = restore(lq, lambda _: noise)
    for mode in ("mean", "medoid"):
        torch.testing.assert_close(restore_oriented(restore, lq, draw, 4, mode), expected)
    assert calls == [0, 0]  # drawn once for each call, not once for each orientation
    with pytest.raises(AMDRestoreError, match="tta must be one of mean, medoid"):
        restore_oriented(restore, lq, draw, 4, "median")


def test_mean_of_orientations_turns_with_the_picture(tiny: Restorer) -> None:
    """Of a network that is not equivariant the mean over the group is."""
    lq = picture(10, 14)
    draw = tiny.draw(lq, 0)
    straight = restore_oriented(tiny, lq, draw, 4)
    assert straight.shape == (1, 3, 40, 56)
    for k in (1, 6):
        turned = restore_oriented(tiny, orient(lq, k), lambda step, k=k: orient_latent(draw(step), k, 4), 4)  # type: ignore[misc]
        torch.testing.assert_close(unorient(turned, k), straight, atol=1e-5, rtol=0)
        alone = unorient(tiny(orient(lq, k), lambda step, k=k: orient_latent(draw(step), k, 4)), k)  # type: ignore[misc]
        assert (alone - straight).abs().max() > 1e-3


def test_medoid_picks_the_most_central_of_each_image() -> None:
    levels = torch.tensor([[0.0, 1.0], [0.1, 0.5], [0.9, 0.45], [0.2, 0.4], [0.15, 0.44]])  # 5 samples of 2 images
    samples = levels[:, :, None, None, None].expand(5, 2, 3, 5, 5)
    chosen = medoid(samples)
    assert chosen.shape == (2, 3, 5, 5)
    assert [float(one.mean()) for one in chosen] == pytest.approx([0.15, 0.45])


# Fidelity

X2 = {"type": "residual", "scale": 2, "patch": 4, "std": 0.07}
X2_NETWORK = {"type": "FlatDenoiser", "num_feat": 8, "num_block": 1, "in_channels": 48, "cond_channels": 12}


def psnr(sr: Tensor, truth: Tensor) -> float:
    return float(-10 * torch.log10((sr - truth).square().mean()))


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("name", ["x4-classical", "x4-classical-tiny"])
def test_fidelity_trades_detail_for_faithfulness(
    name: str, steps: int, photographs: list[tuple[Tensor, Tensor]]
) -> None:
    student = RestorationPipeline.from_pretrained(name, "cpu", "float32")
    for lq, truth in photographs:
        outputs = [student(lq, num_steps=steps, fidelity=f) for f in (0.0, 0.25, 0.5, 0.75, 1.0)]
        figures = [psnr(sr, truth) for sr in outputs]
        # Near the mean both curves are flat, and may turn, because two networks are averaged.
        assert figures[:3] == sorted(figures[:3])
        assert figures[-1] > figures[0] + 0.1
        rough = [float(sr.diff(dim=3).abs().mean()) for sr in outputs]
        assert rough[:4] == sorted(rough[:4], reverse=True)
        assert rough[-1] < rough[0] and rough[-1] < 1.01 * rough[-2]


def test_full_fidelity_is_the_named_mean(photographs: list[tuple[Tensor, Tensor]]) -> None:
    student = RestorationPipeline.from_pretrained("x4-classical", "cpu", "float32")
    teacher = RestorationPipeline.from_pretrained("x4-classical-teacher", "cpu", "float32")
    lq, _ = photographs[0]
    mean = teacher(lq, num_steps=1, fidelity=1.0)
    assert torch.equal(student(lq, fidelity=1.0, num_steps=4), mean)
    half, sample = student(lq, fidelity=0.5, seed=3), student(lq, seed=3)
    inside = (sample > 0) & (sample < 1) & (mean > 0) & (mean < 1)  # elsewhere they were clamped before the mixing
    assert inside.float().mean() > 0.9
    assert torch.allclose(half[inside], ((sample + mean) / 2)[inside], atol=1e-5)


def test_mixed_tiles_agree_with_the_whole() -> None:
    student = RestorationPipeline.from_pretrained("x4-classical-tiny", "cpu", "float32")  # sees less far than its mean
    lq = torch.rand(1, 3, 150, 60)
    reach = student.mean.reach(1)
    assert reach is not None and reach > (student.reach(1) or 0)
    whole = student(lq, fidelity=0.5, tile=0)
    assert torch.allclose(student(lq, fidelity=0.5, tile=48, halo=reach), whole, atol=1e-5)


def test_without_a_mean_fidelity_lowers_the_noise(tmp_path: Path) -> None:
    plain = RestorationPipeline.from_pretrained(save_tiny(tmp_path / "tiny.safetensors"), "cpu", "float32")
    lq = torch.rand(1, 3, 16, 16)
    faithful = plain(lq, fidelity=1.0, seed=1)
    assert torch.equal(plain(lq, fidelity=1.0, seed=2), faithful)  # no noise: the seed says nothing any more
    assert not torch.equal(plain(lq, fidelity=0.5, seed=1), faithful)


def test_a_mean_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "tiny.safetensors", mean="nowhere")
    with pytest.raises(AMDRestoreError, match="nowhere"):
        RestorationPipeline.from_pretrained(path, "cpu", "float32")(torch.rand(1, 3, 16, 16), fidelity=0.5)
    two = save_tiny(tmp_path / "x2.safetensors", mean="x4-classical-teacher", scale=2, codec=X2, network=X2_NETWORK)
    with pytest.raises(AMDRestoreError, match="not of scale 2"):
        RestorationPipeline.from_pretrained(two, "cpu", "float32")(torch.rand(1, 3, 16, 16), fidelity=0.5)


def test_full_fidelity_is_near_the_mean_of_samples(
    released: Restorer, photographs: list[tuple[Tensor, Tensor]]
) -> None:
    lq, _ = photographs[0]
    samples = [released(lq, released.draw(lq, seed)) for seed in range(8)]
    faithful = released(lq, tempered(released.draw(lq, 0), 1.0))
    mean = torch.stack(samples).mean(0)
    assert (faithful - mean).square().mean() < 0.25 * (samples[0] - mean).square().mean()
    again = released(lq, tempered(released.draw(lq, 99), 1.0))
    assert torch.equal(again, faithful)  # no noise: the seed says nothing any more


# Uncertainty


def test_uncertainty_predicts_the_error_of_a_sample(
    released: Restorer, photographs: list[tuple[Tensor, Tensor]]
) -> None:
    for lq, truth in photographs:
        statistics = SampleStatistics()
        for seed in range(1, 9):
            statistics.add(released(lq, released.draw(lq, seed)))
        predicted = expected_error(statistics.std, released.header.error_per_std)
        error = (released(lq, released.draw(lq, 0)) - truth).abs().mean(1, keepdim=True)
        assert correlation(predicted, error) > 0.35
        local: Callable[[Tensor], Tensor] = torch.nn.AvgPool2d(9, 1, 4, count_include_pad=False)
        assert correlation(predicted, local(error)) > 0.6
        assert 0.6 < float(error.mean() / predicted.mean()) < 1.6


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.ravel(), b.ravel()]))[0, 1])
