"""UpscalerJS esrgan-thick x4, a Keras model run by torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from peer import Image, Package, Peer

ESRGAN_THICK = Package(
    "npm",
    "@upscalerjs/esrgan-thick",
    "1.0.0",
    "MIT",
    "3d38971084d8281bf68da443085c7eb65355fb28aa81b33b54f950cca6328a15",
    r"^package/(models/x4/|LICENSE$)",
)


class ESRGANThick(Peer):
    """The largest of UpscalerJS' ESRGAN models: RRDB with ReLU and one depth-to-space."""

    name = "upscalerjs-esrgan-thick"
    about = "UpscalerJS esrgan-thick x4 (RRDB, 7.3 M), torch on the CPU"
    licence = "MIT"
    packages = (ESRGAN_THICK,)

    def load(self) -> Any:
        import torch  # here, and not for every peer's process
        from keras_layers import LayersModel

        torch.set_num_threads(self.threads)
        return LayersModel(ESRGAN_THICK.folder(self.cache) / "package/models/x4/model.json")

    def run(self, model: Any, rgb: Image) -> NDArray[np.floating]:
        import torch

        lq = torch.from_numpy(rgb.transpose(2, 0, 1).copy())[None].float() / 255.0
        with torch.inference_mode():
            result: NDArray[np.floating] = model(lq)[0].permute(1, 2, 0).numpy()
        return result
