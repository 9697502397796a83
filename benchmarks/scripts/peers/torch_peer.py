"""Upscalers that run in torch on the CPU: one way in, one way out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from peer import Image, Peer

if TYPE_CHECKING:
    from torch import Tensor


class TorchPeer(Peer, ABC):
    """Base of peers whose model maps images (B, 3, H, W) to (B, 3, 4H, 4W), both in [0, 1]."""

    @abstractmethod
    def build(self) -> Any:
        """Return the model."""

    def enlarge(self, model: Any, image: Tensor) -> Tensor:
        """Return the model's output; override it where the model is not a callable."""
        result: Tensor = model(image)
        return result

    def load(self) -> Any:
        import torch  # here, and not for every peer's process

        torch.set_num_threads(self.threads)
        return self.build()

    def run(self, model: Any, rgb: Image) -> NDArray[np.floating]:
        import torch

        lq = torch.from_numpy(rgb.transpose(2, 0, 1).copy())[None].float() / 255.0
        with torch.inference_mode():
            result: NDArray[np.floating] = self.enlarge(model, lq)[0].permute(1, 2, 0).numpy()
        return result
