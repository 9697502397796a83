"""A device that computes wrong images is not used, and a black or broken result is not taken for an image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from pretend_cuda import forget_networks, pretend_cuda
from tiny_model import save_tiny, tiny_header, tiny_state

from amd_restore.arrays import host
from amd_restore.diffusion.codec import upsample
from amd_restore.errors import AMDRestoreError
from amd_restore.inference import check, trial
from amd_restore.inference.flaws import flaw_of
from amd_restore.integrations.diffusers_pipeline import AMDRestorePipeline
from amd_restore.pipeline import RestorationPipeline
from amd_restore.precision import CPU
from amd_restore.weights import build_network, save_checkpoint

WRONG = {"not finite": float("nan"), "off by": 0.0, "black": 100.0}  # what convolutions give


@pytest.fixture(autouse=True)
def fresh_verdicts() -> Iterator[None]:
    check.device_fault.cache_clear()
    yield
    forget_networks()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny.safetensors")


@pytest.fixture
def blackening(tmp_path: Path) -> Path:
    """A student whose images are black, or would be, were they not far below 0."""
    state = tiny_state()
    state["conv_out.bias"] += 1000.0
    save_checkpoint(tmp_path / "black.safetensors", state, tiny_header())
    return tmp_path / "black.safetensors"


@pytest.mark.parametrize("fault", WRONG)
def test_auto_passes_over_a_device_that_is_wrong(
    fault: str, weights: Path, tiny_tensor: torch.Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = RestorationPipeline.from_pretrained(weights, "cpu")(tiny_tensor)
    with pretend_cuda(WRONG[fault]):
        pipeline = RestorationPipeline.from_pretrained(weights, "auto")
        assert pipeline.device == CPU and torch.equal(pipeline(tiny_tensor), expected)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"note: cuda gives wrong images ({fault}") and "amd-restore doctor" in line
        assert RestorationPipeline.from_pretrained(weights, "auto", backend="onnx").device == CPU


@pytest.mark.parametrize("fault", WRONG)
@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_a_wrong_device_that_is_named_is_an_error(fault: str, backend: str, weights: Path) -> None:
    with (
        pretend_cuda(WRONG[fault]),
        pytest.raises(AMDRestoreError, match=rf"device 'cuda' gives wrong images \({fault}"),
    ):
        RestorationPipeline.from_pretrained(weights, "cuda", backend=backend)


@pytest.mark.parametrize("message", ["CUDA error: no kernel image is available\nfor execution", ""])
def test_a_device_that_cannot_compute_is_wrong(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = trial.WindowRestorer

    def without_cuda(header: object, net: object, codec: object, device: torch.device, *rest: object) -> object:
        if device.type == "cuda":
            raise RuntimeError(message)
        return restorer(header, net, codec, device, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(trial, "WindowRestorer", without_cuda)
    with pretend_cuda():
        fault = check.device_fault(torch.device("cuda"), torch.float32)
        assert fault == (message.splitlines()[0] if message else "RuntimeError")
        assert check.sound_device("auto") == CPU


def test_a_device_is_checked_once_and_the_processor_never(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = mock.Mock(wraps=check.default_weights)
    monkeypatch.setattr(check, "default_weights", judge)
    RestorationPipeline.from_pretrained(weights, "cpu")
    assert judge.call_count == 0
    with pretend_cuda():
        for name in ("auto", "cuda", "auto"):
            assert RestorationPipeline.from_pretrained(weights, name).device.type == "cuda"
    assert judge.call_count == 1


def test_auto_takes_the_next_device(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [torch.device("cuda"), torch.device("mps"), CPU]
    monkeypatch.setattr(check, "present_devices", lambda: devices)
    monkeypatch.setattr(check, "resolve_dtype", lambda dtype, device: torch.float32)
    monkeypatch.setattr(check, "device_fault", lambda device, dtype: "black" if device.type == "cuda" else None)
    assert check.sound_device("auto") == torch.device("mps")


@pytest.mark.parametrize("tile", [0, 16])
def test_a_black_tile_of_an_image_that_is_not_is_an_error(blackening: Path, tile: int) -> None:
    pipeline = RestorationPipeline.from_pretrained(blackening, "cpu")
    image = np.zeros((40, 40, 3), np.uint8)
    assert not pipeline.restore_image(image, tile=tile).any()
    image[:8, :8] = 3  # A night sky: its noise may go.
    assert not pipeline.restore_image(image, tile=tile).any()
    image[32:, 32:] = 255
    with pytest.raises(AMDRestoreError, match="output is black; try --dtype fp32 or --device cpu, and run amd-restore"):
        pipeline.restore_image(image, tile=tile)
    batch = torch.stack([torch.zeros(3, 8, 8), torch.full((3, 8, 8), 0.5)])
    with pytest.raises(AMDRestoreError, match="black"):
        pipeline(batch)


def test_pipelines_of_diffusers_refuse_black_images_too(blackening: Path) -> None:
    pipe = AMDRestorePipeline.from_amd_restore(blackening)
    with pytest.raises(AMDRestoreError, match="black"):
        pipe(torch.full((1, 3, 8, 8), 0.5))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_spoils_an_image(value: float) -> None:
    sr, lq = torch.full((2, 3, 8, 8), 0.5), torch.full((2, 3, 2, 2), 0.5)
    assert flaw_of(sr, lq) is None
    sr[1, 2, 7, 7] = value
    assert flaw_of(sr, lq) == "not finite"


def test_the_image_of_the_check_needs_the_network(tmp_path: Path) -> None:
    """Enlarging it by interpolation alone is off by far more than any tolerance."""
    header, state = check.default_weights()
    for side in (16, 64):
        lq = trial.fixed_image(side)
        assert 0 <= lq.min() and lq.max() <= 1
        expected = trial.restoration(header, build_network(header, state), CPU, torch.float32, lq)()
        plain = host(upsample(lq, 4))
        assert trial.difference(plain, expected) > 2 * max(trial.TOLERANCES.values())
        assert trial.fault_of(expected, lq, expected, "fp32") is None
