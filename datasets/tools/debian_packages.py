"""Fetching and unpacking Debian packages without root, with their checksums verified."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from amd_restore.errors import AMDRestoreError
from tools.image_files import file_sha256

_UPDATE_HINT = "on Debian bookworm run 'apt-get update' (as root) first"


def describe(package: str) -> dict[str, str]:
    """Fields of the package version that apt would install, from ``apt-cache show``.

    Returns:
        At least ``Version``, ``SHA256`` and ``Filename``.

    Raises:
        AMDRestoreError: No apt here, or it does not know the package.
    """
    text = _run(["apt-cache", "show", "--no-all-versions", package], f"apt knows no {package}; {_UPDATE_HINT}")
    fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", text, re.MULTILINE))
    missing = {"Version", "SHA256", "Filename"} - fields.keys()
    if missing:
        raise AMDRestoreError(f"{package}: apt states no {', '.join(sorted(missing))}; {_UPDATE_HINT}")
    return fields


def fetch(package: str, cache: Path) -> Path:
    """Download a package into `cache` unless a file with the right checksum is there.

    Returns:
        Path of the ``.deb``.

    Raises:
        AMDRestoreError: Download failed, or the file's SHA-256 is not the one apt states.
    """
    fields = describe(package)
    # apt escapes the colon of an epoch in the names of the files it stores.
    architecture = Path(fields["Filename"]).stem.rsplit("_", 1)[-1]
    target = cache / f"{package}_{fields['Version'].replace(':', '%3a')}_{architecture}.deb"
    if target.is_file() and file_sha256(target) == fields["SHA256"]:
        return target
    cache.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    _run(["apt-get", "download", package], f"{package} could not be downloaded; {_UPDATE_HINT}", cwd=cache)
    if not target.is_file():
        raise AMDRestoreError(f"{package}: apt-get stored no {target.name} in {cache}")
    if file_sha256(target) != fields["SHA256"]:
        target.unlink()
        raise AMDRestoreError(f"{target.name}: checksum differs from the one apt states; removed, try again")
    return target


def unpack(deb: Path, cache: Path) -> Path:
    """Unpack a package's files below `cache`/unpacked, once.

    Returns:
        Folder that stands for ``/`` of the package.
    """
    folder = cache / "unpacked" / deb.stem
    if folder.is_dir():
        return folder
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _run(["dpkg-deb", "-x", str(deb.resolve()), str(partial)], f"{deb.name} could not be unpacked")
    partial.rename(folder)
    return folder


def _run(command: list[str], failure: str, cwd: Path | None = None) -> str:
    if shutil.which(command[0]) is None:
        raise AMDRestoreError(f"{command[0]} is missing: the photographs come from Debian packages")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise AMDRestoreError(f"{failure} ({reason})")
    return done.stdout
