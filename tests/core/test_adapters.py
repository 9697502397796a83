"""Several networks on one frozen base: who owns what, who learns, and that nobody disturbs another."""

from __future__ import annotations

import copy
import gc
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from latent_models import UNET, build, diffusers, save_stable_diffusion, save_stable_diffusion_3
from safetensors.torch import load_file
from torch import Tensor, nn

from amd_restore.apps.cli.prompts import main as prompts_command
from amd_restore.archs.latent.adapters import FrozenBase
from amd_restore.archs.latent.network import LatentNetwork
from amd_restore.archs.latent.prompts import read_prompts, write_prompts
from amd_restore.archs.latent.transformer_arch import LatentTransformer
from amd_restore.archs.latent.unet_arch import LatentUNet
from amd_restore.errors import AMDRestoreError

KINDS: dict[str, tuple[type[LatentNetwork], int]] = {"sd": (LatentUNet, 4), "sd3": (LatentTransformer, 16)}
RANK_4 = {"rank": 4}
PROMPTS = ("prompt_embeds", "negative_prompt_embeds")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with sd and sd3, text encoders included."""
    root = tmp_path_factory.mktemp("models")
    save_stable_diffusion(root / "sd", text=True)
    save_stable_diffusion_3(root / "sd3", text=True)
    write_prompts(root / "words.safetensors", {name: torch.randn(1, 3, 16) for name in PROMPTS})
    return root


@pytest.fixture(scope="module", autouse=True)
def bases(models: Path) -> list[LatentNetwork]:
    """Keeps the bases in memory from test to test."""
    return [network(models, kind, frozen=True) for kind in KINDS]


def network(models: Path, kind: str, **options: Any) -> LatentNetwork:
    """A network of the ``kind``, with a condition."""
    cls, channels = KINDS[kind]
    return cls(channels, channels, str(models / kind), **options)


def batch(net: LatentNetwork) -> tuple[Tensor, Tensor, Tensor]:
    """State, times and condition."""
    x, cond = torch.randn(2, 2, net.channels, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([0.2, 0.9]), cond


def shaken(net: nn.Module, seed: int = 0) -> nn.Module:
    """``net`` with other numbers in everything that it owns."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return net


