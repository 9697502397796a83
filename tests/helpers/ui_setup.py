"""What the tests of the web pages share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from tiny_model import save_tiny

from amd_restore.apps.ui.models import Models
from amd_restore.apps.ui.uploads import UploadRestorer
from amd_restore.pipeline import RestorationPipeline

MAX_PIXELS = 2_000
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def ui_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="session")
def restorer(ui_weights: Path) -> UploadRestorer:
    return UploadRestorer(Models(ui_weights, lambda path: RestorationPipeline.from_pretrained(path, "cpu")), MAX_PIXELS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; see :func:`missing`."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    if CHROMIUM is None:
        missing("needs Chromium")
    switches = "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-sync"
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=[f"--{name}" for name in (*switches.split(), "disable-component-update")],
        )
        yield started
        started.close()


def missing(reason: str) -> NoReturn:
    """Skip a test that needs a program; fail it in CI, where a skipped test would look like a passed one."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def noise(height: int = 9, width: int = 14, channels: int = 3, dtype: type = np.uint8) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(height * width)
    return rng.integers(0, np.iinfo(dtype).max, (height, width, channels), endpoint=True).astype(dtype)
