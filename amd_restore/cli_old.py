"""Command line: restore one image or a folder of them.

Exit codes: 0 all went well, 1 some image failed, 2 nothing could be started, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from amd_restore import __version__
from amd_restore.errors import AMDRestoreError

# torch is imported when work begins: --help and a mistyped path should answer at once.
if TYPE_CHECKING:
    from amd_restore.pipeline import RestorationPipeline

OK, SOME_FAILED, NOT_STARTED, INTERRUPTED = 0, 1, 2, 130
_EXTENSIONS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tiff"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of argparse's two."""
        self.exit(NOT_STARTED, f"{self.prog}: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Parser of ``inference.py`` and ``amd-restore``."""
    parser = _Parser(description="Enlarge photographs by one to four diffusion steps.")
    add = parser.add_argument
    add("-i", "--input", type=Path, required=True, metavar="PATH", help="image or folder of images")
    add("-o", "--output", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    add(
        "--model",
        default="x4-classical",
        help="released name, .safetensors file or folder (default: %(default)s)",
    )
    add("--steps", type=_at_least(1), metavar="N", help="diffusion steps: 1, 2 or 4 (default: the model's)")
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="another seed, other fine detail (default: %(default)s)",
    )
    add(
        "--tile",
        type=_at_least(0),
        metavar="N",
        help="tile side in input pixels; 0 never tiles (default: automatic)",
    )
    add(
        "--halo",
        type=_at_least(0),
        metavar="N",
        help="input pixels a tile sees of its neighbours (default: 16)",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    add(
        "--dtype",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="arithmetic (default: what is fast here)",
    )
    add("--suffix", default="", metavar="TEXT", help="added to the names of the outputs, as in photo_x4.png")
    add(
        "--ext",
        choices=("auto", *_EXTENSIONS),
        default="auto",
        help="format of the outputs (default: the input's)",
    )
    add("--threads", type=_at_least(1), metavar="N", help="processor threads (default: torch's choice)")
    add("--recursive", action="store_true", help="also the folders inside the folder")
    add("--overwrite", action="store_true", help="replace outputs that exist; without it they are skipped")
    add("--debug", action="store_true", help="show tracebacks")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        return run(options)
    except AMDRestoreError as error:
        _report(str(error), options.debug)
        return NOT_STARTED
    except KeyboardInterrupt:
        _report("interrupted; the images written so far are complete")
        return INTERRUPTED


def run(options: argparse.Namespace) -> int:
    """Plan, load, restore; failures of single images are reported and do not stop the others.

    Raises:
        AMDRestoreError: nothing could be started: no input, no weights, no device, no place to write.
    """
    jobs = plan_jobs(options.input, options.output, options.suffix, options.ext, options.recursive)
    pending = [job for job in jobs if options.overwrite or not job.target.exists()]
    if pending:
        pipeline = _load(options)
        check_writable(options.output)
    else:
        pipeline = None
    start = time.perf_counter()
    failed = sum(not _restore(job, pipeline, options) for job in _with_bar(pending)) if pipeline else 0
    summary = f"restored {len(pending) - failed} of {_count(len(jobs))} into {options.output}/"
    summary += f" in {time.perf_counter() - start:.1f} s"
    if len(pending) < len(jobs):
        summary += f", {len(jobs) - len(pending)} skipped (already there; --overwrite replaces them)"
    if failed:
        summary += f", {failed} failed"
    sys.stdout.write(summary + "\n")
    return SOME_FAILED if failed else OK


@dataclass(frozen=True)
class Job:
    """One image to read and one to write."""

    source: Path
    target: Path


def plan_jobs(source: Path, output: Path, suffix: str = "", ext: str = "auto", recursive: bool = False) -> list[Job]:
    """Inputs with their outputs; no two outputs share a name and none is an input, letter case aside.

    ``a.jpg`` and ``a.png`` that would both become ``a.png`` are written as ``a_jpg.png`` and ``a_png.png``;
    an output that would replace an input gets ``_restored`` added.

    Raises:
        AMDRestoreError: the source does not exist, or holds no image.
    """
    root, sources = _find_sources(source, output, recursive)
    plain = [_target(path, root, output, suffix, ext) for path in sources]
    taken = {_key(path) for path in sources}
    wanted = [_key(target) for target in plain]
    claims = Counter(wanted)
    jobs = []
    for path, target, key in zip(sources, plain, wanted, strict=True):
        if claims[key] > 1:
            target = target.with_name(f"{target.stem}_{path.suffix[1:].lower()}{target.suffix}")
            key = _key(target)
        while key in taken:
            target = target.with_name(f"{target.stem}_restored{target.suffix}")
            key = _key(target)
        taken.add(key)
        jobs.append(Job(path, target))
    return jobs


def check_writable(folder: Path) -> None:
    """Make the output folder and try it, so that a long run does not end in nothing.

    Raises:
        AMDRestoreError: it cannot be made or written to.
    """
    from amd_restore.atomic import write_atomically

    probe = folder / ".amd-restore.probe"
    try:
        write_atomically(probe, b"")
        probe.unlink()
    except AMDRestoreError as error:
        reason = str(error).removeprefix(f"cannot write {probe}: ").split(";")[0]
        raise AMDRestoreError(f"{folder}: cannot write there ({reason}); name another folder with -o") from error


def _find_sources(source: Path, output: Path, recursive: bool) -> tuple[Path, list[Path]]:
    """The folder that relative names start from, and the images."""
    from amd_restore.image_io import SUFFIXES

    if source.is_file():
        return source.parent, [source]
    if not source.is_dir():
        raise AMDRestoreError(f"{source}: no such file or folder; check -i")
    try:
        files = sorted(source.rglob("*") if recursive else source.iterdir())
    except OSError as error:
        raise AMDRestoreError(f"{source}: cannot be listed ({error.strerror}); check its permissions") from error
    skipped = output.resolve()
    inside = source.resolve() in skipped.parents
    found = [
        path
        for path in files
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
        # Results of an earlier run inside the input folder are no inputs.
        and not (inside and skipped in path.resolve().parents)
    ]
    if not found:
        names = " ".join(SUFFIXES)
        advice = "name another folder" if recursive else "name another folder, or look deeper with --recursive"
        raise AMDRestoreError(f"{source}: no image in this folder ({names}); {advice}")
    return source, found


def _target(path: Path, root: Path, output: Path, suffix: str, ext: str) -> Path:
    from amd_restore.image_io import SUFFIXES

    extension = _EXTENSIONS.get(ext, path.suffix)
    if extension.lower() not in SUFFIXES:  # a single file may have any name; its content decides
        extension = ".png"
    return output / path.relative_to(root).parent / f"{path.stem}{suffix}{extension}"


def _key(path: Path) -> str:
    # Two names that differ in case only are one file on macOS and Windows.
    return str(path.resolve()).casefold()


def _load(options: argparse.Namespace) -> RestorationPipeline:
    import torch

    from amd_restore.pipeline import RestorationPipeline

    if options.threads:
        torch.set_num_threads(options.threads)
    dtype: str | torch.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(options.dtype, "auto")
    pipeline = RestorationPipeline.from_pretrained(options.model, options.device, dtype)
    header = pipeline.header
    if options.steps and options.steps not in header.steps:
        trained = ", ".join(map(str, header.steps))
        _report(f"note: {header.name} was made for {trained} steps, not {options.steps}; expect lesser quality")
    return pipeline


def _restore(job: Job, pipeline: RestorationPipeline, options: argparse.Namespace) -> bool:
    """Restore one image; returns whether it worked, having reported it if not."""
    from amd_restore.image_io import Picture, read_image, write_image
    from amd_restore.pipeline import DEFAULT_HALO

    try:
        picture = read_image(job.source)
        with _TileBar(job.source.name) as bar:
            pixels = pipeline.restore_image(
                picture.pixels,
                num_steps=options.steps,
                seed=options.seed,
                tile=options.tile,
                halo=DEFAULT_HALO if options.halo is None else options.halo,
                progress=bar.update,
            )
        write_image(job.target, Picture(pixels, picture.icc, picture.exif))
    except AMDRestoreError as error:
        text = str(error)
        _report(text if str(job.source) in text else f"{job.source}: {text}", options.debug)
        return False
    except Exception as error:  # a bug of ours must not cost the other images; it is reported and counted
        reason = f"unexpected {type(error).__name__} ({error}); run with --debug and report it"
        _report(f"{job.source}: {reason}", options.debug)
        return False
    return True


class _TileBar:
    """A second bar for the tiles of one image; stays away when there is only one tile."""

    def __init__(self, name: str) -> None:
        from tqdm import tqdm

        self._tqdm, self._name = tqdm, name
        self._bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> _TileBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, done: int, total: int) -> None:
        if total == 1:
            return
        if self._bar is None:
            self._bar = self._tqdm(total=total, desc=self._name, unit="tile", leave=False, disable=None)
        self._bar.update(done - self._bar.n)


def _with_bar(jobs: list[Job]) -> Iterable[Job]:
    from tqdm import tqdm

    return tqdm(jobs, unit="image", disable=None)  # None: only on a terminal


def _report(message: str, debug: bool = False) -> None:
    """One line on stderr, beside the progress bar; with ``debug`` the traceback before it."""
    from tqdm import tqdm

    if debug and sys.exc_info()[0] is not None:
        tqdm.write(traceback.format_exc(), file=sys.stderr)
    tqdm.write(" ".join(message.split()), file=sys.stderr)


def _count(images: int) -> str:
    return f"{images} image" if images == 1 else f"{images} images"


def _at_least(lowest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if value < lowest:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {lowest}, not {text!r}")
        return value

    return number
