"""Weights of latent training in the pipeline: adapter, merged, another base; tiles, colour fix, the command."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import latent_models
import numpy as np
import pytest
import torch
from places import REPOSITORY
from smooth_images import smooth_image
from warm_python import warm_python

from amd_restore.archs.latent.codecs import build_codec
from amd_restore.archs.latent.pretrained import scheduler_process
from amd_restore.archs.latent.unet_arch import LatentUNet
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import Picture, write_image
from amd_restore.models.latent import bases, rebuild_options
from amd_restore.pipeline import RestorationPipeline
from amd_restore.weights import ENCODER_PREFIX, FORMAT_VERSION, Header, load_checkpoint, read_header, save_checkpoint


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, ``student.safetensors`` (adapter and trained encoder) and ``merged.safetensors``."""
    folder = tmp_path_factory.mktemp("student")
    base = latent_models.save_stable_diffusion(folder / "base", prediction_type="v_prediction")
    codec = build_codec(
        {"type": "autoencoder", "scale": 4, "pretrained_model_name_or_path": str(base), "train_encoder": True}
    )
    net = LatentUNet(4, 4, str(base), condition="concat", lora={"rank": 2})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (*net.parameters(), *codec.trainable_parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    process, prediction_type = scheduler_process(str(base))
    header = Header(
        name="tiny-latent",
        kind="student",
        scale=4,
        network=rebuild_options(net, {"type": "LatentUNet"}),
        codec=codec.config(),
        process=process,
        prediction_type=prediction_type,
        steps=(1,),
        default_steps=1,
        start="lq",
        start_noise=0.1,
        bases=bases(net, codec),
    )
    encoder = {f"{ENCODER_PREFIX}{key}": value for key, value in codec.trained_state().items()}
    save_checkpoint(folder / "student.safetensors", {**net.state_dict(), **encoder}, header, torch.float32)
    whole = net.merged()
    header = replace(header, network=rebuild_options(whole, {"type": "LatentUNet"}), bases=bases(whole, codec))
    save_checkpoint(folder / "merged.safetensors", {**whole.state_dict(), **encoder}, header, torch.float32)
    return folder


@pytest.fixture(scope="module")
def pipeline(student: Path) -> RestorationPipeline:
    return RestorationPipeline.from_pretrained(student / "student.safetensors", "cpu", torch.float32)


def image(height: int, width: int) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(np.resize(smooth_image(0), (height, width, 3)))


def restored(pipeline: RestorationPipeline, lq: torch.Tensor, **options: Any) -> torch.Tensor:
    return pipeline(lq, **options)


def test_the_header_names_the_bases_and_old_headers_stay_as_they_were(student: Path) -> None:
    header = read_header(student / "student.safetensors")
    assert set(header.bases) == {"network", "codec"} and header.network["lora"] == {"rank": 2}
    assert f'"format_version": {FORMAT_VERSION}' in header.to_json()
    assert set(read_header(student / "merged.safetensors").bases) == {"codec"}
    plain = replace(header, start="noise", start_noise=0.0, bases={}).to_json()
    assert '"format_version": 2' in plain and '"start"' not in plain and '"bases"' not in plain
    assert Header.from_json(plain).start == "noise"


def test_an_adapter_and_the_merged_network_restore_alike(student: Path, pipeline: RestorationPipeline) -> None:
    lq = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    merged = RestorationPipeline.from_pretrained(student / "merged.safetensors", "cpu", torch.float32)
    torch.testing.assert_close(restored(pipeline, lq), restored(merged, lq), atol=1e-5, rtol=0)
    assert restored(pipeline, lq).shape == (1, 3, 48, 64)


@pytest.mark.parametrize("name", ["student", "merged"])
def test_the_default_dtype_of_the_host_program_changes_nothing(student: Path, name: str) -> None:
    lq = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    expected = RestorationPipeline.from_pretrained(student / f"{name}.safetensors", "cpu", torch.float32)(lq)
    torch.set_default_dtype(torch.float64)
    try:
        found = RestorationPipeline.from_pretrained(student / f"{name}.safetensors", "cpu", torch.float32)(lq)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_encoder_start_and_noise_have_their_say(student: Path, pipeline: RestorationPipeline) -> None:
    lq = torch.rand(1, 3, 10, 10, generator=torch.Generator().manual_seed(1))
    seeds = [restored(pipeline, lq, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(seeds[0], seeds[1]) and not torch.equal(seeds[0], seeds[2])
    # Without its noise nothing is random.
    calm = [restored(pipeline, lq, seed=seed, fidelity=1.0) for seed in (0, 1)]
    assert torch.equal(calm[0], calm[1])
    header, state = load_checkpoint(student / "student.safetensors")
    untrained = {key: value for key, value in state.items() if not key.startswith(ENCODER_PREFIX)}
    path = student / "untrained.safetensors"
    save_checkpoint(path, untrained, header, torch.float32)
    other = RestorationPipeline.from_pretrained(path, "cpu", torch.float32)
    path.unlink()
    assert not torch.equal(restored(other, lq), seeds[0])


def test_tiles_agree_with_the_whole_up_to_what_the_norms_see(pipeline: RestorationPipeline) -> None:
    lq = torch.from_numpy(image(24, 32)).permute(2, 0, 1)[None].float() / 255
    whole = restored(pipeline, lq, tile=0)
    errors = {halo: float((restored(pipeline, lq, tile=12, halo=halo) - whole).abs().mean()) for halo in (0, 6)}
    assert 0 < errors[6] < errors[0], "a halo helps; norms and attention see the rest"
    assert pipeline.reach(1) is None and pipeline.halo(1) == 16


def test_any_size_and_all_orientations(pipeline: RestorationPipeline) -> None:
    for height, width in ((1, 7), (17, 9)):
        assert pipeline.restore_image(image(height, width)).shape == (4 * height, 4 * width, 3)
    lq = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    turned = restored(pipeline, lq.flip(3), tta=True).flip(3)
    # Noise belongs to places, so the mean over orientations is the same only where there is none.
    calm = restored(pipeline, lq, tta=True, fidelity=1.0)
    torch.testing.assert_close(restored(pipeline, lq.flip(3), tta=True, fidelity=1.0).flip(3), calm, atol=1e-4, rtol=0)
    assert turned.shape == calm.shape


def test_another_base_is_refused_in_one_line(student: Path, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(student, folder)
    header, state = load_checkpoint(student / "student.safetensors")
    base = folder / "base"
    other: Any = latent_models.diffusers.UNet2DConditionModel(**latent_models.UNET)
    other.save_pretrained(base / "unet")
    network = {**header.network, "pretrained_model_name_or_path": str(base)}
    save_checkpoint(folder / "student.safetensors", state, replace(header, network=network), torch.float32)
    with pytest.raises(AMDRestoreError, match="trained with another network than .*base holds now") as caught:
        RestorationPipeline.from_pretrained(folder / "student.safetensors", "cpu", torch.float32)
    assert "\n" not in str(caught.value)
    gone = {**header.network, "pretrained_model_name_or_path": str(tmp_path / "nowhere")}
    save_checkpoint(folder / "student.safetensors", state, replace(header, network=gone), torch.float32)
    with pytest.raises(AMDRestoreError, match="nowhere"):
        RestorationPipeline.from_pretrained(folder / "student.safetensors", "cpu", torch.float32)


@pytest.mark.parametrize("colour_fix", ["wavelet", "adain"])
def test_the_command_restores_with_tiles_and_colour_fix(student: Path, tmp_path: Path, colour_fix: str) -> None:
    write_image(tmp_path / "a.png", Picture(image(16, 24)))
    command = [
        warm_python(),
        str(REPOSITORY / "inference.py"),
        "-i",
        str(tmp_path / "a.png"),
        "-o",
        str(tmp_path / "out"),
    ]
    command += ["--model", str(student / "student.safetensors"), "--tile", "12", "--color-fix", colour_fix]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "a.png").is_file()
