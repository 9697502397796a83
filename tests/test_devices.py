"""What a training run takes from its machine, as far as that shows without a GPU."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from training_setup import load_miniature, make_data, run_training, write_options

from amd_restore.benchmark.__main__ import main as measure
from amd_restore.diffusion.codec import upsample, upsample_by_matrices
from amd_restore.errors import AMDRestoreError
from amd_restore.models.distributed import images_of_process
from amd_restore.registry import MODEL_REGISTRY, register_all
from amd_restore.training import build_parser, prepare_options, settle_devices


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


def test_the_benchmark_does_not_round_on_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert measure(["-opt", str(tmp_path / "nothing.yml")]) == 2
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
