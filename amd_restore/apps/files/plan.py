"""Which file becomes which: no two outputs share a name, none is an input, the tree of folders is kept."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, TypeVar

from amd_restore.atomic import remove_stale, try_writing, user_error
from amd_restore.errors import AMDRestoreError

AnyPath = TypeVar("AnyPath", bound=PurePath)
IN_OUTPUT = "in the output folder"  # a kind of what is left out
_RESTORED = "_restored"  # is added to names of outputs that would be those of inputs
LONGEST_NAME = 255  # bytes
EXTENSIONS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tiff", "avif": ".avif"}


@dataclass(frozen=True)
class Job:
    """One image to read and one to write."""

    source: Path
    target: Path

    def extra(self, what: str) -> Path:
        """A further output: ``NAME_what.png`` beside the target, samples in its format."""
        return _extra(self.target, what)


def plan_jobs(
    source: Path,
    output: Path,
    suffix: str = "",
    ext: str = "auto",
    recursive: bool = False,
    extras: Sequence[str] = (),
    frames: bool = False,
    left_out: Counter[str] | None = None,
) -> list[Job]:
    """Inputs with their outputs; no two outputs share a name and none is an input, letter case aside.

    ``a.jpg`` and ``a.png`` that would both become ``a.png`` are written as ``a_jpg.png`` and ``a_png.png``;
    an output that would replace an input gets ``_restored`` added, and where the outputs lie among the inputs, all get
    it that have no ``suffix`` (see :func:`set_apart`). Where the source is one file, an ``output`` with the
    suffix of an image is the file to write, unless a folder of that name exists. ``extras`` are the further outputs of
    each image, see :meth:`Job.extra`. With ``frames`` a GIF stays one, else it becomes a PNG. ``left_out`` counts
    what is in the folder and no input, by kind.

    Raises:
        AMDRestoreError: the source does not exist, or holds no image; an extra would replace another picture.
    """
    if source.is_file() and is_image_name(output, frames) and not output.is_dir():
        return [Job(source, name_target(source, _key(source), output, _key, suffix, ext, extras))]
    if source.is_file() and not output.is_dir():
        check_folder_name(output)
    left_out = Counter() if left_out is None else left_out
    root, sources = find_sources(source, output, recursive, left_out)
    if source.is_dir():
        suffix, sources = set_apart(sources, root, output, _key, _key, suffix, left_out)
    homes = {path.parent.resolve() for path in sources} if source.is_dir() else set()

    def key(path: Path) -> str:
        # Through a broken link into a folder of inputs, an output would be an input of the next run.
        is_broken = os.path.islink(path) and not path.exists()
        return "" if is_broken and path.resolve().parent in homes else _key(path)

    taken = {_key(path) for path in sources} | {""}
    targets = name_targets(sources, root, output, taken, key, suffix, ext, extras, frames)
    return [Job(path, target) for path, target in zip(sources, targets, strict=True)]


def find_sources(source: Path, output: Path | None, recursive: bool, left_out: Counter[str]) -> tuple[Path, list[Path]]:
    """The folder that relative names start from, and the images; those in the folder ``output`` are left out.

    Raises:
        AMDRestoreError: the source does not exist, cannot be listed, or holds no image.
    """
    if source.is_file():
        return source.parent, [source]
    if source.exists() and not source.is_dir():
        raise AMDRestoreError(f"{source}: neither a file nor a folder; read a pipe with -i -")
    if not source.is_dir():
        raise AMDRestoreError(f"{source}: no such file or folder; check -i")
    try:
        found = sorted(path for path in _walk(source, output, recursive, left_out) if is_input(path.name, left_out))
    except OSError as error:
        raise AMDRestoreError(f"{source}: cannot be listed ({error.strerror}); check its permissions") from error
    if not found:
        advice = "name another folder" if recursive else "name another folder, or look deeper with --recursive"
        raise AMDRestoreError(f"{source}: no image in this folder{omissions('left out', left_out)}; {advice}")
    return source, found


def is_input(name: str, left_out: Counter[str]) -> bool:
    """Whether the name of a file is that of an image, and no hidden one; ``left_out`` counts the others."""
    from amd_restore.image_io import READABLE_SUFFIXES

    path = PurePosixPath(name)
    if any(part.startswith(".") for part in path.parts):
        left_out["hidden"] += 1
    elif path.suffix.lower() in READABLE_SUFFIXES:
        return True
    else:
        left_out[path.suffix.lower() or "without suffix"] += 1
    return False


def omissions(what: str, counts: Counter[str]) -> str:
    """``what`` happened to how many of which kind, as the end of a sentence."""
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted((+counts).items()))
    return f"; {what}: {kinds}" if kinds else ""


def set_apart(
    sources: Sequence[AnyPath],
    root: PurePath,
    output: PurePath,
    key: Callable[[Any], str],
    output_key: Callable[[Any], str],
    suffix: str,
    left_out: Counter[str],
) -> tuple[str, list[AnyPath]]:
    """Where outputs lie among the inputs: the suffix that they all get, and the inputs without earlier outputs.

    Those are known by their names: that of another input, the suffix, and what :func:`name_targets` or an extra adds.
    """
    from amd_restore.image_io import READABLE_SUFFIXES

    homes = {path.parent: key(path.parent) for path in sources}
    goals = {folder: output_key(output / folder.relative_to(root)) for folder in homes}
    if not set(homes.values()) & set(goals.values()):
        return suffix, list(sources)
    suffix = suffix or _RESTORED
    mark = re.compile(f"(?={re.escape(suffix.casefold())})")
    kinds = "|".join(name[1:] for name in READABLE_SUFFIXES)
    rest = re.compile(rf"(_({kinds}))?({_RESTORED})*(_(sample\d+|uncertainty|compare))?")
    names = {(goals[path.parent], path.stem.casefold()) for path in sources}

    def is_output(path: AnyPath) -> bool:
        stem, ends = path.stem.casefold(), len(suffix.casefold())
        return any(
            (homes[path.parent], stem[: found.start()]) in names and rest.fullmatch(stem[found.start() + ends :])
            for found in mark.finditer(stem)
        )

    kept = [path for path in sources if not is_output(path)]
    if len(kept) < len(sources):
        left_out["earlier outputs"] += len(sources) - len(kept)
    return suffix, kept


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
        _check_extras(path, target, extras, taken, key)
    return targets


def name_target(
    source: PurePath,
    source_key: str,
    output: AnyPath,
    key: Callable[[AnyPath], str],
    suffix: str,
    ext: str,
    extras: Sequence[str],
) -> AnyPath:
    """Output of one file, named as :func:`plan_jobs` says; arguments and errors as :func:`name_targets`."""
    target = output.with_name(f"{output.stem}{suffix}{EXTENSIONS.get(ext, output.suffix)}")
    while key(target) == source_key:
        target = _restored(target)
    _check_extras(source, target, extras, {source_key}, key)
    return target


def _check_extras(
    source: PurePath, target: AnyPath, extras: Sequence[str], taken: set[str], key: Callable[[AnyPath], str]
) -> None:
    for what in extras:
        extra = _extra(target, what)
        if key(extra) in taken:
            raise AMDRestoreError(f"{source}: {extra} would replace another picture; choose a --suffix")


def is_image_name(path: PurePath, frames: bool = False) -> bool:
    """Whether the suffix of ``path`` is that of a format that can be written, with ``frames`` also of animations."""
    from amd_restore.image_io import FRAME_SUFFIXES, SUFFIXES

    return path.suffix.lower() in (*SUFFIXES, *(FRAME_SUFFIXES if frames else ()))


def check_folder_name(output: PurePath) -> None:
    """Refuse a folder with the name of an animation, for one file.

    Raises:
        AMDRestoreError: it has.
    """
    if is_image_name(output, frames=True):
        raise AMDRestoreError(f"{output}: {output.suffix} files are written with --frames only; add it, or name a .png")


def is_done(target: str | Path) -> bool:
    """Whether an output is there; a folder is none, nor is the empty file that another program may have left."""
    try:
        status = os.stat(target)
    except OSError:
        return False
    return not stat.S_ISDIR(status.st_mode) and (status.st_size > 0 or not stat.S_ISREG(status.st_mode))


def check_name(path: PurePath) -> None:
    """Refuse a name that no file system takes, before the work.

    Raises:
        AMDRestoreError: it is too long.
    """
    length = len(os.fsencode(path.name))
    if length > LONGEST_NAME:
        raise AMDRestoreError(
            f"the output would have a name of {length} bytes, at most {LONGEST_NAME} can be; rename it"
        )


def check_writable(folder: Path) -> None:
    """Make the output folder, try it, so that a long run does not end in nothing, and clear what a killed run left.

    Raises:
        AMDRestoreError: it cannot be made or written to.
    """
    probe = folder / ".amd-restore.probe"
    with user_error(f"{folder}: cannot make this folder", "name another folder with -o"):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        try_writing(probe)  # killed in between, it leaves a temporary file, which the next run clears
    except AMDRestoreError as error:
        reason = str(error).removeprefix(f"cannot write {probe}: ").split(";")[0]
        raise AMDRestoreError(f"{folder}: cannot write there ({reason}); name another folder with -o") from error


def clear_stale(jobs: list[Job]) -> int:
    """Remove temporary files that a killed run left beside the outputs of ``jobs``; returns how many."""
    # Behind a link, the temporary file lies beside the file that it leads to.
    return sum(map(remove_stale, sorted({os.path.dirname(os.path.realpath(job.target)) for job in jobs})))


def _walk(folder: Path, output: Path | None, recursive: bool, left_out: Counter[str]) -> Iterator[Path]:
    """Files; links to folders are not entered, for they may lead in circles, nor is a folder of outputs."""
    above = output is not None and folder.resolve() in output.resolve().parents
    skipped = output.resolve() if output is not None and above else None

    def fail(error: OSError) -> None:
        if Path(error.filename) == folder:  # A locked subfolder does not stop the run.
            raise error
        left_out["locked folders"] += 1

    for parent, folders, names in os.walk(folder, onerror=fail):
        for name in names:
            path = Path(parent, name)
            if path.is_file():
                yield path
            else:
                left_out["broken links" if path.is_symlink() else "no files"] += 1
        entered = []
        for name in folders:
            path = Path(parent, name)
            if path.resolve() == skipped:
                left_out[IN_OUTPUT] += sum(len(names) for _, _, names in os.walk(path)) if recursive else 0
            elif name.startswith(".") or not recursive or path.is_symlink():
                kind = "hidden" if name.startswith(".") else "links to folders" if path.is_symlink() else "folders"
                left_out[kind] += 1
            else:
                entered.append(name)
        folders[:] = entered


def _extra(target: AnyPath, what: str) -> AnyPath:
    suffix = target.suffix if what.startswith("sample") else ".png"
    return target.with_name(f"{target.stem}_{what}{suffix}")


def _target(path: PurePath, root: PurePath, output: AnyPath, suffix: str, ext: str, frames: bool) -> AnyPath:
    extension = EXTENSIONS.get(ext, path.suffix)
    target = output / path.relative_to(root).parent / f"{path.stem}{suffix}{extension}"
    # A single file may have any name; its content decides.
    return target if is_image_name(target, frames) else target.with_name(f"{path.stem}{suffix}.png")


def _restored(target: AnyPath) -> AnyPath:
    return target.with_name(f"{target.stem}{_RESTORED}{target.suffix}")


def _key(path: Path) -> str:
    # Two names that differ in case only are one file on macOS and Windows.
    return str(path.resolve()).casefold()
