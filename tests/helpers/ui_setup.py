"""What the tests of the web page share."""

from __future__ import annotations

from typing import Any

import numpy as np

MAX_PIXELS = 2_000


def noise(height: int = 9, width: int = 14, channels: int = 3, dtype: type = np.uint8) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(height * width)
    return rng.integers(0, np.iinfo(dtype).max, (height, width, channels), endpoint=True).astype(dtype)
