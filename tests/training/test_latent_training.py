"""Training in a latent space: three adapters on one base, starts, windows, an encoder that learns, exact resume."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from training_setup import load_miniature, make_data, run_training

from amd_restore.diffusion import Recipe, first_state
from amd_restore.errors import AMDRestoreError
from amd_restore.models.latent import Windows, cut_images, decode_windows
from amd_restore.options import load_options
from amd_restore.registry import import_basicsr, register_all
from amd_restore.training.pipeline import prepare_options
from amd_restore.weights import ENCODER_PREFIX, load_checkpoint

OSEDIFF = "amd_sd21_osediff"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Path:
    """Folder with data."""
    folder = tmp_path_factory.mktemp("latent")
    make_data(folder)
    return folder


def options_of(folder: Path, name: str = OSEDIFF, **changes: Any) -> dict[str, Any]:
    """An option file in miniature, with quick settings and ``block__key`` replaced."""
    options = load_miniature(name, folder, iterations=4)
    options["amp"] = "none"
    options["train"].update(warmup_iter=-1, ema_decay=0.5)
    options["train"]["optim_g"]["lr"] = options["train"]["optim_fake"]["lr"] = 1e-3
    options["degradation"] = {"type": "bicubic"}
    options["losses"] = [loss for loss in options["losses"] if loss["type"] != "LPIPS"]
    options["rewards"] = [{"type": "PSNRReward"}]
    options["val"]["metrics"] = {"psnr": {"type": "calculate_psnr", "crop_border": 4}}
    for network in ("network_g", "network_teacher", "network_fake"):
        options[network] = {k: v for k, v in options[network].items() if k != "dtype"}
    for dotted, value in changes.items():
        block, key = dotted.split("__")
        options[block][key] = value
    return options


def build(folder: Path, options: dict[str, Any]) -> Any:
    """The model as the training command builds it, fed with one batch."""
    import_basicsr()
    register_all(training=True)
    from basicsr.models import build_model

    file = folder / "options.yml"
    file.write_text(yaml.safe_dump(options), encoding="utf-8")
    args = argparse.Namespace(opt=str(file), force_yml=[], launcher="none", auto_resume=False, debug=False)
    model = build_model(prepare_options(args, folder, is_train=True))
    coarse = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    model.feed_data({"gt": torch.nn.functional.interpolate(coarse, size=(48, 48), mode="bicubic").clamp(0, 1)})
    return model


def values(tensors: Any) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def moved(before: list[torch.Tensor], tensors: Any) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(before, tensors, strict=True))


def test_a_step_moves_adapters_and_encoder_and_never_the_base(workshop: Path) -> None:
    model = build(workshop, options_of(workshop))
    base = model.net_g._base
    assert base is model.net_fake._base is model.net_teacher._base, "one base in memory"
    assert not list(model.net_teacher.parameters()), "the teacher is the base itself"
    frozen = {n: p for n, p in base.module.named_parameters() if "lora_" not in n}
    kept = {n: p.detach().clone() for n, p in frozen.items()}
    student, fake = values(model.net_g.parameters()), values(model.net_fake.parameters())
    encoder, average = values(model.encoder.parameters()), values(model.encoder.average.values())
    for iteration in (1, 2):  # lora_A moves once lora_B is not 0 any more
        model.optimize_parameters(iteration)
    assert moved(student, model.net_g.parameters()) and moved(fake, model.net_fake.parameters())
    assert moved(encoder, model.encoder.parameters()) and moved(average, model.encoder.average.values())
    assert all(torch.equal(kept[n], p) and p.grad is None for n, p in frozen.items())
    count = sum(p.numel() for group in model.optimizer_g.param_groups for p in group["params"])
    assert count == sum(p.numel() for p in [*model.net_g.parameters(), *model.encoder.parameters()])


def test_the_encoder_decides_through_the_start_alone(workshop: Path) -> None:
    model = build(workshop, options_of(workshop, distill__start_noise=0.0))
    model.optimize_parameters(1)
    model.optimize_parameters(2)
    trained, plain = model.codec.condition(model.lq, trained=True), model.codec.condition(model.lq)
    assert not torch.equal(trained, plain)
    cond, first = model.first_call(model.draw_rollout())
    assert torch.equal(cond, trained) and torch.equal(first, trained)
    with model.encoder.averaged():
        averaged = model.codec.condition(model.lq, trained=True)
    assert not torch.equal(averaged, trained) and torch.equal(model.codec.condition(model.lq, trained=True), trained)


@pytest.mark.parametrize("codec", ["residual", "pixel"])
def test_start_of_codecs_without_weights(codec: str) -> None:
    from amd_restore.archs.latent.codecs import build_codec
    from amd_restore.diffusion import RectifiedFlow

    built, lq = build_codec({"type": codec, "scale": 4, "patch": 4}), torch.rand(2, 3, 8, 8)
    cond = built.condition(lq)
    noise = torch.randn(built.latent_shape(lq))
    start = first_state(RectifiedFlow(), built, lq, cond, noise, Recipe(1, start="lq"))
    torch.testing.assert_close(built.decode(start, lq), built.upsample(lq), atol=1e-6, rtol=0)
    noisy = first_state(RectifiedFlow(), built, lq, cond, noise, Recipe(1, start="lq", start_noise=0.25))
    torch.testing.assert_close(noisy - start, 0.25 * noise, atol=1e-6, rtol=0)


def test_start_from_lq_on_the_residual_codec_trains_and_restores(workshop: Path) -> None:
    teacher = load_miniature("regression_x4_classical", workshop, iterations=2)
    assert run_training(teacher, workshop).returncode == 0
    weights = workshop / "experiments" / teacher["name"] / "models" / "net_g_latest.pth"
    options = load_miniature("amd_x4_classical", workshop, str(weights), iterations=2)
    options["distill"].update(start="lq", start_noise=0.5, decode_crop=8)
    options["losses"] = [{"type": "LPIPS", "weight": 0.25, "random_views": False}]
    options["rewards"] = [{"type": "PSNRReward"}]
    result = run_training(options, workshop)
    assert result.returncode == 0, result.stderr[-2000:]
    header, _ = load_checkpoint(workshop / "experiments" / options["name"] / "models" / "net_g_latest.safetensors")
    assert (header.start, header.start_noise, dict(header.bases)) == ("lq", 0.5, {})


def test_windows_are_the_same_place_in_latents_and_images(workshop: Path) -> None:
    model = build(workshop, options_of(workshop, codec__checkpoint=False))
    model.seed_step(1)
    windows = model.draw_windows()
    assert windows is not None and windows.side == 8
    groups = [tuple(windows.tops[i : i + 2]) for i in (0, 2)]
    assert all(first == second for first, second in groups), "equal inside a group"
    gt, lq = cut_images(model.codec, model.gt, model.lq, windows)
    assert gt.shape[2:] == (32, 32) and lq.shape[2:] == (8, 8)
    top, left = windows.tops[0], windows.lefts[0]
    assert torch.equal(lq[0], model.lq[0, :, top : top + 8, left : left + 8])
    assert torch.equal(gt[0], model.gt[0, :, 4 * top : 4 * top + 32, 4 * left : 4 * left + 32])
    x0 = model.codec.encode(model.gt, model.lq).requires_grad_(True)
    image = decode_windows(model.codec, x0, model.lq, windows)
    assert image.shape == gt.shape
    image.sum().backward()
    touched = x0.grad.abs().sum(dim=1)[0] > 0
    assert touched[top : top + 8, left : left + 8].all() and int(touched.sum()) == 64
    assert decode_windows(model.codec, x0, model.lq, None).shape == model.gt.shape


def test_windows_of_a_codec_with_small_cells() -> None:
    # Cells of 2 pixels at scale 4: a block is one lq pixel and two cells.
    windows = Windows([0, 3], [1, 2], 2)
    latent, lq = torch.rand(2, 4, 12, 12), torch.rand(2, 3, 6, 6)
    assert torch.equal(windows.cut(latent, 2)[1], latent[1, :, 6:10, 4:8])
    assert torch.equal(windows.cut(lq, 1)[0], lq[0, :, 0:2, 1:3])
    assert windows[1:].cut(lq[1:], 1).shape == (1, 3, 2, 2)


def test_resume_of_adapters_and_encoder_is_exact(tmp_path: Path, assets: Path) -> None:
    results = []
    for name in ("straight", "resumed"):
        folder = tmp_path / name
        folder.mkdir()
        make_data(folder)
        options = options_of(folder)
        if name == "resumed":
            halted = run_training(options, folder, "--force_yml", "train:total_iter=3")
            assert halted.returncode == 0, halted.stderr[-2000:]
            result = run_training(options, folder, "--auto_resume")
            assert "iter: 2" in result.stdout + result.stderr
        else:
            result = run_training(options, folder)
        assert result.returncode == 0, result.stderr[-2000:]
        models = folder / "experiments" / options["name"]
        files = [models / "models" / f for f in ("net_g_4.pth", "net_fake_4.pth")] + [
            models / "training_states/4.state"
        ]
        results.append([torch.load(file, weights_only=True) for file in files])
        results[-1].append(load_checkpoint(models / "models" / "net_g_4.safetensors")[1])
    assert same(results[0], results[1]) > 100
    exported = results[0][-1]
    assert any(key.startswith(ENCODER_PREFIX) for key in exported)
    assert any("lora_B" in key for key in exported) and sum(v.numel() for v in exported.values()) < 50_000


def same(a: Any, b: Any) -> int:
    """Assert equality bit for bit of nested states; the number of tensors."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
        return 1
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return sum(same(a[key], b[key]) for key in a if key not in ("diagnostics", "seconds"))
    if isinstance(a, (list, tuple)):
        return sum(same(x, y) for x, y in zip(a, b, strict=True))
    assert a == b
    return 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"codec": {"type": "autoencoder"}},
            "codec: pretrained_model_name_or_path: missing; type autoencoder needs it",
        ),
        ({"codec": {"patch": 4, "checkpoint": True}}, "codec: checkpoint: type residual does not have it"),
        ({"codec": {"type": "autoencoder", "pretrained_model_name_or_path": "x", "std": 0.1}}, "does not have it"),
        (
            {"codec": {"type": "autoencoder", "pretrained_model_name_or_path": "x", "encoder_lora": {"rank": 4}}},
            "needs",
        ),
        ({"distill": {"start_noise": 0.1}}, "start_noise needs start: lq"),
        ({"distill": {"decode_crop": 8, "spatial": True}}, "spatial: maps need the whole image"),
        ({"codec": {"encoder_lora": {"rnk": 4}}}, "codec.encoder_lora.rnk: unknown key; did you mean 'rank'?"),
        ({"network_g": {"type": "LatentUNet", "lorra": {}}}, "did you mean 'lora'?"),
        ({"diffusion": {"process": "pretraind"}}, "did you mean 'pretrained'?"),
    ],
)
def test_slips_are_named(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    options: dict[str, Any] = {
        "name": "toy",
        "model_type": "AMDModel",
        "scale": 4,
        "network_g": {"type": "FlatDenoiser"},
        **changes,
    }
    file = tmp_path / "toy.yml"
    file.write_text(yaml.safe_dump(options))
    with pytest.raises(AMDRestoreError) as caught:
        load_options(file)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_pretrained_process_without_a_model(workshop: Path) -> None:
    options = load_miniature("teacher_x4_classical", workshop, iterations=2)
    options["diffusion"] = {"process": "pretrained"}
    result = run_training(options, workshop)
    assert result.returncode == 2
    assert "process: pretrained needs diffusion.pretrained_model_name_or_path" in result.stderr.splitlines()[-1]


def test_crops_that_the_codec_cannot_cut(workshop: Path) -> None:
    options = options_of(workshop)
    options["datasets"]["train"]["gt_size"] = 46
    result = run_training(options, workshop)
    assert result.returncode == 2
    assert "datasets.train.gt_size: must be a multiple of 4" in result.stderr.splitlines()[-1]
