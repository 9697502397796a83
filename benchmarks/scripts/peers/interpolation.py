"""Interpolation as programs offer it, named by library and kernel, because the kernels differ."""

from __future__ import annotations

from typing import Any, ClassVar

import cv2
import numpy as np
import PIL.Image
from peer import SCALE, Image, Peer


class OpenCVPeer(Peer):
    """``cv2.resize``."""

    licence = "Apache-2.0"
    flag: ClassVar[int]

    def run(self, model: Any, rgb: Image) -> Image:
        cv2.setNumThreads(self.threads)
        return np.asarray(cv2.resize(rgb, None, fx=SCALE, fy=SCALE, interpolation=self.flag), dtype=np.uint8)


class PillowPeer(Peer):
    """``PIL.Image.resize``."""

    licence = "MIT-CMU"
    flag: ClassVar[PIL.Image.Resampling]

    def run(self, model: Any, rgb: Image) -> Image:
        size = (SCALE * rgb.shape[1], SCALE * rgb.shape[0])
        return np.asarray(PIL.Image.fromarray(rgb).resize(size, self.flag), dtype=np.uint8)


class OpenCVBicubic(OpenCVPeer):
    """4x4 pixels; sharper than MATLAB's and Pillow's."""

    name = "opencv-bicubic"
    about = "OpenCV INTER_CUBIC (a = -0.75)"
    flag = cv2.INTER_CUBIC


class OpenCVLanczos(OpenCVPeer):
    """8x8 pixels."""

    name = "opencv-lanczos4"
    about = "OpenCV INTER_LANCZOS4 (4 lobes)"
    flag = cv2.INTER_LANCZOS4


class PillowBicubic(PillowPeer):
    """4x4 pixels, the kernel of MATLAB's imresize."""

    name = "pillow-bicubic"
    about = "Pillow BICUBIC (a = -0.5)"
    flag = PIL.Image.Resampling.BICUBIC


class PillowLanczos(PillowPeer):
    """6x6 pixels."""

    name = "pillow-lanczos3"
    about = "Pillow LANCZOS (3 lobes)"
    flag = PIL.Image.Resampling.LANCZOS
