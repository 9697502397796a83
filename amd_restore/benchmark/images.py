"""Test sets as uint8 RGB arrays."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from amd_restore.data.image_files import list_images
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import SUFFIXES, read_image
from amd_restore.registry import import_basicsr

if TYPE_CHECKING:
    from amd_restore.benchmark.options import DatasetOptions

Image = NDArray[np.uint8]  # (H, W, 3), RGB


@dataclass(frozen=True)
class Pair:
    """Test image.

    Attributes:
        name: file name without suffix.
        gt: ground truth (sH, sW, 3); None for an input only.
        lq: input (H, W, 3).
        scale: s, used without ground truth only.
        aliases: other names in a folder of results.
    """

    name: str
    gt: Image | None
    lq: Image
    scale: int = 4
    aliases: tuple[str, ...] = ()

    @property
    def output_size(self) -> tuple[int, int]:
        """Return height and width of a restoration."""
        height, width = self.lq.shape[:2] if self.gt is None else self.gt.shape[:2]
        return (height, width) if self.gt is not None else (height * self.scale, width * self.scale)


def read_rgb(path: Path) -> Image:
    """Read RGB uint8 (H, W, 3); gray is repeated.

    Raises:
        AMDRestoreError: unreadable, or with alpha or 16 bits, for which no metric here is defined.
    """
    pixels = read_image(path).pixels
    if pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
        raise AMDRestoreError(f"{path}: benchmarks need 8-bit gray or RGB images without alpha")
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def resize_to_height(image: Image, height: int) -> NDArray[np.float32]:
    """BasicSR's MATLAB-like ``imresize`` to ``height`` at the same aspect, antialiased; [0, 1], not clipped."""
    if height == image.shape[0]:
        return (image / 255.0).astype(np.float32)
    import_basicsr()
    from basicsr.utils.matlab_functions import imresize

    factor = height / image.shape[0]
    if math.ceil(image.shape[0] * factor) != height:
        factor *= 1 - 1e-12  # imresize rounds the size up, and 1/3 of 258 can be 86.00000000000001.
    result: NDArray[np.float32] = imresize(image.astype(np.float64) / 255.0, factor)
    return result


def to_uint8(image: NDArray[np.floating]) -> Image:
    """Round [0, 1] to bytes."""
    return (np.clip(image, 0.0, 1.0) * 255.0).round().astype(np.uint8)


class TestSet:
    """Pairs (or inputs alone) of a dataset, read one at a time.

    Args:
        name: name in the tables.
        options: folders and limits.
        scale: upscaling factor.

    Raises:
        AMDRestoreError: missing folders or inputs.
    """

    __test__ = False  # not a pytest class

    def __init__(self, name: str, options: DatasetOptions, scale: int) -> None:
        self.name, self.options, self.scale = name, options, scale
        if scale == 1 and options.lq is None:
            raise AMDRestoreError(f"{name}: at scale 1 the inputs must be given (lq); bicubic would change nothing")
        self.files = list_images(options.gt or options.lq or "", SUFFIXES)[: options.limit]
        self.inputs: list[Path | None] = [None] * len(self.files)
        if options.gt is None:
            self.inputs = [*self.files]
        elif options.lq is not None:
            by_name = {path.stem.removesuffix(options.lq_suffix): path for path in list_images(options.lq, SUFFIXES)}
            names = [path.stem.removesuffix(options.gt_suffix) for path in self.files]
            missing = [name for name in names if name not in by_name]
            if missing:
                raise AMDRestoreError(f"{options.lq}: no input for {', '.join(missing[:3])} of {options.gt}")
            self.inputs = [by_name[name] for name in names]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Pair]:
        """Yield pairs by name.

        Raises:
            AMDRestoreError: an input is not 1 / scale of its ground truth.
        """
        for gt_path, lq_path in zip(self.files, self.inputs, strict=True):
            if self.options.gt is None:
                yield Pair(gt_path.stem, None, self._crop(read_rgb(gt_path), self.scale), self.scale)
                continue
            gt = read_rgb(gt_path)
            if lq_path is None:
                height, width = (side // self.scale * self.scale for side in gt.shape[:2])
                gt = self._crop(gt[:height, :width], 1)
                lq = to_uint8(resize_to_height(gt, gt.shape[0] // self.scale))
            else:
                lq = read_rgb(lq_path)
                if gt.shape[:2] != tuple(self.scale * side for side in lq.shape[:2]):
                    raise AMDRestoreError(
                        f"{lq_path}: {lq.shape[1]}x{lq.shape[0]} is not 1/{self.scale} of {gt_path} "
                        f"({gt.shape[1]}x{gt.shape[0]})"
                    )
                lq, gt = self._crop(lq, self.scale), self._crop(gt, 1)
            aliases = () if lq_path is None or lq_path.stem == gt_path.stem else (lq_path.stem,)
            yield Pair(gt_path.stem, gt, lq, self.scale, aliases)

    def fingerprint(self) -> str:
        """Return a hash of file contents, names, scale and crop."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.scale, self.options.crop, self.options.gt is None)).encode())
        for path in (*self.files, *self.inputs):
            if path is not None:
                digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def _crop(self, image: Image, divisor: int) -> Image:
        """Cut the central square; ``divisor`` is 1 for ground truth and ``scale`` for inputs."""
        if self.options.crop is None:
            return image
        side = self.options.crop // self.scale * self.scale // divisor
        unit = self.scale // divisor
        top, left = (max(0, (length - side) // 2 // unit * unit) for length in image.shape[:2])
        return image[top : top + side, left : left + side]