def gradients(net: nn.Module) -> dict[str, Tensor]:
    """Gradients that are there."""
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_one_base_share_its_memory_and_own_their_adapters(models: Path, kind: str) -> None:
    student, fake = (network(models, kind, lora={"rank": rank}) for rank in (4, 2))
    teacher = network(models, kind, frozen=True)
    assert student._base is not None and fake._base is student._base is teacher._base
    last = {"sd": "net.conv_out", "sd3": "net.proj_out"}[kind]
    layers: list[Any] = [net.get_submodule(last) for net in (student, fake)]
    weights = [getattr(layer, "base_layer", layer).weight.data_ptr() for layer in layers]
    assert weights[0] == weights[1]
    assert {name.split(".")[0] for name in student.state_dict()} == {"adapter", "cond_in", "null_cond"}
    assert all(name.endswith(("lora_A.weight", "lora_B.weight")) for name in student.state_dict() if "adapter" in name)
    assert [name for name, _ in student.named_parameters()] == list(student.state_dict())
    assert {name.split(".")[0] for name in teacher.state_dict()} == {"cond_in", "null_cond"}
    base = sum(p.numel() for p in network(models, kind).get_submodule("net").parameters())
    own = sum(p.numel() for p in student.adapter.parameters())
    assert 0 < own < base and 2 * sum(p.numel() for p in fake.adapter.parameters()) == own
    other = network(models, kind, frozen=True, dtype="bf16")
    assert other._base is not student._base and other.base_fingerprint == student.base_fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_starts_as_nothing_and_changes_its_own_network_only(models: Path, kind: str) -> None:
    student, fake, other = (network(models, kind, lora=RANK_4) for _ in range(3))
    teacher, whole = network(models, kind, frozen=True), network(models, kind)
    arguments = batch(student)
    expected = whole(*arguments)
    before = [net(*arguments) for net in (student, fake, other, teacher)]
    for out in before:
        torch.testing.assert_close(out, expected)
    shaken(student)
    assert (student(*arguments) - expected).abs().max() > 1e-2
    after = [net(*arguments) for net in (fake, other, teacher)]
    assert all(torch.equal(*pair) for pair in zip(before[1:], after, strict=True))
    mine = student(*arguments)
    shaken(fake, 1)
    assert torch.equal(student(*arguments), mine) and torch.equal(teacher(*arguments), before[3])
    assert not torch.equal(fake(*arguments), mine)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_own_adapter_only_though_others_run_in_between(models: Path, kind: str) -> None:
    words = {"prompt_embeds": str(models / "words.safetensors")} if kind == "sd" else {}
    student, fake = (shaken(network(models, kind, lora=RANK_4, **words), seed) for seed in (0, 1))
    assert isinstance(student, LatentNetwork)
    teacher = network(models, kind, frozen=True).requires_grad_(False)
    x, t, cond = batch(student)
    out = student(x, t, cond)
    with torch.no_grad():
        teacher(x, t, cond), fake(x, t, cond)
    out_fake = fake(x, t, cond)
    out.square().mean().backward()
    found = gradients(student)
    assert set(found) == {name for name, _ in student.named_parameters()} - {"null_cond"}  # nothing was dropped
    # The transformer asks nothing for a prompt of zeros, and nothing of it after the last block.
    silent = {name for name, gradient in found.items() if not gradient.any()}
    assert all(kind == "sd3" and ".add_" in name or "to_add_out" in name for name in silent), silent
    assert not gradients(fake) and not gradients(teacher)
    out_fake.square().mean().backward()
    assert gradients(fake) and all(torch.equal(found[name], g) for name, g in gradients(student).items())
    base: Any = student._base
    own = {id(p) for net in (student, fake) for p in net.parameters()}
    assert all(p.grad is None and not p.requires_grad for p in base.module.parameters() if id(p) not in own)


