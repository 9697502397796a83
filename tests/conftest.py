"""Fixtures shared by all tests: assets, small images, and one thread."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

pytest_plugins = ["ui_setup", "video_setup"]

# Tests run in as many processes as there are processors, and a second thread has little to do in layers of a few
# pixels. The variable is for the processes that they start.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# A shell ignores Ctrl-C in what it runs in the background, and processes inherit that; tests interrupt some.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many processes ``-n auto`` means: one for each processor up to eight, as each takes two gigabytes."""
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(usable, 8)


@pytest.fixture(scope="session")
def assets() -> Path:
    """Folder of perceptual weights and benchmark images; see the README for how to get them.

    Without it a test is skipped, except in CI, where a skipped test would look like a passed one.
    """
    folder = Path(os.environ.get("AMD_RESTORE_ASSETS") or "~/.cache/amd_restore").expanduser()
    if not (folder / "benchmarks").is_dir():  # the default folder is also where exported networks are kept
        reason = f"no assets in {folder} (set AMD_RESTORE_ASSETS to the folder that has them)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Whatever number of threads a command was told."""
    yield
    torch.set_num_threads(1)


@pytest.fixture
def tiny_image() -> np.ndarray:
    """RGB uint8 (48, 64, 3): smooth colours with an edge and some grain, the same in every run."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:48, 0:64]
    image = np.stack([x * 4, y * 5, (x + y) * 2], axis=2).astype(np.float64)
    image[:, 32:] *= 0.6
    return np.clip(image + rng.normal(0.0, 6.0, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def tiny_tensor(tiny_image: np.ndarray) -> torch.Tensor:
    """The same picture as RGB float32 (1, 3, 48, 64) in [0, 1]."""
    return torch.from_numpy(tiny_image).permute(2, 0, 1)[None].float() / 255.0
