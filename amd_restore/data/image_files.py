"""Image files of folders: listing, pairing and checks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from amd_restore.atomic import option_path
from amd_restore.errors import AMDRestoreError

# All names of PNG, JPEG, WebP, BMP and TIFF, as in image_io/formats.py.
EXTENSIONS = {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo"}
EXTENSIONS |= {".webp", ".bmp", ".dib", ".tif", ".tiff"}


def list_images(
    folder: str | Path,
    suffixes: Collection[str] = EXTENSIONS,
    is_deep: bool = False,
    hidden: list[Path] | None = None,
) -> list[Path]:
    """Return image files of ``folder``, sorted; ``${VARIABLES}`` and ``~`` are expanded.

    Args:
        folder: where to look.
        suffixes: of images, in lower case.
        is_deep: look into folders below as well.
        hidden: receives the hidden files among them, such as ``._a.png``, which are metadata of a file system.

    Raises:
        AMDRestoreError: the folder is missing or has no image.
    """
    path = option_path(folder)
    if not path.is_dir():
        raise AMDRestoreError(f"{path}: no such folder; check the path")
    files = sorted(p for p in path.glob("**/*" if is_deep else "*") if p.suffix.lower() in suffixes and not p.is_dir())
    visible = [p for p in files if not p.name.startswith(".")]
    if not visible:
        raise AMDRestoreError(f"{path}: no image in this folder ({', '.join(sorted(suffixes))})")
    if hidden is not None:
        hidden += [p for p in files if p.name.startswith(".")]
    return visible


def read_rgb(path: Path) -> np.ndarray:
    """Read RGB float32 (H, W, 3) in [0, 1].

    Raises:
        AMDRestoreError: OpenCV cannot read the file.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise AMDRestoreError(f"{path}: not a readable image")
    return np.asarray(image[:, :, ::-1], dtype=np.float32) / 255.0


class UnusableError(AMDRestoreError):
    """An image cannot be used; the message is the reason alone."""


def size_of(path: Path) -> tuple[int, int]:
    """Return height and width of the upright image, which is read completely.

    Raises:
        UnusableError: it cannot be.
    """
    with _reasons(), Image.open(path) as image:
        image.load()  # Pillow fails on a truncated file, where OpenCV fills the rest with grey.
        return read_rgb(path).shape[:2]


def size_in_header(path: Path) -> tuple[int, int]:
    """Return height and width of the upright image from its header.

    Raises:
        UnusableError: it has none that can be read.
    """
    with _reasons(), Image.open(path) as image:
        width, height = image.size
        is_turned = image.getexif().get(274, 1) >= 5
    return (width, height) if is_turned else (height, width)


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    try:
        yield
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise UnusableError(f"more than {limit:.0f} megapixels; cut it up") from error
    except (AMDRestoreError, OSError, ValueError, SyntaxError) as error:
        raise UnusableError("cannot be read") from error


def usable_sizes(
    files: Sequence[Path], measure: Callable[[Path], tuple[int, int]], left_out: list[str]
) -> list[tuple[int, int]] | None:
    """Return what ``measure`` gives for each file; None if one cannot be used, which ``left_out`` receives."""
    sizes = []
    for file in files:
        try:
            sizes.append(measure(file))
        except UnusableError as error:
            left_out.append(f"{file.name} ({error})")
            return None
    return sizes


def low_quality_name(template: str, stem: str) -> str:
    """Return the name without suffix of a clean image's low-quality image.

    Raises:
        AMDRestoreError: invalid ``filename_tmpl``.
    """
    try:
        name = template.format(stem)
    except (IndexError, KeyError, ValueError) as error:
        raise AMDRestoreError(f"filename_tmpl: {template!r} must hold {{}}, the clean image's name") from error
    if stem not in name:
        raise AMDRestoreError(f"filename_tmpl: {template!r} must hold {{}}, the clean image's name")
    return name


def pair_by_name(clean: Sequence[Path], low_quality: Sequence[Path], template: str) -> list[Path]:
    """Return the low-quality file of each clean one, with any suffix.

    Args:
        clean: files of one folder.
        low_quality: files of another.
        template: name of the low-quality file without its suffix, from the clean one's: ``{}x4``.

    Raises:
        AMDRestoreError: a file has no counterpart, or two; the message names both sides.
    """
    by_name: dict[str, Path] = {}
    for file in low_quality:
        if file.stem in by_name:
            raise AMDRestoreError(f"{by_name[file.stem]} and {file.name}: two low-quality images of one name")
        by_name[file.stem] = file
    pairs: dict[Path, Path] = {}
    for file in clean:
        name = low_quality_name(template, file.stem)
        if name not in by_name:
            near = next((other for other in by_name if file.stem in other), next(iter(by_name)))
            raise AMDRestoreError(
                f"{file}: no {name}.* for it in {low_quality[0].parent}, which has {by_name[near].name}; "
                f"set filename_tmpl (now {template!r})"
            )
        if by_name[name] in pairs:
            raise AMDRestoreError(f"{file} and {pairs[by_name[name]].name}: two clean images of one name")
        pairs[by_name[name]] = file
    return list(pairs)


def check_pair(clean: Path, size: tuple[int, int], low_quality: Path, small: tuple[int, int], scale: int) -> None:
    """Check the sizes (height, width) of a pair: ``scale`` times as many pixels, plus less than a low-quality pixel.

    Raises:
        AMDRestoreError: the sizes do not match; the message names both files.
    """
    if all(scale * side <= whole < scale * (side + 1) for side, whole in zip(small, size, strict=True)):
        return
    sizes = [f"{file} is {width}x{height}" for file, (height, width) in ((low_quality, small), (clean, size))]
    raise AMDRestoreError(f"{', '.join(sizes)}: not {scale} times that (scale: {scale})")


def usable_pairs(
    paths: Sequence[Mapping[str, str]], least: int, scale: int
) -> tuple[list[Mapping[str, str]], list[str]]:
    """Return readable pairs ``{gt_path, lq_path}`` by name, and unusable ones with the reason.

    Args:
        paths: pairs of files.
        least: smallest side of a clean image in output pixels.
        scale: upscaling factor.

    Raises:
        AMDRestoreError: as :func:`check_pair`.
    """
    usable, left_out = list[Mapping[str, str]](), list[str]()
    for pair in sorted(paths, key=lambda pair: pair["gt_path"]):
        clean, low_quality = Path(pair["gt_path"]), Path(pair["lq_path"])
        sizes = usable_sizes((clean, low_quality), size_in_header, left_out)
        if sizes is None:
            continue
        size, small = sizes
        check_pair(clean, size, low_quality, small, scale)
        if min(size) < least:
            left_out.append(f"{clean.name} ({size[1]}x{size[0]}, less than {least} pixels)")
        else:
            usable.append(pair)
    return usable, left_out