def test_a_new_adapter_leaves_the_others_trainable_or_frozen_as_they_were(models: Path) -> None:
    trained, frozen = network(models, "sd", lora=RANK_4), network(models, "sd", lora=RANK_4).requires_grad_(False)
    network(models, "sd", lora={"rank": 1, "target_modules": ["to_q"]})
    assert all(p.requires_grad for p in trained.parameters())
    assert not any(p.requires_grad for p in frozen.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lora", [RANK_4, None], ids=["lora", "whole"])
def test_checkpointing_gives_the_same_gradients_with_less_memory(models: Path, kind: str, lora: Any) -> None:
    found, held = [], []
    for gradient_checkpointing in (False, True):
        torch.manual_seed(0)
        net = shaken(network(models, kind, lora=lora, gradient_checkpointing=gradient_checkpointing))
        fake = shaken(network(models, kind, lora=RANK_4), 1)
        assert isinstance(net, LatentNetwork)
        arguments, total = batch(net), 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = net(*arguments).square().mean()
        with torch.no_grad():
            fake(*arguments)  # switches adapters between the forward and the backward pass
        loss.backward()
        assert not gradients(fake)
        found.append(gradients(net))
        held.append(total)
    assert found[0].keys() == found[1].keys() and len(found[0]) > 5
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name
    assert held[1] < 0.7 * held[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_network_is_whole_and_the_same(models: Path, kind: str) -> None:
    student, fake = (shaken(network(models, kind, lora=RANK_4), seed) for seed in (0, 1))
    assert isinstance(student, LatentNetwork)
    arguments = batch(student)
    expected, others = student(*arguments), fake(*arguments)
    merged = student.eval().merged()
    torch.testing.assert_close(merged(*arguments), expected, rtol=1e-5, atol=1e-5)
    assert merged.base_fingerprint is None and not any("lora" in name for name in merged.state_dict())
    plain = network(models, kind)
    assert merged.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(student(*arguments), expected) and torch.equal(fake(*arguments), others)
    again = KINDS[kind][0](**merged.rebuild_options())
    again.load_state_dict(merged.state_dict())
    assert torch.equal(again(*arguments), merged(*arguments))


def test_an_adapter_is_saved_and_loaded_without_its_base(models: Path, tmp_path: Path) -> None:
    student = shaken(network(models, "sd", lora=RANK_4))
    assert isinstance(student, LatentNetwork)
    torch.save(student.state_dict(), tmp_path / "adapter.pth")
    assert (tmp_path / "adapter.pth").stat().st_size < (
        models / "sd/unet/diffusion_pytorch_model.safetensors"
    ).stat().st_size
    again = LatentUNet(**student.rebuild_options())
    again.load_state_dict(torch.load(tmp_path / "adapter.pth", weights_only=True))
    assert torch.equal(again(*batch(student)), student(*batch(student)))
    assert again.base_fingerprint == student.base_fingerprint


def test_a_deep_copy_is_one_more_adapter(models: Path) -> None:
    student = shaken(network(models, "sd", lora=RANK_4))
    assert isinstance(student, LatentNetwork)
    average = copy.deepcopy(student).requires_grad_(False)
    assert average._base is student._base
    expected = student(*batch(student))
    assert torch.equal(average(*batch(student)), expected)
    shaken(student, 3)
    assert torch.equal(average(*batch(student)), expected)
    assert all(p.requires_grad for p in student.parameters())


def test_what_nobody_uses_is_forgotten(models: Path) -> None:
    keeper = network(models, "sd", lora=RANK_4)
    base: Any = keeper._base
    layer = next(m for m in base.module.modules() if hasattr(m, "lora_A"))
    gc.collect()
    count = len(layer.lora_A)
    extra = network(models, "sd", lora=RANK_4)
    assert len(layer.lora_A) == count + 1
    del extra
    gc.collect()
    assert len(layer.lora_A) == count


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_in_bfloat16_trains_adapters_in_float32(models: Path, kind: str) -> None:
    student = shaken(network(models, kind, lora=RANK_4, dtype="bf16"))
    reference = shaken(network(models, kind, lora=RANK_4))
    assert isinstance(student, LatentNetwork) and isinstance(reference, LatentNetwork)
    with torch.no_grad():
        reference.load_state_dict(student.state_dict())
    assert all(p.dtype == torch.float32 for p in student.parameters())
    base: Any = student._base
    assert next(base.module.parameters()).dtype == torch.bfloat16
    outs = []
    for net in (student, reference):
        outs.append(net(*batch(net)).float())
        outs[-1].square().mean().backward()
    assert (outs[0] - outs[1]).norm() / outs[1].norm() < 0.03
    for name, gradient in gradients(reference).items():
        theirs = gradients(student)[name]
        assert theirs.dtype == torch.float32
        assert (theirs - gradient).norm() <= 0.2 * gradient.norm() + 1e-5, name
    # Precision is the base's own; half a network would be neither.
    student.to(torch.float64)
    assert (
        next(base.module.get_submodule("conv_out" if kind == "sd" else "proj_out").parameters()).dtype == torch.bfloat16
    )


def test_autocast_and_adapters_agree(models: Path) -> None:
    student = shaken(network(models, "sd", lora=RANK_4))
    assert isinstance(student, LatentNetwork)
    expected = student(*batch(student))
    with torch.autocast("cpu", torch.bfloat16):
        found = student(*batch(student))
    assert (found.float() - expected).norm() / expected.norm() < 0.03


def test_two_threads_do_not_see_each_others_adapters(models: Path) -> None:
    student, fake = (shaken(network(models, "sd", lora=RANK_4), seed) for seed in (0, 1))
    assert isinstance(student, LatentNetwork)
    arguments = batch(student)
    with torch.no_grad():
        expected = {id(net): net(*arguments) for net in (student, fake)}
    wrong: list[str] = []

    def work(net: nn.Module) -> None:
        for _ in range(5):
            with torch.no_grad():
                if not torch.equal(net(*arguments), expected[id(net)]):
                    wrong.append(type(net).__name__)
            time.sleep(0)

    threads = [threading.Thread(target=work, args=(net,)) for net in (student, fake, student)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_targets_choose_the_layers(models: Path) -> None:
    net = network(models, "sd", condition="start", lora={"rank": 2, "alpha": 8, "target_modules": ["to_q", "conv_in"]})
    owners = {name.removesuffix(".weight").rsplit(".", 2)[-2] for name in net.state_dict()}
    assert owners == {"to_q", "conv_in"}
    base = FrozenBase(build(diffusers.UNet2DConditionModel, **UNET))
    name, _ = base.add_adapter({"rank": 2, "alpha": 8}, ("conv_out",))
    layer: Any = base.module.get_submodule("conv_out")
    assert layer.scaling[name] == 4.0


# ---- prompts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_computed_once_and_travel_with_the_weights(
    models: Path, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.safetensors"
    command = ["--model", str(models / kind), "--prompt", "a sharp photo", "--negative", "blurry", "-o", str(file)]
    assert prompts_command(command) == 0
    shape = {"sd": "1x77x16", "sd3": "1x333x32"}[kind]
    assert f"prompt_embeds {shape}" in capsys.readouterr().out
    cls: Any = {"sd": diffusers.StableDiffusionPipeline, "sd3": diffusers.StableDiffusion3Pipeline}[kind]
    pipeline = cls.from_pretrained(
        models / kind, **({} if kind == "sd" else {"text_encoder_3": None, "tokenizer_3": None})
    )
    texts = {"prompt": "a sharp photo", "negative_prompt": "blurry", "device": "cpu", "num_images_per_prompt": 1}
    texts |= {"do_classifier_free_guidance": True} | ({} if kind == "sd" else {"prompt_2": None, "prompt_3": None})
    with torch.no_grad():
        theirs = pipeline.encode_prompt(**texts)
    found = load_file(file)
    for name, value in zip(found_order(found), theirs, strict=True):
        torch.testing.assert_close(found[name], value)

    net = network(models, kind, prompt_embeds=str(file), lora=RANK_4)
    plain = network(models, kind, lora=RANK_4)
    x, t, cond = batch(net)
    assert not torch.equal(net(x, t, cond), plain(x, t, cond))
    assert not torch.equal(net(x, t, cond), net(x, t, None))  # the negative prompt
    mixed = net(x, t, cond, torch.tensor([True, False]))
    torch.testing.assert_close(mixed[:1], net(x, t, cond)[:1])
    torch.testing.assert_close(mixed[1:], net(x, t, None)[1:])
    file.unlink()
    options = net.rebuild_options()
    assert "prompt_embeds" not in options
    again = KINDS[kind][0](**options)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x, t, cond), net(x, t, cond))
    assert not any("prompt" in name for name in plain.state_dict())
    torch.testing.assert_close(net.merged()(x, t, cond), net(x, t, cond), rtol=1e-5, atol=1e-5)


def found_order(found: dict[str, Tensor]) -> list[str]:
    """Names in the order of a pipeline's answer."""
    order = ["prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
    return [name for name in order if name in found]


def test_prompts_of_another_model_are_refused(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.safetensors"
    write_prompts(file, {"prompt_embeds": torch.ones(1, 5, 8), "negative_prompt_embeds": torch.ones(1, 5, 8)})
    assert read_prompts(file)["prompt_embeds"].shape == (1, 5, 8)
    with pytest.raises(AMDRestoreError, match="width 16 expected, found width 8; made for another model"):
        network(models, "sd", prompt_embeds=str(file))
    file.write_bytes(b"nonsense")
    with pytest.raises(AMDRestoreError, match="not a file of prompts"):
        read_prompts(file)


def test_the_prompt_command_refuses_in_one_line(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"mine")
    cases = [
        (str(models / "sd"), taken, "exists; name another file or add --overwrite"),
        (str(models / "sd"), tmp_path / "p.pt", "must end in .safetensors"),
        (str(models / "sd" / "unet"), tmp_path / "p.safetensors", "cannot load the text encoders"),
    ]
    for model, output, message in cases:
        assert prompts_command(["--model", model, "-o", str(output)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert taken.read_bytes() == b"mine"
