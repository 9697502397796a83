"""Image files of a folder: which there are, which belong together, which can be used."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from amd_restore.atomic import expanded
from amd_restore.errors import AMDRestoreError

# All names of PNG, JPEG, WebP, BMP and TIFF, as in image_io/formats.py.
EXTENSIONS = {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo"}
EXTENSIONS |= {".webp", ".bmp", ".dib", ".tif", ".tiff"}


def list_images(folder: str | Path) -> tuple[list[Path], list[Path]]:
    """Image files directly in ``folder`` and hidden ones such as ``._a.png``, both sorted by name.

    ``${VARIABLES}`` and ``~`` are expanded.

    Raises:
        AMDRestoreError: when the folder is missing or holds no image.
    """
    path = expanded(os.path.expandvars(folder))
    if not path.is_dir():
        raise AMDRestoreError(f"{path}: no such folder; check dataroot_gt / dataroot_lq in the option file")
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in EXTENSIONS)
    hidden = [p for p in files if p.name.startswith(".")]
    if len(files) == len(hidden):
        raise AMDRestoreError(f"{path}: no image in this folder")
    return [p for p in files if p not in hidden], hidden


def read_rgb(path: Path) -> np.ndarray:
    """RGB float32 (H, W, 3) in [0, 1].

    Raises:
        AMDRestoreError: when OpenCV cannot read the file.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise AMDRestoreError(f"{path}: not a readable image")
    return np.asarray(image[:, :, ::-1], dtype=np.float32) / 255.0


def size_of(path: Path) -> tuple[int, int] | None:
    """Height and width of the upright image; None where it cannot be read to its end."""
    try:
        with Image.open(path) as image:
            image.load()  # OpenCV fills what is missing of a truncated file with grey
        return read_rgb(path).shape[:2]
    except (AMDRestoreError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def size_in_header(path: Path) -> tuple[int, int] | None:
    """Height and width of the upright image as its header says; None where there is none."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            is_turned = image.getexif().get(274, 1) >= 5
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return (width, height) if is_turned else (height, width)


def low_quality_name(template: str, stem: str) -> str:
    """Name without suffix of the low-quality image of a clean one.

    Raises:
        AMDRestoreError: ``filename_tmpl`` is no such template.
    """
    try:
        name = template.format(stem)
    except (IndexError, KeyError, ValueError) as error:
        raise AMDRestoreError(f"filename_tmpl: {template!r} must hold {{}}, the clean image's name") from error
    if stem not in name:
        raise AMDRestoreError(f"filename_tmpl: {template!r} must hold {{}}, the clean image's name")
    return name


def pair_by_name(clean: Sequence[Path], low_quality: Sequence[Path], template: str) -> list[Path]:
    """The low-quality file of each clean one, whatever their suffixes.

    Args:
        clean: files of one folder.
        low_quality: files of another.
        template: name of the low-quality file without its suffix, from the clean one's: ``{}x4``.

    Raises:
        AMDRestoreError: a file without its counterpart, or with two; names both sides.
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
    """Compare the sizes (height, width) of a pair: the clean one has ``scale`` times as many pixels, and less than a
    low-quality pixel besides.

    Raises:
        AMDRestoreError: they differ otherwise; names both files.
    """
    if all(scale * side <= whole < scale * (side + 1) for side, whole in zip(small, size, strict=True)):
        return
    sizes = [f"{file} is {width}x{height}" for file, (height, width) in ((low_quality, small), (clean, size))]
    raise AMDRestoreError(f"{', '.join(sizes)}: not {scale} times that (scale: {scale})")


def usable_pairs(
    paths: Sequence[Mapping[str, str]], least: int, scale: int
) -> tuple[list[Mapping[str, str]], list[str]]:
    """Pairs ``{gt_path, lq_path}`` whose headers can be read, by name, and what is left out, with the reason.

    Args:
        paths: pairs of files.
        least: side in output pixels that a clean image needs.
        scale: upscaling factor.

    Raises:
        AMDRestoreError: as :func:`check_pair`.
    """
    usable, left_out = [], []
    for pair in sorted(paths, key=lambda pair: pair["gt_path"]):
        clean, low_quality = Path(pair["gt_path"]), Path(pair["lq_path"])
        size, small = size_in_header(clean), size_in_header(low_quality)
        if size is None or small is None:
            left_out.append(f"{(low_quality if size else clean).name} (cannot be read)")
            continue
        check_pair(clean, size, low_quality, small, scale)
        if min(size) < least:
            left_out.append(f"{clean.name} ({size[1]}x{size[0]}, less than {least} pixels)")
        else:
            usable.append(pair)
    return usable, left_out
