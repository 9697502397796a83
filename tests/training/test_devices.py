"""What a training run takes from its machine, as far as that shows without a GPU."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_cuda import is_labelled, pretend_cuda
from torch.utils._python_dispatch import TorchDispatchMode
from training_setup import load_miniature, make_data, run_training, write_options

from amd_restore.archs.flat_arch import FlatDenoiser
from amd_restore.benchmark.__main__ import main as measure
from amd_restore.diffusion import Denoiser, approach, build_process, last_call, row_times
from amd_restore.diffusion.codec import upsample, upsample_by_matrices
from amd_restore.errors import AMDRestoreError
from amd_restore.losses.perceptual import random_view
from amd_restore.models.distributed import images_of_process
from amd_restore.registry import MODEL_REGISTRY, register_all
from amd_restore.training.pipeline import build_parser, prepare_options, settle_devices


def prepared(folder: Path, num_gpu: int | str) -> dict[str, Any]:
    """Options as a run sees them, of a file with this ``num_gpu`` and two images a step."""
    options = {**load_miniature("regression_x4_classical", folder), "num_gpu": num_gpu}
    arguments = build_parser(True).parse_args(["-opt", str(write_options(options, folder))])
    return prepare_options(arguments, folder, is_train=True)


def test_one_process_takes_one_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("test")
    for there, taken in ((0, 0), (1, 1), (4, 1)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda there=there: there)
        opt = prepared(tmp_path, "auto")
        assert opt["num_gpu"] == taken and images_of_process(opt) == 2
        caplog.clear()
        with caplog.at_level(logging.INFO):
            settle_devices(opt, logger)
        assert ("3 more are not; torchrun --nproc_per_node=4" in caplog.text) == (there == 4)
    assert prepared(tmp_path, 1)["num_gpu"] == 1
    with pytest.raises(AMDRestoreError, match=r"num_gpu: 4 needs a process for each GPU: torchrun --nproc_per_node=4"):
        prepared(tmp_path, 4)


def test_shapes_are_not_timed_by_cudnn(tmp_path: Path, assets: Path) -> None:
    make_data(tmp_path)
    result = run_training(load_miniature("regression_x4_classical", tmp_path, iterations=1), tmp_path)
    assert result.returncode == 0, result.stderr
    assert not torch.backends.cudnn.benchmark  # which BasicSR's pipeline switches on


@pytest.mark.parametrize(("height", "width", "scale"), [(8, 8, 4), (13, 31, 2), (1, 5, 3), (96, 40, 4)])
def test_upsampling_by_matrices_is_bicubic(height: int, width: int, scale: int) -> None:
    lq = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    found = upsample_by_matrices(lq, scale)
    assert found.shape == (2, 3, scale * height, scale * width)
    torch.testing.assert_close(found, upsample(lq, scale), rtol=0, atol=2e-6)


def test_optimizers_are_fused_on_a_gpu_only() -> None:
    register_all(training=True)
    model: Any = object.__new__(MODEL_REGISTRY.get("TeacherModel"))
    parameters = [torch.nn.Parameter(torch.zeros(3))]
    for device, expected in (("cpu", None), ("cuda", True)):
        model.device = torch.device(device)
        optimizer = model.get_optimizer("Adam", parameters, lr=1e-3, betas=[0.0, 0.99])
        assert optimizer.defaults["fused"] is expected and optimizer.defaults["lr"] == 1e-3
        assert model.get_optimizer("SGD", parameters, lr=1e-3, foreach=True).defaults["fused"] is None
        assert "fused" not in model.get_optimizer("RMSprop", parameters, lr=1e-3, alpha=0.9).defaults


def test_the_benchmark_does_not_round_on_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert measure(["-opt", str(tmp_path / "nothing.yml")]) == 2
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


class NoWaits(TorchDispatchMode):
    """Refuses to read a number off the pretended device, for which a GPU would have to be waited for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in ("aten::_local_scalar_dense", "aten::nonzero"):
            assert not any(isinstance(x, torch.Tensor) and is_labelled(x) for x in args), func
        return func(*args, **(kwargs or {}))


def test_rollouts_and_views_do_not_wait_for_a_gpu() -> None:
    generator = torch.Generator().manual_seed(0)
    net = FlatDenoiser(num_feat=8, num_block=1, time_feat=8)
    steps, stops = torch.tensor([1, 2, 4, 4]), torch.tensor([0, 1, 0, 3])
    noise, cond = torch.randn(4, 48, 6, 5, generator=generator), torch.randn(4, 3, 6, 5, generator=generator)
    process = build_process({})

    def samples(device: str) -> torch.Tensor:
        denoiser = Denoiser(net.to(device), process, "v")
        there, fresh = noise.to(device), (lambda step: there * step)
        times = row_times(steps, 3, 0.2)
        states = approach(denoiser, there, cond.to(device), times, stops, fresh)
        x0, made_at = last_call(denoiser, there, states, cond.to(device), times, stops)
        view, _ = random_view(x0[:, :3].repeat(1, 1, 16, 16), x0[:, :3].repeat(1, 1, 16, 16), generator)
        assert made_at.device == view.device == x0.device
        return x0.detach().cpu()

    expected = samples("cpu")
    with pretend_cuda(), NoWaits():
        with pytest.raises(AssertionError):
            int(stops.to("cuda").max())
        assert torch.equal(samples("cuda"), expected)
