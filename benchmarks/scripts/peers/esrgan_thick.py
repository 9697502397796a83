"""UpscalerJS esrgan-thick x4, a Keras model run by torch."""

from __future__ import annotations

from typing import Any

from peer import Package
from torch_peer import TorchPeer

ESRGAN_THICK = Package(
    "npm",
    "@upscalerjs/esrgan-thick",
    "1.0.0",
    "MIT",
    "3d38971084d8281bf68da443085c7eb65355fb28aa81b33b54f950cca6328a15",
    r"^package/(models/x4/|LICENSE$)",
)


class ESRGANThick(TorchPeer):
    """The largest of UpscalerJS' ESRGAN models: RRDB with ReLU and one depth-to-space."""

    name = "upscalerjs-esrgan-thick"
    about = "UpscalerJS esrgan-thick x4 (RRDB, 7.3 M), torch on the CPU"
    licence = "MIT"
    packages = (ESRGAN_THICK,)

    def build(self) -> Any:
        from keras_layers import LayersModel  # needs torch

        return LayersModel(ESRGAN_THICK.folder(self.cache) / "package/models/x4/model.json")
