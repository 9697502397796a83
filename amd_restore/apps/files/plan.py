"""Which file becomes which: no two outputs share a name, none is an input, the tree of folders is kept."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeVar

from amd_restore.atomic import remove_stale, try_writing
from amd_restore.errors import AMDRestoreError

AnyPath = TypeVar("AnyPath", bound=PurePath)
EXTENSIONS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tiff", "avif": ".avif"}


@dataclass(frozen=True)
class Job:
    """One image to read and one to write."""

    source: Path
    target: Path

    def beside(self, what: str, suffix: str = ".png") -> Path:
        """A further output: ``NAME_what.png`` beside the target."""
        return _beside(self.target, what, suffix)


def plan_jobs(
    source: Path,
    output: Path,
    suffix: str = "",
    ext: str = "auto",
    recursive: bool = False,
    extras: Sequence[str] = (),
    frames: bool = False,
) -> list[Job]:
    """Inputs with their outputs; no two outputs share a name and none is an input, letter case aside.

    ``a.jpg`` and ``a.png`` that would both become ``a.png`` are written as ``a_jpg.png`` and ``a_png.png``;
    an output that would replace an input gets ``_restored`` added. Where the source is one file, an ``output`` with the
    suffix of an image is the file to write, unless a folder of that name exists. ``extras`` are the further outputs of
    each image, see :meth:`Job.beside`. With ``frames`` a GIF stays one, else it becomes a
    PNG.

    Raises:
        AMDRestoreError: the source does not exist, or holds no image; an extra would replace another picture.
    """
    if source.is_file() and is_image_name(output, frames) and not output.is_dir():
        target = output.with_name(f"{output.stem}{suffix}{EXTENSIONS.get(ext, output.suffix)}")
        return [Job(source, target if _key(target) != _key(source) else _restored(target))]
    root, sources = find_sources(source, output, recursive)
    taken = {_key(path) for path in sources}
    targets = name_targets(sources, root, output, taken, _key, suffix, ext, extras, frames)
    return [Job(path, target) for path, target in zip(sources, targets, strict=True)]


def find_sources(source: Path, output: Path | None, recursive: bool) -> tuple[Path, list[Path]]:
    """The folder that relative names start from, and the images; those in the folder ``output`` are left out.

    Raises:
        AMDRestoreError: the source does not exist, cannot be listed, or holds no image.
    """
    from amd_restore.image_io import READABLE_SUFFIXES

    if source.is_file():
        return source.parent, [source]
    if not source.is_dir():
        raise AMDRestoreError(f"{source}: no such file or folder; check -i")
    skipped = None if output is None else output.resolve()
    inside = skipped is not None and source.resolve() in skipped.parents
    try:
        found = sorted(
            path
            for path in _walk(source, recursive)
            if path.suffix.lower() in READABLE_SUFFIXES
            and path.is_file()
            # Results of an earlier run inside the input folder are no inputs.
            and not (inside and skipped in path.resolve().parents)
        )
    except OSError as error:
        raise AMDRestoreError(f"{source}: cannot be listed ({error.strerror}); check its permissions") from error
    if not found:
        names = " ".join(READABLE_SUFFIXES)
        advice = "name another folder" if recursive else "name another folder, or look deeper with --recursive"
        raise AMDRestoreError(f"{source}: no image in this folder ({names}); {advice}")
    return source, found


def name_targets(
    sources: Sequence[PurePath],
    root: PurePath,
    output: AnyPath,
    taken: set[str],
    key: Callable[[AnyPath], str],
    suffix: str = "",
    ext: str = "auto",
    extras: Sequence[str] = (),
    frames: bool = False,
) -> list[AnyPath]:
    """Outputs of ``sources``, named as :func:`plan_jobs` says; nothing is looked up.

    Args:
        sources: below ``root``.
        root: the folder that relative names start from.
        output: the folder to write to.
        taken: keys of names that must not be written, as those of the inputs.
        key: equal for two names of one file.
        suffix, ext, extras, frames: see :func:`plan_jobs`.

    Raises:
        AMDRestoreError: an extra would replace another picture.
    """
    plain = [_target(path, root, output, suffix, ext, frames) for path in sources]
    wanted = [key(target) for target in plain]
    claims = Counter(wanted)
    taken, targets = set(taken), []
    for path, target, name in zip(sources, plain, wanted, strict=True):
        if claims[name] > 1:
            target = target.with_name(f"{target.stem}_{path.suffix[1:].lower()}{target.suffix}")
            name = key(target)
        while name in taken:
            target = _restored(target)
            name = key(target)
        taken.add(name)
        targets.append(target)
    for path, target in zip(sources, targets, strict=True):
        for what in extras:
            extra = _beside(target, what, target.suffix if what.startswith("sample") else ".png")
            if key(extra) in taken:
                raise AMDRestoreError(f"{path}: {extra} would replace another picture; choose a --suffix")
    return targets


def is_image_name(path: PurePath, frames: bool = False) -> bool:
    """Whether the suffix of ``path`` is that of a format that can be written, with ``frames`` also of animations."""
    from amd_restore.image_io import FRAME_SUFFIXES, SUFFIXES

    return path.suffix.lower() in (*SUFFIXES, *(FRAME_SUFFIXES if frames else ()))


def check_writable(folder: Path) -> None:
    """Make the output folder, try it, so that a long run does not end in nothing, and clear what a killed run left.

    Raises:
        AMDRestoreError: it cannot be made or written to.
    """
    probe = folder / ".amd-restore.probe"
    try:
        try_writing(probe)  # killed in between, it leaves a temporary file, which the next run clears
    except AMDRestoreError as error:
        reason = str(error).removeprefix(f"cannot write {probe}: ").split(";")[0]
        raise AMDRestoreError(f"{folder}: cannot write there ({reason}); name another folder with -o") from error


def clear_stale(jobs: list[Job]) -> int:
    """Remove temporary files that a killed run left beside the outputs of ``jobs``; returns how many."""
    return sum(remove_stale(folder) for folder in sorted({job.target.parent for job in jobs}))


def _walk(folder: Path, recursive: bool) -> Iterator[Path]:
    """Entries that are not hidden; links to folders are not entered, for they may lead in circles."""

    def fail(error: OSError) -> None:
        if Path(error.filename) == folder:  # a locked folder further down costs only itself
            raise error

    for parent, folders, names in os.walk(folder, onerror=fail):
        yield from (Path(parent, name) for name in names if not name.startswith("."))
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]


def _beside(target: AnyPath, what: str, suffix: str) -> AnyPath:
    return target.with_name(f"{target.stem}_{what}{suffix}")


def _target(path: PurePath, root: PurePath, output: AnyPath, suffix: str, ext: str, frames: bool) -> AnyPath:
    extension = EXTENSIONS.get(ext, path.suffix)
    target = output / path.relative_to(root).parent / f"{path.stem}{suffix}{extension}"
    # A single file may have any name; its content decides.
    return target if is_image_name(target, frames) else target.with_name(f"{path.stem}{suffix}.png")


def _restored(target: AnyPath) -> AnyPath:
    return target.with_name(f"{target.stem}_restored{target.suffix}")


def _key(path: Path) -> str:
    # Two names that differ in case only are one file on macOS and Windows.
    return str(path.resolve()).casefold()
