"""The diffusers pipeline and the spandrel descriptor restore exactly as RestorationPipeline does."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from places import REPOSITORY
from tiny_model import save_tiny, tiny_header

from amd_restore.diffusion import SAMPLERS, Denoiser, build_process, field_noise
from amd_restore.errors import AMDRestoreError
from amd_restore.integrations.diffusers_network import AMDRestoreNetwork
from amd_restore.integrations.diffusers_pipeline import AMDRestorePipeline
from amd_restore.integrations.diffusers_scheduler import AMDRestoreScheduler
from amd_restore.pipeline import RestorationPipeline
from amd_restore.weights import build_network, read_header, released_models, save_checkpoint


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    return save_tiny(path, sampler="renoise", time_shift=0.3)


@pytest.fixture(scope="module")
def pipe(weights: Path) -> Any:
    pipe = AMDRestorePipeline.from_amd_restore(weights)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def restore(pipe: Any, image: Any, **options: Any) -> torch.Tensor:
    return pipe(image, output_type="pt", **options).images


@pytest.mark.parametrize("sampler", ["ode", "renoise"])
@pytest.mark.parametrize(("num_steps", "size"), [(1, (12, 10)), (3, (9, 5)), (None, (1, 17))])
def test_same_seed_same_pixels(tmp_path: Path, sampler: str, num_steps: int | None, size: tuple[int, int]) -> None:
    weights = save_tiny(tmp_path / "tiny.safetensors", sampler=sampler, time_shift=0.3)
    lq = torch.rand(2, 3, *size)
    expected = RestorationPipeline.from_pretrained(weights, "cpu", "float32")(lq, num_steps=num_steps, seed=4, tile=0)
    pipe = AMDRestorePipeline.from_amd_restore(weights)
    assert torch.allclose(restore(pipe, lq, num_inference_steps=num_steps, seed=4), expected, atol=1e-5)


@pytest.mark.parametrize("codec", ["residual", "pixel"])
def test_a_student_that_starts_from_lq(tmp_path: Path, codec: str) -> None:
    network = {"type": "FlatDenoiser", "num_feat": 8, "num_block": 1, "cond_channels": 48 if codec == "pixel" else 3}
    options = {"type": codec, "scale": 4, "patch": 4, "std": 0.1}
    start = {"start": "lq", "start_noise": 0.3, "sampler": "renoise"}
    weights = save_tiny(tmp_path / "tiny.safetensors", network=network, codec=options, **start)
    lq = torch.rand(1, 3, 9, 9)
    expected = RestorationPipeline.from_pretrained(weights, "cpu", "float32")(lq, num_steps=2, seed=4)
    pipe = AMDRestorePipeline.from_amd_restore(weights)
    assert torch.allclose(restore(pipe, lq, num_inference_steps=2, seed=4), expected, atol=1e-5)


def test_coarse_latents_and_another_process(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "scale": 2,
        "codec": {"type": "residual", "scale": 2, "patch": 4, "std": 0.07},
        "network": {"type": "FlatDenoiser", "num_feat": 8, "num_block": 1, "in_channels": 48, "cond_channels": 12},
        "process": {"type": "flow_matching", "shift": 1.5},
        "prediction_type": "flow",
    }
    weights = save_tiny(tmp_path / "tiny.safetensors", **changes)
    lq = torch.rand(1, 3, 11, 13)
    expected = RestorationPipeline.from_pretrained(weights, "cpu", "float32")(lq, num_steps=2, seed=1, tile=0)
    result = restore(AMDRestorePipeline.from_amd_restore(weights), lq, num_inference_steps=2, seed=1)
    assert torch.allclose(result, expected, atol=1e-5)


def test_round_trip_through_a_folder_and_back_to_one_file(pipe: Any, tmp_path: Path) -> None:
    lq = torch.rand(1, 3, 10, 8)
    expected = restore(pipe, lq, num_inference_steps=2, seed=3)
    pipe.save_pretrained(tmp_path / "folder")
    loaded = AMDRestorePipeline.from_pretrained(tmp_path / "folder")
    state = pipe.network.state_dict()
    assert state.keys() == loaded.network.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.network.state_dict().items())
    # Not to the last bit: kernels depend on where the weights lie in memory.
    assert torch.allclose(restore(loaded, lq, num_inference_steps=2, seed=3), expected, atol=1e-5)
    assert loaded.network.header == pipe.network.header

    loaded.to_amd_restore(tmp_path / "back.safetensors", torch.float32)
    back = RestorationPipeline.from_pretrained(tmp_path / "back.safetensors", "cpu", "float32")
    assert torch.allclose(back(lq, num_steps=2, seed=3, tile=0), expected, atol=1e-5)
    assert back.header == pipe.network.header

    loaded.to(torch.bfloat16)
    assert loaded.network.dtype == torch.bfloat16
    assert 0 < (restore(loaded, lq, num_inference_steps=2, seed=3) - expected).abs().max() < 0.02


def test_a_changed_scheduler_is_kept(pipe: Any, tmp_path: Path) -> None:
    other = AMDRestorePipeline(pipe.network, AMDRestoreScheduler.from_config(pipe.scheduler.config, time_shift=0.8))
    other.to_amd_restore(tmp_path / "other.safetensors")
    header = read_header(tmp_path / "other.safetensors")
    assert (header.time_shift, header.sampler) == (0.8, "renoise")


def test_a_network_of_diffusers_blocks(tmp_path: Path) -> None:
    header = tiny_header(network={"type": "CondUNet", "channels": [8, 16], "layers_per_block": 1})
    net = build_network(header)
    torch.nn.init.normal_(net.unet.conv_out.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    save_checkpoint(tmp_path / "unet.safetensors", net.state_dict(), header)
    pipe = AMDRestorePipeline.from_amd_restore(tmp_path / "unet.safetensors")
    lq = torch.rand(1, 3, 9, 9)
    expected = RestorationPipeline.from_pretrained(tmp_path / "unet.safetensors", "cpu", "float32")(lq, seed=2, tile=0)
    pipe.save_pretrained(tmp_path / "folder")
    loaded = AMDRestorePipeline.from_pretrained(tmp_path / "folder")
    assert torch.allclose(restore(loaded, lq, seed=2), expected, atol=1e-5)
    with pytest.raises(AMDRestoreError, match="depends on the whole image"):
        pipe.enable_tiling()


def test_inputs_and_outputs(pipe: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    expected = restore(pipe, tensor, seed=0)
    assert expected.shape == (1, 3, 36, 48)
    picture = Image.fromarray(pixels)
    for image in (picture, [picture], pixels, pixels[None], pixels.astype(np.float64) / 255, [pixels], tensor[None]):
        assert torch.allclose(restore(pipe, image, seed=0), expected, atol=1e-6)
    both = restore(pipe, [picture, pixels], seed=0)
    assert torch.allclose(both[1:], restore(pipe, picture, seed=1), atol=1e-6)

    array = pipe(tensor, seed=0, output_type="np").images
    assert np.array_equal(array, expected.permute(0, 2, 3, 1).numpy())
    (images,) = pipe(tensor, seed=0, return_dict=False)
    assert images[0].size == (48, 36)
    assert np.abs(np.asarray(images[0]) / 255.0 - array[0]).max() <= 0.5 / 255 + 1e-6
    latent = pipe(picture, seed=0, output_type="latent").images
    decoded = pipe.codec.decode(latent, tensor[None]).clamp(0, 1)
    assert torch.allclose(decoded, expected, atol=1e-6)

    gray = Image.fromarray(pixels[..., 0])
    stacked = np.repeat(pixels[..., :1], 3, axis=2)
    expected = restore(pipe, stacked, seed=0)
    for image in (gray, pixels[..., 0], pixels[..., :1]):
        assert torch.allclose(restore(pipe, image, seed=0), expected, atol=1e-6)


def test_generators(pipe: Any) -> None:
    def seeded(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    lq = torch.rand(1, 3, 8, 8)
    pair, options = lq.expand(2, -1, -1, -1), {"num_inference_steps": 2}
    generator = seeded(1)
    first = restore(pipe, lq, generator=generator, **options)
    assert torch.equal(first, restore(pipe, lq, generator=seeded(1), **options))
    assert (first - restore(pipe, lq, generator=generator, **options)).abs().mean() > 1e-3  # its state moved on
    listed = restore(pipe, pair, generator=[seeded(1), seeded(2)], **options)
    assert torch.allclose(listed[:1], first, atol=1e-6)
    assert torch.allclose(listed[1:], restore(pipe, lq, generator=seeded(2), **options), atol=1e-6)
    torch.manual_seed(1)
    assert torch.equal(first, restore(pipe, lq, **options))

    latents = field_noise(6, 48, 0, 0, 8, 8)
    assert torch.equal(restore(pipe, lq, latents=latents), restore(pipe, lq, seed=6))


def test_callback_sees_and_replaces_latents(pipe: Any) -> None:
    seen: list[tuple[int, float]] = []

    def watch(pipe: Any, step: int, t: torch.Tensor, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        assert tensors["latents"].shape == (1, 48, 8, 8)
        seen.append((step, float(t)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 2 else {}

    lq = torch.rand(1, 3, 8, 8)
    result = restore(pipe, lq, num_inference_steps=3, seed=0, callback_on_step_end=watch)
    assert seen == [(i, float(t)) for i, t in enumerate(pipe.scheduler.timesteps)]
    assert torch.allclose(result, pipe.codec.upsample(lq).clamp(0, 1), atol=1e-6)  # a zero latent is no residual


def test_progress_bar_counts_steps(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    AMDRestorePipeline.from_amd_restore(weights)(torch.rand(1, 3, 8, 8), num_inference_steps=3, seed=0)
    assert "3/3" in capsys.readouterr().err


def test_tiling_is_exact(weights: Path) -> None:
    pipe: Any = AMDRestorePipeline.from_amd_restore(weights)
    lq = torch.rand(1, 3, 21, 17)
    expected = restore(pipe, lq, num_inference_steps=2, seed=0)
    sizes: list[torch.Size] = []
    hook = pipe.network.net.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape))
    pipe.enable_tiling(7)
    assert torch.allclose(restore(pipe, lq, num_inference_steps=2, seed=0), expected, atol=1e-5)
    assert len(sizes) == 2 * 3 * 3
    assert max(size[2] for size in sizes) == 7 + 2 * pipe.network.net.radius
    pipe.disable_tiling()
    restore(pipe, lq, seed=0)
    assert sizes[-1] == (1, 48, 21, 17)
    hook.remove()


LQ = torch.full((1, 3, 8, 8), 0.5)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (LQ * 255, {}, "must lie in"),
        (LQ * float("nan"), {}, "must lie in"),
        (LQ[:, :1], {}, "floating tensor of shape"),
        (LQ.byte(), {}, "floating tensor of shape"),
        ([], {}, "empty list"),
        ("a.png", {}, "not str"),
        ([LQ, LQ[..., 1:]], {}, "8x7, 8x8"),
        (np.zeros((8, 8, 4), np.uint8), {}, "restore_image keeps alpha"),
        (np.zeros((8, 8, 3), np.uint16), {}, "not uint16"),
        (Image.new("RGBA", (8, 8)), {}, "mode RGBA"),
        (LQ, {"num_inference_steps": 0}, "at least 1, got 0"),
        (LQ, {"output_type": "jpg"}, "output_type must be one of"),
        (LQ, {"seed": 0, "generator": torch.Generator()}, "seed already names"),
        (LQ, {"generator": [torch.Generator()] * 2}, "a list of 2 for a batch of 1"),
        (LQ, {"seed": [1, 2]}, r"seed must be a whole number, got \[1, 2\]"),
        (LQ, {"seed": 1.5}, "seed must be a whole number, got 1.5"),
        (LQ, {"generator": 5}, "generator must be a torch.Generator or a list of them, not 5"),
        (LQ, {"generator": [5]}, "generator must be a torch.Generator or a list of them"),
        (LQ, {"num_inference_steps": 1.0}, "num_inference_steps must be a whole number, got 1.0"),
        (LQ, {"latents": [0.0]}, "latents must be a tensor, not list"),
        (LQ, {"latents": torch.zeros(1, 48, 8, 9)}, r"\(1, 48, 8, 8\) is needed"),
        (LQ, {"callback_on_step_end_tensor_inputs": ["x"]}, "there is: latents"),
    ],
)
def test_bad_arguments(pipe: Any, image: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AMDRestoreError, match=message):
        pipe(image, **options)


@pytest.mark.parametrize("sampler", ["ode", "renoise"])
@pytest.mark.parametrize("process", [{"type": "rectified_flow"}, {"type": "flow_matching", "shift": 2.0}])
def test_scheduler_alone_walks_the_path_of_the_sampler(tmp_path: Path, sampler: str, process: dict[str, Any]) -> None:
    saved = AMDRestoreScheduler(process=process, prediction_type="x0", sampler=sampler, time_shift=0.3)
    saved.save_pretrained(tmp_path)
    scheduler = AMDRestoreScheduler.from_pretrained(tmp_path)
    assert dict(scheduler.config) == dict(saved.config)
    noise = [torch.randn(2, 4, 5, 5) for _ in range(3)]

    class Half(torch.nn.Module):
        def forward(self, x_t: torch.Tensor, t: torch.Tensor, cond: Any, keep: Any) -> torch.Tensor:
            return 0.5 * x_t + t[:, None, None, None]

    denoiser, times = Denoiser(Half(), build_process(process), "x0"), build_process(process).times(3, shift=0.3)
    first = noise[0] * scheduler.init_noise_sigma
    expected = SAMPLERS[sampler](denoiser, first, noise[0], times, noise.__getitem__)

    scheduler.set_timesteps(3)
    state = noise[0] * scheduler.init_noise_sigma
    for i, t in enumerate(scheduler.timesteps):
        output = Half()(scheduler.scale_model_input(state, t), scheduler.process.network_time(t.expand(2)), None, None)
        state = scheduler.step(output, t, state, variance_noise=noise[min(i + 1, 2)]).prev_sample
    assert torch.allclose(state, expected, atol=1e-5)

    at_half = scheduler.add_noise(noise[0], noise[1], torch.tensor([0.5, 0.5]))
    assert torch.equal(at_half, build_process(process).add_noise(noise[0], noise[1], torch.tensor([0.5, 0.5])))
    with pytest.raises(AMDRestoreError, match=r"timestep 0\.123 is none of"):
        scheduler.step(state, 0.123, state)


def test_scheduler_refuses_unknown_values() -> None:
    for options in ({"sampler": "euler"}, {"prediction_type": "z"}, {"process": {"type": "vp"}}, {"time_shift": 0.0}):
        with pytest.raises(AMDRestoreError):
            AMDRestoreScheduler(**options)


def test_network_refuses_a_bad_header() -> None:
    with pytest.raises(AMDRestoreError, match="format_version"):
        AMDRestoreNetwork({"name": "x"})


def test_missing_spandrel_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "amd_restore.integrations.spandrel_descriptor"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(AMDRestoreError) as caught:
        importlib.import_module(name)
    assert str(caught.value) == 'spandrel is not installed; pip install "amd-restore[spandrel]"'


@pytest.fixture(scope="module")
def spandrel() -> Any:
    return pytest.importorskip("spandrel")


def test_the_examples_of_the_document_run(
    spandrel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_image: np.ndarray
) -> None:
    document = (REPOSITORY / "docs" / "diffusers.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", document, re.DOTALL | re.MULTILINE)
    Image.fromarray(tiny_image[:12, :16]).save(tmp_path / "small.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert names["large"].size == names["other"].size == (64, 48)
    assert names["sr"].shape == (1, 3, 64, 64)
    model = names["model"]
    assert torch.allclose(
        model(torch.full((1, 3, 8, 8), 0.5)), names["load"]("x4-classical")(torch.full((1, 3, 8, 8), 0.5)), atol=1e-5
    )


@pytest.fixture
def photograph(tiny_tensor: torch.Tensor) -> torch.Tensor:
    return tiny_tensor[:, :, 10:34, 20:40]


def test_spandrels_own_loader_knows_the_released_weights(spandrel: Any, photograph: torch.Tensor) -> None:
    from amd_restore.integrations.spandrel_descriptor import ARCH_ID, install

    before = len(spandrel.MAIN_REGISTRY)
    install()
    install()
    assert len(spandrel.MAIN_REGISTRY) - before in (0, 1)
    expected = RestorationPipeline.from_pretrained("x4-classical", "cpu", "float32")(photograph, seed=0)
    model = spandrel.ModelLoader().load_from_file(released_models()["x4-classical"])
    assert isinstance(model, spandrel.ImageModelDescriptor)
    assert (model.architecture.id, model.purpose, model.scale) == (ARCH_ID, "SR", 4)
    assert model.tiling is spandrel.ModelTiling.INTERNAL
    assert torch.allclose(model(photograph), expected, atol=1e-6)
    # Half precision is declared, so it must hold: the whole contract, picture in half precision included.
    for dtype, bound in ((torch.float16, 1.0), (torch.bfloat16, 4.0)):
        result = model.to(dtype)(photograph.to(dtype))
        assert result.dtype == dtype
        assert (result.float() - expected).abs().max() * 255 < bound


def test_tracing_a_descriptor_says_what_to_do(spandrel: Any, weights: Path, tmp_path: Path) -> None:
    from amd_restore.integrations.spandrel_descriptor import load

    model, lq = load(weights).model, (torch.rand(1, 3, 8, 8),)
    with pytest.raises(AMDRestoreError, match="cannot be traced: .* 'amd-restore export' writes the network as ONNX"):
        torch.onnx.export(model, lq, str(tmp_path / "tiny.onnx"), dynamo=False)
    with pytest.raises(AMDRestoreError, match="cannot be traced"):
        torch.jit.trace(model, lq)
    assert model(*lq).shape == (1, 3, 32, 32)


def test_spandrel_loads_any_weights_with_their_header(spandrel: Any, weights: Path, photograph: torch.Tensor) -> None:
    from amd_restore.integrations.spandrel_descriptor import HeaderLoader, install, load

    expected = RestorationPipeline.from_pretrained(weights, "cpu", "float32")(photograph)
    registry = spandrel.ArchRegistry()
    install(registry)
    assert torch.allclose(HeaderLoader(registry=registry).load_from_file(weights)(photograph), expected, atol=1e-6)
    assert torch.allclose(load(weights)(photograph), expected, atol=1e-6)
    assert load(weights).tags == ["tiny", "1 step"]
    with pytest.raises(AMDRestoreError, match="without their header"):
        spandrel.ModelLoader(registry=registry).load_from_file(weights)
    # Weights of others are left to others.
    with pytest.raises(spandrel.UnsupportedModelError):
        registry.load({"conv_in.weight": torch.zeros(3, 3, 3, 3)})
