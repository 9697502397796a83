"""Models in ncnn's format that no package has: a user downloads the files, these adapters check and run them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

from ncnn_peer import NCNN, NcnnPeer
from peer import Package, PeerError, install_with_pip

CUSTOM_MODELS = Package(
    "GitHub",
    "upscayl/custom-models",
    "4b6d2cfa59c7442af115dfc6e50fd8d7d40b96ef",
    "not stated for the models",
)


def check_file(path: Path, sha256: str, source: str) -> None:
    """Check a file that the user has downloaded.

    Args:
        path: of the file.
        sha256: its hash.
        source: where it comes from, for the message.

    Raises:
        PeerError: it is missing, or is another file.
    """
    if not path.is_file():
        raise PeerError(f"{path.name} is not in the folder of downloads; take it from {source}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != sha256:
        raise PeerError(f"{path.name}: the file's SHA-256 is {digest[:16]}, expected {sha256[:16]}")


class DownloadedPeer(NcnnPeer):
    """A model of that repository: ``models/FILE.param`` and ``models/FILE.bin``, in the folder of downloads.

    Attributes:
        file: their name, without suffix.
        hashes: SHA-256 of both, by suffix.
    """

    packages = (CUSTOM_MODELS, NCNN)
    archive = CUSTOM_MODELS
    file: ClassVar[str]
    hashes: ClassVar[dict[str, str]]

    def install(self) -> None:
        for suffix, expected in self.hashes.items():
            check_file(self.downloads / f"{self.file}{suffix}", expected, f"{self.archive}, models/")
        install_with_pip(NCNN, self.cache)

    def stem(self) -> Path:
        return self.downloads / self.file


class RealESRGeneral(DownloadedPeer):
    """The small network by the authors of Real-ESRGAN for photographs; its strength of denoising is full."""

    name = "realesr-general-x4v3"
    about = "realesr-general-x4v3 (SRVGG, 1.2 M), ncnn on the CPU"
    licence = "BSD-3-Clause"
    file = "RealESRGAN_General_x4_v3"
    hashes: ClassVar[dict[str, str]] = {
        ".param": "22174924330297357434ad21ed0af7f4b820008d2a502b492754d130d4142714",
        ".bin": "85ee266b632a765a725425ba6a5620c088c8aa2939a03063b2d83b3462724cc1",
    }


class RealESRGeneralWDN(DownloadedPeer):
    """The same network with weak denoising: more texture, and more noise kept."""

    name = "realesr-general-wdn-x4v3"
    about = "realesr-general-wdn-x4v3 (SRVGG, 1.2 M), ncnn on the CPU"
    licence = "BSD-3-Clause"
    file = "RealESRGAN_General_WDN_x4_v3"
    hashes: ClassVar[dict[str, str]] = {
        ".param": "22174924330297357434ad21ed0af7f4b820008d2a502b492754d130d4142714",
        ".bin": "74eae91a6230cbe5b931be6c49141faaff0034976933d4da9accb77c329c8a78",
    }


class LSDIRCompact(DownloadedPeer):
    """4xLSDIRCompactC3 by Philip Hofmann: compressed inputs."""

    name = "lsdir-compact-c3"
    about = "4xLSDIRCompactC3 by Phhofm (SRVGG, 0.6 M), ncnn on the CPU"
    licence = "CC-BY-4.0, as programs state that carry the model"
    file = "4xLSDIRCompactC3"
    hashes: ClassVar[dict[str, str]] = {
        ".param": "6e3795fb5b6c68b2c39822e78bf83b575c918f96e9db6c36934a79e7d491d5e1",
        ".bin": "692aa5e70c86522ce2d72b94f372751339a2fee65f515d06da5d496d8cf93667",
    }
