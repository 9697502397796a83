"""Fixtures of the tests of the web page."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_model import save_tiny
from ui_setup import MAX_PIXELS

from amd_restore.apps.ui.uploads import UploadRestorer
from amd_restore.pipeline import RestorationPipeline


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module")
def restorer(weights: Path) -> UploadRestorer:
    return UploadRestorer(RestorationPipeline.from_pretrained(weights, "cpu"), MAX_PIXELS)
