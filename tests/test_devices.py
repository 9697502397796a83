"""What a training run takes from its machine, as far as that shows without a GPU."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from training_setup import load_miniature, make_data, run_training, write_options

from amd_restore.errors import AMDRestoreError
from amd_restore.models.distributed import images_of_process
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
