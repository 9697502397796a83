"""What the tests of the web page share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import save_tiny

from amd_restore.apps.ui.uploads import UploadRestorer
from amd_restore.pipeline import RestorationPipeline

MAX_PIXELS = 2_000


@pytest.fixture(scope="session")
def ui_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="session")
def restorer(ui_weights: Path) -> UploadRestorer:
    return UploadRestorer(RestorationPipeline.from_pretrained(ui_weights, "cpu"), MAX_PIXELS)


def noise(height: int = 9, width: int = 14, channels: int = 3, dtype: type = np.uint8) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(height * width)
    return rng.integers(0, np.iinfo(dtype).max, (height, width, channels), endpoint=True).astype(dtype)
