"""Validation and test images from folders: pairs, or ground truth alone with ``lq`` made on the fly."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from amd_restore.data.base import to_8bit
from amd_restore.data.degradations import BicubicDegradation, build_degradation
from amd_restore.data.image_files import check_pair, list_images, pair_by_name, read_rgb, size_of, usable_sizes
from amd_restore.errors import AMDRestoreError
from amd_restore.options.blocks import DegradationOptions
from amd_restore.options.fields import Limits, PathText
from amd_restore.registry import DATASET_REGISTRY  # Import this first: it patches and imports BasicSR.

from basicsr.utils.matlab_functions import imresize  # isort: skip


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


@DATASET_REGISTRY.register()
class GTDataset(Dataset[dict[str, Any]]):
    """Whole images, in pairs by name or with a generated low-quality side.

    Hidden, unreadable and tiny files are left out. Without ``dataroot_lq`` the low-quality side is BasicSR's
    MATLAB-like ``imresize`` at 8 bits, or, for types other than ``bicubic``, a degradation seeded by
    ``degradation_seed`` and the file name.

    Args:
        dataroot_gt: folder of clean images.
        scale: upscaling factor of the run.
        dataroot_lq: folder of low-quality images.
        filename_tmpl: name of the low-quality file without suffix, from that of the clean file: ``{}x4``.
        limit: number of images to use, the first ones.
        gt_size: side of a centre crop in output pixels, without ``dataroot_lq``; 0: the whole image.
        degradation: degradation without ``dataroot_lq``; null: the option file's ``degradation``.
        degradation_seed: seed of the degradation, together with the file name.

    Attributes:
        left_out: unused files, with the reason.

    Raises:
        AMDRestoreError: a folder is missing or has no usable image, or pairs do not match.
    """

    def __init__(
        self,
        dataroot_gt: PathText,
        scale: int,
        dataroot_lq: PathText | None = None,
        filename_tmpl: str = "{}",
        limit: Annotated[int, Limits(low=1)] | None = None,
        gt_size: Annotated[int, Limits(low=0)] = 0,
        degradation: DegradationOptions | Mapping[str, Any] | None = None,
        degradation_seed: Annotated[int, Limits(low=0)] = 0,
    ) -> None:
        self.scale, self.size, self.seed = scale, gt_size, degradation_seed
        made = build_degradation(degradation or {}, scale)
        self.degradation = None if isinstance(made, BicubicDegradation) else made
        hidden: list[Path] = []
        clean = list_images(dataroot_gt, hidden=hidden)
        files: list[Path | None] = [None] * len(clean)
        if dataroot_lq is not None:
            if gt_size:
                raise AMDRestoreError("gt_size: pairs are used whole; leave it out")
            files = [*pair_by_name(clean, list_images(dataroot_lq), filename_tmpl)]
        self.pairs: list[tuple[Path, Path | None]] = []
        self.left_out = [f"{file.name} (hidden)" for file in hidden]
        for pair in zip(clean, files, strict=True):
            if limit is None or len(self.pairs) < limit:
                self._add(*pair)
        if not self.pairs:
            raise AMDRestoreError(f"{dataroot_gt}: no usable image; left out: {', '.join(self.left_out[:3])}")

    def _add(self, gt: Path, lq: Path | None) -> None:
        """Add a clean image, with its low-quality image if any, or record why not."""
        sizes = usable_sizes((gt, lq) if lq else (gt,), size_of, self.left_out)
        if sizes is None:
            return
        height, width = sizes[0]
        if min(height, width) < 4 * self.scale:
            self.left_out.append(f"{gt.name} ({width}x{height}, less than {4 * self.scale} pixels)")
            return
        if lq is not None:
            check_pair(gt, (height, width), lq, sizes[1], self.scale)
        self.pairs.append((gt, lq))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return ``gt`` (3, sH, sW) and ``lq`` (3, H, W) in [0, 1], with their paths."""
        gt_path, lq_path = self.pairs[index]
        gt = read_rgb(gt_path)
        if lq_path is not None:
            lq = _tensor(read_rgb(lq_path))
            gt = gt[: lq.shape[1] * self.scale, : lq.shape[2] * self.scale]
        else:
            height, width = gt.shape[:2]
            if self.size and min(height, width) >= self.size:
                top, left = (height - self.size) // 2, (width - self.size) // 2
                gt = gt[top : top + self.size, left : left + self.size]
            # Crop to sides that are multiples for every scale and the space-to-depth factor.
            multiple = 4 * self.scale
            gt = gt[: gt.shape[0] // multiple * multiple, : gt.shape[1] // multiple * multiple]
            lq = self._degrade(gt, gt_path.name)
        return {"gt": _tensor(gt), "lq": lq, "gt_path": str(gt_path), "lq_path": str(lq_path or gt_path)}

    def _degrade(self, gt: np.ndarray, name: str) -> Tensor:
        if self.degradation is not None:
            # Seed by name, so that other images in the folder have no effect.
            self.degradation.reseed((self.seed << 32) + zlib.crc32(name.encode()))
            lq: Tensor = self.degradation(_tensor(gt)[None])[0]
            return lq
        return to_8bit(_tensor(imresize(gt, 1 / self.scale) if self.scale > 1 else gt).float())
