"""Inputs and outputs in folders and stores, by the rules of ``apps.files.plan.plan_jobs``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from amd_restore.apps.files.plan import (
    IN_OUTPUT,
    check_folder_name,
    find_sources,
    is_done,
    is_image_name,
    is_input,
    name_target,
    name_targets,
    omissions,
    plan_jobs,
    set_apart,
)
from amd_restore.apps.ray.storage import is_url, list_folder, split_url
from amd_restore.errors import AMDRestoreError


@dataclass(frozen=True)
class ClusterJob:
    """One image to read and one to write.

    Args:
        source, target: path or URL.
    """

    source: str
    target: str

    def everywhere(self) -> ClusterJob:
        """Return the job with paths that do not depend on the working directory."""
        source, target = (name if is_url(name) else os.path.abspath(name) for name in (self.source, self.target))
        return ClusterJob(source, target)


def plan_cluster_jobs(
    source: str | Path,
    output: str | Path,
    suffix: str = "",
    ext: str = "auto",
    recursive: bool = False,
    extras: Sequence[str] = (),
    frames: bool = False,
    left_out: Counter[str] | None = None,
) -> list[ClusterJob]:
    """Plan inputs and outputs as ``apps.files.plan.plan_jobs``, also for URLs.

    Raises:
        AMDRestoreError: a store cannot be listed.
    """
    left_out = Counter() if left_out is None else left_out
    if not is_url(source) and not is_url(output):
        jobs = plan_jobs(Path(source), Path(output), suffix, ext, recursive, extras, frames, left_out)
        return [ClusterJob(str(job.source), str(job.target)) for job in jobs]
    from_prefix, root = _split(source)
    to_prefix, folder = _split(output)
    names = _names(source, output, recursive, left_out)
    if names is None:
        if is_image_name(folder, frames) and (is_url(output) or not os.path.isdir(output)):
            own = _key(from_prefix, root)
            target = name_target(root, own, folder, lambda path: _key(to_prefix, path), suffix, ext, extras)
            return [ClusterJob(str(source), _join(to_prefix, target))]
        if is_url(output) or not os.path.isdir(output):
            check_folder_name(folder)
        root, names = root.parent, [root.name]
        sources = [str(source)]
        paths = [root / names[0]]
    else:
        suffix, paths = set_apart(
            [root / name for name in names],
            root,
            folder,
            lambda path: _key(from_prefix, path),
            lambda path: _key(to_prefix, path),
            suffix,
            left_out,
        )
        sources = [f"{str(source).rstrip('/')}/{path.relative_to(root).as_posix()}" for path in paths]
    taken = {_key(from_prefix, path) for path in paths}
    targets = name_targets(paths, root, folder, taken, lambda path: _key(to_prefix, path), suffix, ext, extras, frames)
    return [ClusterJob(name, _join(to_prefix, target)) for name, target in zip(sources, targets, strict=True)]


def present(items: Sequence[ClusterJob], output: str | Path) -> set[ClusterJob]:
    """Return jobs whose target exists; a store is listed once."""
    if not is_url(output):
        return {item for item in items if is_done(item.target)}
    base = _join(*_split(output)).rstrip("/")  # the form of the targets
    listed = list_folder(base, recursive=True)
    names = {base} if listed is None else {f"{base}/{name}" for name in listed}
    return {item for item in items if item.target in names}


def _names(source: str | Path, output: str | Path, recursive: bool, left_out: Counter[str]) -> list[str] | None:
    """Return images in the folder ``source``, relative to it; None if it is a file."""
    if is_url(source):
        listed = list_folder(str(source), recursive)
    elif os.path.isfile(source):
        return None
    else:
        root, found = find_sources(Path(source), None, recursive, left_out)
        return [path.relative_to(root).as_posix() for path in found]
    if listed is None:
        return None
    # Results of an earlier run inside the input folder are not inputs.
    base, inside = str(source).rstrip("/") + "/", str(output).rstrip("/") + "/"
    skipped = inside[len(base) :] if inside.startswith(base) and inside != base else None
    outside = [name for name in listed if not (skipped and name.startswith(skipped))]
    left_out[IN_OUTPUT] += len(listed) - len(outside)
    # A hidden part of a name could also lead out of the output folder.
    names = [name for name in outside if is_input(name, left_out)]
    if not names:
        advice = "name another one" if recursive else "name another one, or look deeper with --recursive"
        raise AMDRestoreError(f"{source}: no image there{omissions('left out', left_out)}; {advice}")
    return names


def _split(name: str | Path) -> tuple[str, PurePath]:
    if not is_url(name):
        return "", Path(name)
    prefix, path = split_url(str(name))
    return prefix, PurePosixPath(path)


def _join(prefix: str, path: PurePath) -> str:
    return prefix + str(path)


def _key(prefix: str, path: PurePath) -> str:
    # Stores distinguish letter case, but the same command should give the same names everywhere.
    return (prefix + str(path if prefix else Path(path).resolve())).casefold()
