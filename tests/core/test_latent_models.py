"""Pretrained latent networks and codecs, on tiny models with random weights loaded by the real path."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from latent_models import (
    UNET,
    autoencoder,
    diffusers,
    save_stable_diffusion,
    save_stable_diffusion_3,
    save_stable_diffusion_xl,
    save_tiny_autoencoder,
)
from torch import Tensor

from amd_restore.archs.latent import pretrained
from amd_restore.archs.latent.autoencoder import AutoencoderCodec
from amd_restore.archs.latent.codecs import build_codec
from amd_restore.archs.latent.network import LatentNetwork
from amd_restore.archs.latent.pretrained import scheduler_process
from amd_restore.archs.latent.transformer_arch import LatentTransformer
from amd_restore.archs.latent.unet_arch import LatentUNet
from amd_restore.diffusion import Codec, Denoiser, build_process
from amd_restore.errors import AMDRestoreError

KINDS: dict[str, tuple[type[LatentNetwork], int]] = {"sd": (LatentUNet, 4), "sd3": (LatentTransformer, 16)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with sd, sdxl, sd3 and taesd."""
    root = tmp_path_factory.mktemp("models")
    save_stable_diffusion(root / "sd")
    save_stable_diffusion_xl(root / "sdxl")
    save_stable_diffusion_3(root / "sd3")
    save_tiny_autoencoder(root / "taesd")
    return root


def network(models: Path, kind: str, **options: Any) -> LatentNetwork:
    """A network of the ``kind``, for a condition of as many channels as the latent has."""
    cls, channels = KINDS[kind]
    return cls(channels, channels, str(models / kind), **options)


def batch(channels: int, count: int = 2, height: int = 8, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """State, times and condition."""
    generator = torch.Generator().manual_seed(1)
    x, cond = torch.randn(2, count, channels, height, width, generator=generator)
    return x, torch.linspace(0.2, 0.9, count), cond


# ---- networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_pretrained_network_starts_as_itself(models: Path, kind: str) -> None:
    net = network(models, kind)
    x, t, cond = batch(net.channels)
    own: Any = net.get_submodule("net")
    if kind == "sd":
        theirs = own(x, t * 999, torch.zeros(2, 1, 16)).sample
    else:
        theirs = own(x, torch.zeros(2, 1, 32), torch.zeros(2, 24), t * 1000).sample
    torch.testing.assert_close(net(x, t, cond), theirs)
    torch.testing.assert_close(net(x, t, None), theirs)
    torch.nn.init.normal_(net.cond_in.weight, std=0.2)
    assert (net(x, t, cond) - theirs).abs().max() > 1e-3
    assert not torch.equal(net(x, t, None), net(x, t, cond))
    mixed = net(x, t, cond, torch.tensor([True, False]))
    torch.testing.assert_close(mixed[:1], net(x, t, cond)[:1])
    torch.testing.assert_close(mixed[1:], net(x, t, None)[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_any_side_is_padded_inside(models: Path, kind: str) -> None:
    net = network(models, kind)
    torch.nn.init.normal_(net.cond_in.weight, std=0.2)
    x, t, cond = batch(net.channels, height=7, width=5)
    out = net(x, t, cond)
    assert out.shape == x.shape
    padded = [torch.nn.functional.pad(z, (0, 1, 0, 1), mode="replicate") for z in (x, cond)]
    torch.testing.assert_close(out, net(padded[0], t, padded[1])[:, :, :7, :5])


@pytest.mark.parametrize("kind", KINDS)
def test_started_from_lq_a_network_does_not_look_at_the_condition(models: Path, kind: str) -> None:
    net = network(models, kind, condition="start")
    x, t, cond = batch(net.channels)
    assert torch.equal(net(x, t, cond), net(x, t, -cond))
    assert not any(name.startswith(("cond_in", "null_cond")) for name in net.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_network_is_rebuilt_without_its_folder(models: Path, kind: str) -> None:
    net = network(models, kind)
    torch.nn.init.normal_(net.cond_in.weight, std=0.2)
    options = json.loads(json.dumps(net.rebuild_options()))
    assert str(models) not in json.dumps(options)
    again = KINDS[kind][0](**options)
    again.load_state_dict(net.state_dict())
    arguments = batch(net.channels)
    assert torch.equal(again(*arguments), net(*arguments))


def test_the_xl_network_is_told_sizes_and_a_pooled_embedding(models: Path) -> None:
    net = LatentUNet(4, 4, str(models / "sdxl"), condition="start")
    x, t, cond = batch(4, height=6)
    own: Any = net.get_submodule("net")
    sizes = torch.tensor([[48.0, 64.0, 0.0, 0.0, 48.0, 64.0]]).expand(2, -1)
    added = {"text_embeds": torch.zeros(2, 24), "time_ids": sizes}
    torch.testing.assert_close(net(x, t, cond), own(x, t * 999, torch.zeros(2, 1, 16), added_cond_kwargs=added).sample)


def test_a_denoiser_speaks_the_pretrained_language(models: Path) -> None:
    """Our one call gives what diffusers' scheduler makes of its own network's output."""
    net = LatentUNet(4, None, str(models / "sd"), condition="start")
    config, prediction_type = scheduler_process(models / "sd")
    denoiser = Denoiser(net, build_process(config), prediction_type)
    scheduler: Any = diffusers.DDPMScheduler.from_pretrained(models / "sd", subfolder="scheduler")
    x = batch(4)[0][:1]
    own: Any = net.get_submodule("net")
    for step in (999, 600, 10):
        theirs = scheduler.step(own(x, step, torch.zeros(1, 1, 16)).sample, step, x).pred_original_sample
        torch.testing.assert_close(denoiser(x, torch.tensor([step / 999]), None), theirs, rtol=1e-4, atol=1e-4)


def test_a_single_file_is_read(models: Path) -> None:
    file = models / "sd" / "unet" / "diffusion_pytorch_model.safetensors"
    net = LatentUNet(4, 4, str(file), single_file_config=str(models / "sd"))
    x, t, cond = batch(4)
    torch.testing.assert_close(net(x, t, cond), network(models, "sd")(x, t, cond))
    with pytest.raises(AMDRestoreError, match="a single file has no scheduler"):
        scheduler_process(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained_model_name_or_path": "sd3"}, "cannot load UNet2DConditionModel"),
        ({"in_channels": 16}, "codec has 16 channels, this network 4"),
        ({"condition": "sideways"}, "condition must be one of concat, start"),
        ({"cond_channels": None}, "concat needs cond_channels"),
        ({"dtype": "bf16"}, "bf16 is for a frozen base"),
        ({"dtype": "fp8", "frozen": True}, "'fp8' is not known"),
        ({"config": UNET}, "one of them"),
        ({"config": UNET, "pretrained_model_name_or_path": None, "frozen": True}, "a base to share"),
        ({"config": UNET | {"out_channels": 8}, "pretrained_model_name_or_path": None}, "puts out 8 channels"),
        ({"lora": {"rnak": 4}}, "lora: unknown key 'rnak'"),
        ({"lora": {"dropout": 0.1}}, "dropout must be 0"),
        ({"lora": {"target_modules": ["nowhere"]}}, "target_modules fit no layer"),
        ({"prompt_embeds": "none.safetensors"}, "no such file of prompts; make one with"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(models: Path, options: dict[str, Any], message: str) -> None:
    arguments = {"in_channels": 4, "cond_channels": 4, "pretrained_model_name_or_path": "sd", **options}
    if path := arguments["pretrained_model_name_or_path"]:
        arguments["pretrained_model_name_or_path"] = str(models / path)
    with pytest.raises(AMDRestoreError, match=message) as found:
        LatentUNet(**arguments)
    assert "\n" not in str(found.value)


def test_a_model_that_cannot_be_fetched_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for load in (
        lambda: LatentUNet(4, 4, "nobody/no-such-model"),
        lambda: scheduler_process("nobody/no-such-model"),
        lambda: build_codec(
            {"type": "autoencoder", "scale": 4, "pretrained_model_name_or_path": "nobody/no-such-model"}
        ),
    ):
        with pytest.raises(AMDRestoreError, match="no such folder or file here, and the hub gave nothing") as found:
            load()
        assert "\n" not in str(found.value) and "nobody/no-such-model" in str(found.value)


def test_too_large_a_latent_names_the_limit(models: Path) -> None:
    net = network(models, "sd3")
    with pytest.raises(AMDRestoreError, match="positions for 32 cells, not 34 x 8; use tiles"):
        net(*batch(16, height=34))


# ---- codecs -----------------------------------------------------------------------------------------------------


CODECS: dict[str, dict[str, Any]] = {
    "residual": {"type": "residual"},
    "pixel": {"type": "pixel", "patch": 8},
    "sd": {"type": "autoencoder"},
    "sd3": {"type": "autoencoder"},
    "taesd": {"type": "autoencoder", "subfolder": None},
}


def codec_of(models: Path, kind: str, scale: int = 2, **options: Any) -> Codec:
    """The codec of that kind, with its tiny model."""
    path = {} if kind not in ("sd", "sd3", "taesd") else {"pretrained_model_name_or_path": str(models / kind)}
    return build_codec({"scale": scale, **CODECS[kind], **path, **options})


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_every_codec_keeps_the_contract(models: Path, kind: str, scale: int) -> None:
    codec = codec_of(models, kind, scale)
    assert isinstance(codec, Codec)
    side = 4 * codec.lq_patch
    lq, gt = torch.rand(1, 3, side, 2 * side), torch.rand(1, 3, side * scale, 2 * side * scale)
    shape = codec.latent_shape(lq)
    assert shape == (1, codec.channels, codec.cells(side), codec.cells(2 * side))
    assert shape[2] * codec.patch == side * scale
    assert codec.encode(gt, lq).shape == shape
    assert codec.condition(lq).shape == (1, codec.cond_channels, *shape[2:])
    assert codec.decode(torch.zeros(shape), lq).shape == gt.shape
    assert codec.upsample(lq).shape == gt.shape
    assert codec.to("cpu") is codec and codec.trainable_parameters() == [] and codec.trained_state() == {}
    again = build_codec(json.loads(json.dumps(codec.config())))
    assert torch.equal(again.encode(gt, lq), codec.encode(gt, lq))


def test_pixels_are_coded_without_loss(models: Path) -> None:
    codec = codec_of(models, "pixel")
    lq, gt = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(codec.decode(codec.encode(gt, lq), lq), gt)
    torch.testing.assert_close(codec.condition(lq), codec.encode(codec.upsample(lq), lq))


@pytest.mark.parametrize("kind", ["sd", "sd3", "taesd"])
def test_latents_are_those_of_the_autoencoder(models: Path, kind: str) -> None:
    codec = codec_of(models, kind)
    assert isinstance(codec, AutoencoderCodec)
    gt, vae = torch.rand(1, 3, 32, 32), codec.vae
    encoded = vae.encode(gt * 2 - 1)
    latent = encoded.latents if kind == "taesd" else encoded.latent_dist.mode()
    shift, factor = {"sd": (0.0, 0.18215), "sd3": (0.0609, 1.5305), "taesd": (0.0, 1.0)}[kind]
    x0 = codec.encode(gt, gt)
    torch.testing.assert_close(x0, (latent - shift) * factor)
    image = vae.decode(x0 / factor + shift).sample / 2 + 0.5
    torch.testing.assert_close(codec.decode(x0, gt), image)
    if kind != "sd3":
        return
    pipeline_way = vae.decode(x0 / vae.config.scaling_factor + vae.config.shift_factor).sample
    torch.testing.assert_close(codec.decode(x0, gt) * 2 - 1, pipeline_way)


def test_sides_of_odd_scales_are_whole_in_cells(models: Path) -> None:
    codec = codec_of(models, "sd", scale=3)  # 4 pixels a cell: 4 pixels of lq are 3 cells
    assert codec.lq_patch == 4 and codec.cells(8) == 6
    assert codec.latent_shape(torch.rand(1, 3, 8, 12)) == (1, 4, 6, 9)
    assert codec.condition(torch.rand(1, 3, 8, 12)).shape == (1, 4, 6, 9)


@pytest.mark.parametrize("kind", ["sd", "taesd"])
def test_decoding_carries_gradient_and_checkpointing_does_not_change_it(models: Path, kind: str) -> None:
    gradients, saved = [], []
    for checkpoint in (False, True):
        codec = codec_of(models, kind, checkpoint=checkpoint)
        x0 = torch.randn(1, codec.channels, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
        held = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal held
            held += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = (codec.decode(x0, x0) - 0.3).square().mean()
        loss.backward()
        assert x0.grad is not None
        gradients.append(x0.grad)
        saved.append(held)
        assert isinstance(codec, AutoencoderCodec)
        assert all(p.grad is None and not p.requires_grad for p in codec.vae.parameters())
    assert gradients[0].abs().max() > 0 and torch.equal(*gradients)
    assert saved[1] < 0.5 * saved[0]


@pytest.mark.parametrize("kind", ["sd", "taesd"])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_trained_encoder_changes_nothing_but_the_students_condition(
    models: Path, kind: str, checkpoint: bool
) -> None:
    codec = codec_of(models, kind, train_encoder=True, encoder_lora={"rank": 2}, checkpoint=checkpoint)
    plain = codec_of(models, kind)
    lq, gt = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 16, 16)
    before = codec.condition(lq)
    torch.testing.assert_close(before, plain.condition(lq))
    torch.testing.assert_close(codec.condition(lq, trained=True), before)  # an adapter starts as nothing
    parameters = codec.trainable_parameters()
    optimizer = torch.optim.SGD(parameters, 1.0)
    codec.condition(lq, trained=True).square().sum().backward()
    assert all(p.grad is not None for p in parameters)
    optimizer.step()
    after = codec.condition(lq, trained=True)
    assert (after - before).abs().max() > 1e-4
    assert torch.equal(codec.condition(lq), before) and torch.equal(codec.encode(gt, lq), plain.encode(gt, lq))
    other = codec_of(models, kind, train_encoder=True, encoder_lora={"rank": 2})
    other.load_trained_state(copy.deepcopy(codec.trained_state()))
    torch.testing.assert_close(other.condition(lq, trained=True), after)
    assert other.config() == codec.config()
    with pytest.raises(AMDRestoreError, match="do not fit the 0 of this one"):
        plain.load_trained_state(codec.trained_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained_model_name_or_path": None}, "'pretrained_model_name_or_path' is missing"),
        ({"subfolder": "unet"}, "UNet2DConditionModel is not AutoencoderKL or AutoencoderTiny"),
        ({"subfolder": "nowhere"}, "cannot load the configuration of a model"),
        ({"chekpoint": True}, "unknown key 'chekpoint'; did you mean 'checkpoint'"),
        ({"scale": 0}, "'scale' is missing"),
    ],
    ids=str,
)
def test_bad_codecs_are_one_line(models: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AMDRestoreError, match=message) as found:
        codec_of(models, "sd", **options)
    assert "\n" not in str(found.value)


def test_fingerprints_tell_weights_apart_whatever_the_precision() -> None:
    vae = autoencoder()
    name = pretrained.fingerprint(vae)
    assert pretrained.fingerprint(copy.deepcopy(vae).bfloat16()) == name
    with torch.no_grad():
        next(vae.decoder.parameters()).flatten()[0] += 0.1
    assert pretrained.fingerprint(vae) != name
